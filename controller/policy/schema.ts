import { z } from 'zod';
import { cgroupProblem, programProblem } from './glob.js';
import { containerProblem, podProblem, unitProblem } from './name-patterns.js';
import { formatSize, parseSize, sizePattern } from './size.js';
import { anyOf, quote, suggest } from './words.js';

/** What may be done with a connection, from the least to the most strict. */
export const actions = ['accelerate', 'observe', 'tcp'] as const;
export type Action = (typeof actions)[number];

/** What may be done with a connection that is accelerated once it is a one-way stream. */
export const streamings = ['measure', 'tcp'] as const;
export type Streaming = (typeof streamings)[number];

/** The version of the file format this build reads. */
export const policyVersion = 1;

const backlogRange = { least: 64 << 10, most: 64 << 20 };
const sizeHelp = `not a usable size: write bytes or a size such as 256KiB, from ${formatSize(backlogRange.least)} to ${formatSize(backlogRange.most)}`;
const portHelp = 'not a port: write one such as 5432 or a range such as 6000-6010, within 1-65535';
const promoteAfterHelp = 'promoteAfter must be a number of receives from 1 to 65535: write for example 16';
const programHelp = 'a program must be a text: write the process name, in quotes if it looks like a number';

const action = z
  .enum(actions, {
    error: ({ input }) =>
      typeof input === 'string'
        ? `unknown action ${quote(input)}: ${suggest(input, actions)}`
        : `the action must be a word: write ${anyOf(actions)}`,
  })
  .meta({
    description:
      'accelerate: redirect when it is safe; observe: watch and count only; tcp: leave the connection alone.',
  });

const blockingReaders = z.boolean('blockingReaders must be true or false: write one of the two without quotes').meta({
  description: 'Also redirect to readers that block in recv; a signal may then make their recv return EAGAIN.',
});

const streams = z
  .enum(streamings, {
    error: ({ input }) =>
      typeof input === 'string'
        ? `unknown value ${quote(input)} of streams: ${suggest(input, streamings)}`
        : `streams must be a word: write ${anyOf(streamings)}`,
  })
  .meta({
    description:
      'measure: a stream is redirected while that is measured to be faster, with 8 times the backlog; tcp: never.',
  });

const promoteAfter = z
  .int(promoteAfterHelp)
  .min(1, promoteAfterHelp)
  .max(65535, promoteAfterHelp)
  .meta({ description: 'Receives seen at each end before a connection is considered.' });

const backlog = z
  .union(
    [
      z.int(sizeHelp).min(backlogRange.least, sizeHelp).max(backlogRange.most, sizeHelp),
      z.string(sizeHelp).regex(sizePattern, sizeHelp),
    ],
    sizeHelp,
  )
  .transform((size) => (typeof size === 'number' ? size : (parseSize(size) ?? NaN)))
  .refine((bytes) => bytes >= backlogRange.least && bytes <= backlogRange.most, sizeHelp)
  .meta({
    description: 'Most bytes that may wait in the redirected queue of one direction; more goes through TCP.',
  });

const cgroup = checkedText('cgroup', 'a cgroup must be a text: write a path such as /system.slice', cgroupProblem).meta(
  { pattern: '^/' },
);
const unit = checkedText('unit', 'a unit must be a text: write for example redis.service', unitProblem);
const container = checkedText('container', 'a container must be a text: put its id in quotes', containerProblem);
const pod = checkedText('pod', 'a pod must be a text: put its uid in quotes', podProblem);
const program = checkedText('program', programHelp, programProblem);

const port = z
  .union(
    [z.int(portHelp).min(1, portHelp).max(65535, portHelp), z.string(portHelp).regex(/^\d{1,5}-\d{1,5}$/, portHelp)],
    portHelp,
  )
  .transform((text): readonly [number, number] => {
    const [from = 0, to = from] = String(text).split('-').map(Number);
    return [from, to];
  })
  .refine(([from, to]) => 1 <= from && from <= to && to <= 65535, portHelp);

const name = z
  .string({
    error: ({ input }) =>
      input === undefined
        ? 'a rule has no name: add one, such as name: web'
        : 'the name must be a text: put it in quotes',
  })
  .regex(/^\P{C}{1,100}$/u, 'the name must have 1 to 100 printable characters: shorten or fill it')
  .refine((text) => text !== 'defaults', "the name 'defaults' is taken by the defaults section: choose another");

