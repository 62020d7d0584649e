/** A policy as YAML text that `policy check` accepts. Pure. */
import { Document, type YAMLMap } from 'yaml';

import { formatProblem, parsePolicy } from './parse.js';
import type { Action, Policy, Rule, Streaming } from './schema.js';
import { formatSize } from './size.js';
import { printable } from './words.js';

/** A rule as a file has it: what is not said comes from the defaults. */
export interface WrittenRule {
  name: string;
  cgroup?: string | string[];
  unit?: string | string[];
  container?: string | string[];
  pod?: string | string[];
  ports?: (number | string)[];
  programs?: string[];
  action?: Action;
  blockingReaders?: boolean;
  promoteAfter?: number;
  backlog?: string;
  streams?: Streaming;
}

export interface WrittenPolicy {
  /** Lines in front of everything. */
  comment: readonly string[];
  defaults: Record<string, unknown>;
  /** Lines in front of the rules. */
  rulesComment?: readonly string[];
  rules: readonly { comment: readonly string[]; rule: WrittenRule }[];
  /** Programs to exclude. */
  exclude?: readonly string[];
}

/** Comments may hold anything: what a terminal could obey is taken out. @throws Error if it would not be valid: a bug */
export function writePolicy({ comment, defaults, rulesComment = [], rules, exclude = [] }: WrittenPolicy): string {
  const document = new Document({
    version: 1,
    defaults,
    rules: rules.map(({ rule }) => rule),
    ...(exclude.length > 0 ? { exclude: { programs: exclude } } : {}),
  });
  document.commentBefore = asComment(comment);
  const { items } = document.get('rules') as { items: YAMLMap[] };
  items.forEach((item, index) => {
    item.commentBefore = asComment(rules[index]?.comment ?? []);
    item.spaceBefore = index > 0;
  });
  for (const pair of (
    document.contents as unknown as YAMLMap<{ value: string; spaceBefore?: boolean; commentBefore?: string | null }>
  ).items) {
    if (pair.key.value !== 'version') pair.key.spaceBefore = true;
    if (pair.key.value === 'rules') pair.key.commentBefore = asComment(rulesComment);
  }
  const text = document.toString({ lineWidth: 110, flowCollectionPadding: false });
  const result = parsePolicy(text, 'the written policy');
  if (!result.ok) throw new Error(result.problems.map(formatProblem).join('\n'));
  return text;
}

const asComment = (lines: readonly string[]): string | null =>
  lines.length === 0 ? null : lines.map((line) => (line === '' ? '' : ` ${printable(line)}`)).join('\n');

/** A rule that was read, as it may be written. */
export function writtenRule(rule: Rule): WrittenRule {
  const { name, cgroup, unit, container, pod, ports, programs, backlog, ...rest } = rule;
  const list = (values: string[] | undefined, key: string): object =>
    values === undefined ? {} : { [key]: values.length === 1 ? values[0] : values };
  return {
    name,
    ...list(cgroup, 'cgroup'),
    ...list(unit, 'unit'),
    ...list(container, 'container'),
    ...list(pod, 'pod'),
    ...(ports && { ports: ports.map(([from, to]) => (from === to ? from : `${String(from)}-${String(to)}`)) }),
    ...(programs && { programs }),
    ...(Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== undefined)) as Partial<WrittenRule>),
    ...(backlog !== undefined && { backlog: formatSize(backlog) }),
  };
}

export function writtenDefaults({
  action,
  blockingReaders,
  promoteAfter,
  backlog,
  streams,
}: Policy['defaults']): Record<string, unknown> {
  return { action, blockingReaders, promoteAfter, backlog: formatSize(backlog), streams };
}

/** A path as a pattern that matches it and what is below it, nothing else. */
export function literalPattern(text: string): string {
  return text.replace(/[[*?]/g, '[$&]');
}

/** Likewise a program's name. */
export function literalProgram(name: string): string {
  return literalPattern(name).replace(/^\//, '[/]');
}

/** How many segments a path has: a rule for a cgroup stands for what is below it, so deeper ones go first. */
export function depthOf(path: string): number {
  return path.split('/').filter(Boolean).length;
}

/** A rule's name from any text, different from those that are taken. */
export function freeName(wanted: string, taken: ReadonlySet<string>): string {
  const longest = 90;
  const name = Array.from(printable(wanted)).slice(0, longest).join('');
  for (let number = 1; ; number++) {
    const candidate = number === 1 ? name : `${name} (${String(number)})`;
    if (!taken.has(candidate) && candidate !== 'defaults') return candidate;
  }
}
