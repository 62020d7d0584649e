import { MAX_FILE_BYTES } from '../read-file.js';
import type { z } from 'zod';
import { unitDoubt } from './name-patterns.js';
import { hasCondition, policySchema, policyVersion, unknownKey } from './schema.js';
import type { Policy } from './schema.js';
import { quote } from './words.js';
import { readYaml } from './yaml.js';
import type { Finding, Position } from './yaml.js';

/** One finding in a policy file. Line and column count from 1; both are 0 when the file could not be read at all. */
export interface PolicyProblem {
  file: string;
  line: number;
  column: number;
  /** One sentence: what is wrong and what to do about it. */
  message: string;
}

/** Where the parts of a policy stand in its file. */
export interface PolicyPlaces {
  /** Undefined where the file has no such section. */
  defaults: Position | undefined;
  /** In the order of the rules. */
  rules: Position[];
}

export type PolicyResult =
  | { ok: true; policy: Policy; warnings: PolicyProblem[]; places: PolicyPlaces }
  | { ok: false; problems: PolicyProblem[] };

/** `file:line:column: message`, which editors and terminals link. */
export function formatProblem({ file, line, column, message }: PolicyProblem): string {
  return [file, ...(line > 0 ? [line, column] : []), ` ${message}`].join(':');
}

/** Reads a policy from YAML text. Never throws: whatever is wrong becomes a problem with its place in the file. */
export function parsePolicy(text: string, fileName: string): PolicyResult {
  const inFile = (findings: Finding[]): PolicyProblem[] =>
    // What stands behind an alias is found once for each use of it.
    [...new Map(findings.map((found) => [`${found.line}:${found.column}:${found.message}`, found])).values()]
      .sort((a, b) => a.line - b.line || a.column - b.column)
      .map(({ line, column, message }) => ({ file: fileName, line, column, message }));
  const failure = (findings: Finding[]): PolicyResult => ({ ok: false, problems: inFile(findings) });
  const atStart = { line: 1, column: 1 };

  if (Buffer.byteLength(text) > MAX_FILE_BYTES)
    return failure([{ ...atStart, message: 'the file is larger than 1 MiB: shorten it, for example with globs' }]);
  const { value, findings, locate, locateKey } = readYaml(text.replace(/^\uFEFF/, ''));
  if (findings.length > 0) return failure(findings);
  if (value === null)
    return failure([{ ...atStart, message: `the policy is empty: write at least version: ${policyVersion}` }]);

  const { data, error } = policySchema.safeParse(value);
  if (error)
    return failure(
      error.issues
        .flatMap(specific)
        .flatMap((issue): Finding[] =>
          issue.code === 'unrecognized_keys'
            ? issue.keys.map((key) => ({ ...locateKey(issue.path, key), message: unknownKey(key, issue.path) }))
            : [{ ...locate(issue.path), message: issue.message }],
        ),
    );
  const warnings = [
    ...unreachable(data).map(({ index, message }) => ({ ...locate(['rules', index]), message })),
    ...doubtfulUnits(data).map(({ path, message }) => ({ ...locate(path), message })),
  ];
  const places: PolicyPlaces = {
    defaults: 'defaults' in (value as object) ? locateKey([], 'defaults') : undefined,
    rules: data.rules.map((_, index) => locate(['rules', index])),
  };
  return { ok: true, policy: data, warnings: inFile(warnings), places };
}

/** For a union of one and many, the issues within the list if a list was written. */
function specific(issue: z.core.$ZodIssue): z.core.$ZodIssue[] {
  const branches = issue.code === 'invalid_union' ? issue.errors : [];
  const inList = branches.find((issues) => issues.some(({ path }) => path.length > 0));
  return inList?.map((inner) => ({ ...inner, path: [...issue.path, ...inner.path] })) ?? [issue];
}

/** Units that are valid and hardly meant. A single one stands where its list would. */
function doubtfulUnits({ rules }: Policy): { path: PropertyKey[]; message: string }[] {
  return rules.flatMap(({ unit = [] }, rule) =>
    unit.flatMap((pattern, index) => {
      const doubt = unitDoubt(pattern);
      return doubt === undefined
        ? []
        : [{ path: ['rules', rule, 'unit', index], message: `unit ${quote(pattern)} ${doubt}` }];
    }),
  );
}

/** Rules behind one that matches everything. */
function unreachable({ rules }: Policy): { index: number; message: string }[] {
  const last = rules.findIndex((rule) => !hasCondition(rule));
  const name = quote(rules[last]?.name ?? '');
  return rules.flatMap((rule, index) =>
    last < 0 || index <= last
      ? []
      : [
          {
            index,
            message: `rule ${quote(rule.name)} never matches behind ${name}, which has no condition: move it up`,
          },
        ],
  );
}