const rule = z
  .strictObject(
    {
      name: name.meta({ description: 'Unique; shown by explain, pairs and policy test.' }),
      cgroup: oneOrMany('cgroup', cgroup, 'a path or a list of paths: write for example /system.slice').meta({
        description:
          'Paths below the cgroup v2 root, each with its whole subtree. * and ? stay within a path segment, ** as a whole segment spans any number of them, [abc] and [!abc] are sets; a backslash is literal (but not in the double quotes of YAML).',
      }),
      unit: oneOrMany('unit', unit, 'a unit or a list of units: write for example redis.service').meta({
        description:
          'Units of systemd, slices and user units among them, each with all that runs in it; without a type it is a service. * ? [abc] and [!abc] as in cgroup.',
      }),
      container: oneOrMany('container', container, 'an id or a list of ids: put it in quotes').meta({
        description:
          'Containers by id, the first 12 digits of it or more, or a glob; each with all that runs in it, containers too.',
      }),
      pod: oneOrMany('pod', pod, 'a uid or a list of uids: put it in quotes').meta({
        description:
          'Pods by uid or a glob; of a static pod, its annotation kubernetes.io/config.hash. Pods of Podman by their whole id.',
      }),
      ports: nonEmpty('ports', port).optional().meta({ description: "Either end's port." }),
      programs: nonEmpty('programs', program).optional().meta({
        description: 'Names or globs of the reading process, as in /proc/PID/comm; only 15 bytes count.',
      }),
      action: action.optional(),
      blockingReaders: blockingReaders.optional(),
      promoteAfter: promoteAfter.optional(),
      backlog: backlog.optional(),
      streams: streams.optional(),
    },
    mapping('a rule', '- name: web'),
  )
  .meta({ description: 'All conditions must hold; settings left out come from defaults.' });

const defaults = z.strictObject(
  {
    action: action.default('accelerate'),
    blockingReaders: blockingReaders.default(false),
    promoteAfter: promoteAfter.default(16),
    backlog: backlog.prefault('1MiB'),
    streams: streams.default('measure'),
  },
  mapping('defaults', 'defaults: { action: observe }'),
);

const exclude = z.strictObject(
  { programs: z.array(program, listHelp('programs')).default([]) },
  mapping('exclude', 'exclude: { programs: [haproxy] }'),
);

/** The policy file: its input is what YAML holds, its output is complete and normalised. */
export const policySchema = z
  .strictObject(
    {
      version: z.literal(policyVersion, {
        error: ({ input }) =>
          input === undefined
            ? `the version is missing: add version: ${policyVersion}`
            : `this build reads version ${policyVersion}: write version: ${policyVersion}, or use a build that reads this file's`,
      }),
      defaults: defaults.prefault({}).meta({ description: 'What holds where no rule matches or a rule says nothing.' }),
      rules: z
        .array(rule, listHelp('rules'))
        .superRefine((rules, context) => {
          const names = new Set<string>();
          for (const [index, { name }] of rules.entries()) {
            const message = `an earlier rule is already named ${quote(name)}: give each rule its own name`;
            if (names.has(name)) context.addIssue({ code: 'custom', path: [index, 'name'], message });
            names.add(name);
          }
        })
        .default([])
        .meta({ description: "The first rule that matches wins; a pair gets the stricter of its two ends' answers." }),
      exclude: exclude.prefault({}).meta({ description: 'Programs to leave alone, added to the built-in list.' }),
    },
    mapping('the policy', `version: ${policyVersion}`),
  )
  .meta({ title: 'slipstream-bpf policy' });

/** A complete policy: sizes in bytes, ports as inclusive ranges, conditions as lists. */
export type Policy = z.output<typeof policySchema>;
export type Rule = Policy['rules'][number];

/** Whether a rule asks for the cgroup of an end. */
export function hasPlaceCondition({ cgroup, unit, container, pod }: Rule): boolean {
  return [cgroup, unit, container, pod].some((condition) => condition !== undefined);
}

/** Whether a rule is for some ends only. */
export function hasCondition(rule: Rule): boolean {
  return hasPlaceCondition(rule) || rule.ports !== undefined || rule.programs !== undefined;
}

/** What holds without a policy file: every safe pair on the host is accelerated. */
export const defaultPolicy: Policy = policySchema.parse({ version: policyVersion });

/** The JSON Schema (draft 2020-12) of the file as it is written, for editors. */
export function policyJsonSchema(): object {
  return z.toJSONSchema(policySchema, { io: 'input' });
}

/** The sentence for a key the schema doesn't know, in the mapping at `path`. */
export function unknownKey(key: string, path: readonly PropertyKey[]): string {
  const sections: Record<string, { shape: object }> = { defaults, rules: rule, exclude };
  const { shape } = sections[String(path[0])] ?? policySchema;
  return `unknown key ${quote(key)}: ${suggest(key, Object.keys(shape))}`;
}

function checkedText(kind: string, help: string, problem: (text: string) => string | undefined) {
  return z.string(help).refine((text) => problem(text) === undefined, {
    error: ({ input }) => `${kind} ${quote(String(input))} ${problem(String(input)) ?? ''}`,
  });
}

/** A condition on the end's cgroup, read as a list. */
function oneOrMany<T extends z.ZodType<string>>(key: string, element: T, what: string) {
  return z
    .union([element, nonEmpty(key, element)], `${key} must be ${what}`)
    .transform((values) => [values].flat())
    .optional();
}

function nonEmpty<T extends z.ZodType>(key: string, element: T) {
  return z
    .array(element, listHelp(key))
    .min(1, `${key} is empty and would never match: add an entry or remove the key`);
}

function listHelp(key: string): string {
  return `${key} must be a list: write [first, second], or one entry a line after a dash`;
}

/** The message for something that is not a mapping; unknown keys are worded where they are reported. */
function mapping(what: string, example: string) {
  return {
    error: ({ code }: { code?: string }) =>
      code === 'invalid_type' ? `${what} must be a mapping: write for example ${example}` : undefined,
  };
}
