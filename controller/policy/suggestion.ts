/**
 * `policy suggest`: what was seen of pairs, put together by who talks to whom, and the policy that accelerates those
 * that would be. Pure.
 */
import { type Outlook, OUTLOOKS } from '../decisions/outlook.js';
import { type MeasuredSize, savedPerMessage } from '../decisions/gain.js';
import { shortName } from '../view/short-name.js';
import { compilePolicy, decide, decidePair, type End } from './evaluate.js';
import type { Policy } from './schema.js';
import {
  depthOf,
  freeName,
  literalPattern,
  literalProgram,
  writePolicy,
  writtenDefaults,
  writtenRule,
  type WrittenRule,
} from './write.js';

export interface WatchedEnd {
  /** Path below the cgroup v2 root; null once it is gone. */
  cgroup: string | null;
  program: string | null;
  port: number;
  remotePort: number;
  netns: number;
}

/** A pair over the time that was looked at. */
export interface WatchedPair {
  client: WatchedEnd;
  server: WatchedEnd;
  outlook: Outlook;
  reason: string | null;
  /** Receives of both ends, and their bytes. */
  messages: number;
  bytes: number;
  /** In its last window of observation: changes of the receiving side, and receives. */
  turns: number;
  receives: number;
}

/** Pairs between the same two cgroups, to the same port. */
export interface TrafficGroup {
  client: { cgroup: string | null; programs: string[] };
  server: { cgroup: string | null; programs: string[] };
  /** The server's own. */
  port: number;
  /** What the client dials: another one where it is translated. */
  dialled: number;
  /** Whether an end is in another network namespace than the other. */
  namespaces: boolean;
  pairs: number;
  outlooks: Record<Outlook, number>;
  /** Of those that are refused. */
  reasons: Record<string, number>;
  messagesPerSecond: number;
  bytesPerSecond: number;
  /** Part of the receives that answered the other side; null if too little was seen. */
  turnShare: number | null;
  /** Of the pairs that would be accelerated: what would go the direct way. */
  would: {
    messagesPerSecond: number;
    bytesPerSecond: number;
    /** Estimated from a measurement: microseconds of CPU time saved a second; null without one. */
    savedCpu: number | null;
    /** Who reads. */
    clientPrograms: string[];
    serverPrograms: string[];
  };
}

/** The busiest of what would be accelerated first. @param seconds how long was looked */
export function groupTraffic(
  pairs: readonly WatchedPair[],
  seconds: number,
  measured: readonly MeasuredSize[] | undefined,
): TrafficGroup[] {
  const groups = new Map<string, WatchedPair[]>();
  for (const pair of pairs) {
    const { client, server } = pair;
    const key = JSON.stringify([client.cgroup, server.cgroup, server.port, client.remotePort]);
    const members = groups.get(key);
    if (members === undefined) groups.set(key, [pair]);
    else members.push(pair);
  }
  const found = [...groups.values()].flatMap((members): TrafficGroup[] => {
    const [first] = members;
    if (first === undefined) return [];
    const would = members.filter(({ outlook }) => outlook === 'would');
    const receives = sum(members, (pair) => pair.receives);
    const messages = sum(would, (pair) => pair.messages) / seconds;
    const bytes = sum(would, (pair) => pair.bytes) / seconds;
    return [
      {
        client: { cgroup: first.client.cgroup, programs: programs(members, 'client') },
        server: { cgroup: first.server.cgroup, programs: programs(members, 'server') },
        port: first.server.port,
        dialled: first.client.remotePort,
        namespaces: members.some(({ client, server }) => client.netns !== server.netns),
        pairs: members.length,
        outlooks: tally(OUTLOOKS, members, ({ outlook }) => outlook),
        reasons: tally([], members, ({ reason }) => reason),
        messagesPerSecond: sum(members, (pair) => pair.messages) / seconds,
        bytesPerSecond: sum(members, (pair) => pair.bytes) / seconds,
        turnShare: receives === 0 ? null : Math.min(1, sum(members, ({ turns }) => turns) / receives),
        would: {
          messagesPerSecond: messages,
          bytesPerSecond: bytes,
          savedCpu:
            measured === undefined ? null : messages === 0 ? 0 : messages * savedPerMessage(measured, bytes / messages),
          clientPrograms: programs(would, 'client'),
          serverPrograms: programs(would, 'server'),
        },
      },
    ];
  });
  return found.sort(
    (a, b) => b.would.messagesPerSecond - a.would.messagesPerSecond || b.messagesPerSecond - a.messagesPerSecond,
  );
}

export interface SuggestedPolicy {
  /** YAML that `policy check` accepts. */
  text: string;
  /** Rules that were added. */
  rules: number;
  /** Groups that the rules accelerate, too, although nothing of them would be at present: a rule is about one end. */
  also: TrafficGroup[];
  /** Groups that would be accelerated, and for which no rule can be written. */
  left: TrafficGroup[];
}

/** What a rule for one end of some groups says. */
interface EndRule {
  cgroup: string;
  port: number;
  programs: Set<string>;
  comments: Set<string>;
}

/**
 * The policy in force, with a rule for each end of what would be accelerated in front of the rule that says `observe`
 * for it. What is `tcp` stays so.
 */
export function suggestPolicy(
  policy: Policy,
  groups: readonly TrafficGroup[],
  comment: readonly string[],
): SuggestedPolicy {
  const wanted = groups.filter(({ outlooks }) => outlooks.would > 0);
  const left: TrafficGroup[] = [];
  /** By the rule that they must stand before. */
  const added = new Map<string, Map<string, EndRule>>();
  const compiled = compilePolicy(policy);
  for (const group of wanted) {
    const ends = endsOf(group);
    if (ends === undefined) {
      left.push(group);
      continue;
    }
    for (const end of ends) {
      for (const program of end.programs) {
        const decision = decide(compiled, { cgroup: end.cgroup, ports: [end.port, end.port], program });
        if (decision.action !== 'observe') continue;
        const before = added.get(decision.rule) ?? new Map<string, EndRule>();
        added.set(decision.rule, before);
        const key = JSON.stringify([end.cgroup, end.port]);
        const rule = before.get(key) ?? { ...end, programs: new Set(), comments: new Set() };
        before.set(key, rule);
        rule.programs.add(program);
        rule.comments.add(`${nameOf(group.client.cgroup)} to ${nameOf(group.server.cgroup)}:${String(group.port)}`);
      }
    }
  }
  const taken = new Set(policy.rules.map(({ name }) => name));
  const written = (before: string): { comment: string[]; rule: WrittenRule }[] =>
    [...(added.get(before)?.values() ?? [])]
      // A cgroup stands for what is below it as well: the inner ones first.
      .sort((a, b) => depthOf(b.cgroup) - depthOf(a.cgroup))
      .map(({ cgroup, port, programs: readers, comments }) => {
        const name = freeName(`${shortName(cgroup)} port ${String(port)}`, taken);
        taken.add(name);
        return {
          comment: [...comments].slice(0, COMMENTS),
          rule: {
            name,
            cgroup: literalPattern(cgroup),
            ports: [port],
            programs: [...readers].map(literalProgram),
            action: 'accelerate',
          },
        };
      });
  const rules = [
    ...policy.rules.flatMap((rule) => [...written(rule.name), { comment: [], rule: writtenRule(rule) }]),
    ...written('defaults'),
  ];
  const text = writePolicy({
    comment,
    defaults: writtenDefaults(policy.defaults),
    rules,
    exclude: policy.exclude.programs,
  });
  const suggested = compilePolicy({ ...policy, rules: rulesOf(rules, policy) });
  const also = groups.filter((group) => {
    if (group.outlooks.would > 0 || group.outlooks.accelerated > 0) return false;
    const ends = everyEnd(group);
    return ends !== undefined && decidePair(suggested, ends).action === 'accelerate';
  });
  return { text, rules: rules.length - policy.rules.length, also, left };
}

/** Lines above a rule. */
const COMMENTS = 5;

/** The two ends as rules see them; undefined if one of them can't be named. */
function endsOf({
  client,
  server,
  port,
  dialled,
  would,
}: TrafficGroup): { cgroup: string; port: number; programs: string[] }[] | undefined {
  if (client.cgroup === null || server.cgroup === null) return undefined;
  return [
    { cgroup: client.cgroup, port: dialled, programs: would.clientPrograms },
    { cgroup: server.cgroup, port, programs: would.serverPrograms },
  ];
}

function everyEnd({ client, server, port, dialled }: TrafficGroup): [End, End] | undefined {
  const [program, other] = [client.programs[0], server.programs[0]];
  if (client.cgroup === null || server.cgroup === null) return undefined;
  return [
    { cgroup: client.cgroup, ports: [dialled, dialled], program },
    { cgroup: server.cgroup, ports: [port, port], program: other },
  ];
}

/** What `writePolicy` has written, as a policy is evaluated. */
function rulesOf(written: readonly { rule: WrittenRule }[], { rules }: Policy): Policy['rules'] {
  return written.map(
    ({ rule }) =>
      rules.find(({ name }) => name === rule.name) ?? {
        name: rule.name,
        cgroup: [rule.cgroup ?? '/'].flat(),
        ports: (rule.ports ?? []).map((port) => [Number(port), Number(port)] as const),
        programs: rule.programs,
        action: rule.action,
      },
  );
}

export function nameOf(cgroup: string | null): string {
  return cgroup === null ? '(gone)' : shortName(cgroup);
}

const sum = <T>(of: readonly T[], value: (one: T) => number): number => of.reduce((all, one) => all + value(one), 0);

const programs = (pairs: readonly WatchedPair[], side: 'client' | 'server'): string[] =>
  [...new Set(pairs.flatMap((pair) => pair[side].program ?? []))].sort();

function tally<K extends string>(
  keys: readonly K[],
  pairs: readonly WatchedPair[],
  key: (pair: WatchedPair) => string | null,
): Record<K, number> {
  const counts: Record<string, number> = Object.fromEntries(keys.map((one) => [one, 0]));
  for (const pair of pairs) {
    const one = key(pair);
    if (one !== null) counts[one] = (counts[one] ?? 0) + 1;
  }
  return counts;
}
