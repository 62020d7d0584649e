import { cgroupMatcher, programMatcher } from './glob.js';
import type { Matcher } from './glob.js';
import { containerMatcher, podMatcher, unitMatcher } from './name-patterns.js';
import { type Name, namesOf } from './names.js';
import { allHazards, builtInPrograms } from './programs.js';
import type { Hazard } from './programs.js';
import { actions, hasPlaceCondition } from './schema.js';
import type { Action, Policy, Rule, Streaming } from './schema.js';

/** One end of a connection. */
export interface End {
  /** Path below the cgroup v2 root; undefined when the cgroup was removed. */
  readonly cgroup: string | undefined;
  /** Both ports of the connection as this end sees them, in any order. */
  readonly ports: readonly [number, number];
  /** The reading process, as in /proc/PID/comm; undefined or empty while none was seen. */
  readonly program?: string | undefined;
}

/** What the policy says about an end or a pair. */
export interface Decision {
  readonly action: Action;
  readonly blockingReaders: boolean;
  /** Receives seen at each end before promotion. */
  readonly promoteAfter: number;
  /** Bytes that may wait in the redirected queue of one direction. */
  readonly backlog: number;
  /** Whether a one-way stream may be redirected. */
  readonly streams: Streaming;
  /** The rule that decided; no rule can be named `defaults`. */
  readonly rule: string;
  /** What is not known about the end, if the action is `tcp` only because the rule might apply. */
  readonly unknown?: Unknown;
}

/** Names the rule behind the action; where both ends' rules ask for the same action, the earlier in the file. */
export type PairDecision = Decision;

type Unknown = 'cgroup' | 'program';

interface CompiledRule {
  readonly decision: Decision;
  readonly ports: Rule['ports'];
  readonly runs: Matcher | undefined;
  /** Whether there are conditions on the cgroup or its names; `rulesOfCgroup` tells whether they hold. */
  readonly asksCgroup: boolean;
}

/** Why a program is never accelerated. */
export interface ExcludedProgram {
  /** The name or glob that matched. */
  readonly program: string;
  readonly source: 'built-in' | 'policy';
  /** Of built-in programs: a kernel without the hazard may accelerate them. */
  readonly hazard?: Hazard;
  readonly reason: string;
}

/** A policy made ready for many decisions. */
export interface CompiledPolicy {
  readonly defaults: Decision;
  readonly rules: readonly CompiledRule[];
  /** The rules whose conditions on the cgroup and its names hold for a path. */
  readonly rulesOfCgroup: (path: string) => ReadonlySet<string>;
  /** Place of each rule in the file, by name. */
  readonly order: ReadonlyMap<string, number>;
  readonly excluded: readonly { readonly matches: Matcher; readonly exclusion: ExcludedProgram }[];
}

/** How many cgroups' matching rules are remembered. */
const rememberedCgroups = 4096;

/** Prepares a policy for `decide` and the other functions here. */
export function compilePolicy(policy: Policy): CompiledPolicy {
  const defaults = { ...policy.defaults, rule: 'defaults' };
  const places = policy.rules.map((rule) => ({ name: rule.name, matches: placeMatcher(rule) }));
  // The policy's exclusions first: they hold on every kernel, the built-in ones only where the hazard is.
  const exclusions: ExcludedProgram[] = [
    ...policy.exclude.programs.map((program) => ({
      program,
      source: 'policy' as const,
      reason: `the policy excludes ${program}.`,
    })),
    ...builtInPrograms.map((entry) => ({ ...entry, source: 'built-in' as const })),
  ];
  return {
    defaults,
    rules: policy.rules.map((rule) => ({
      decision: {
        action: rule.action ?? defaults.action,
        blockingReaders: rule.blockingReaders ?? defaults.blockingReaders,
        promoteAfter: rule.promoteAfter ?? defaults.promoteAfter,
        backlog: rule.backlog ?? defaults.backlog,
        streams: rule.streams ?? defaults.streams,
        rule: rule.name,
      },
      ports: rule.ports,
      runs: rule.programs && anyOf(rule.programs.map(programMatcher)),
      asksCgroup: hasPlaceCondition(rule),
    })),
    rulesOfCgroup: remember(rememberedCgroups, (path) => {
      const names = namesOf(path);
      return new Set(places.filter(({ matches }) => matches(path, names)).map(({ name }) => name));
    }),
    order: new Map(policy.rules.map(({ name }, index) => [name, index])),
    excluded: exclusions.map((exclusion) => ({ matches: programMatcher(exclusion.program), exclusion })),
  };
}

/**
 * What the policy says about one end: its first matching rule, else the defaults. A condition on something unknown
 * doesn't match. But no setting is laxer than that of a rule that may apply, and the action is `tcp` if such a rule is
 * stricter than the one that decided.
 */
export function decide(compiled: CompiledPolicy, end: End): Decision {
  let decided = compiled.defaults;
  const doubtful: { decision: Decision; unknown: Unknown }[] = [];
  for (const rule of compiled.rules) {
    const applies = match(compiled, rule, end);
    if (applies === true) {
      decided = rule.decision;
      break;
    }
    if (applies !== false) doubtful.push({ decision: rule.decision, unknown: applies });
  }
  const cautious = doubtful.reduce((all, { decision }) => stricter(compiled, all, decision), decided);
  const feared = doubtful.find(({ decision }) => strictness(decision) > strictness(decided));
  return feared
    ? { ...cautious, action: 'tcp', rule: feared.decision.rule, unknown: feared.unknown }
    : { ...cautious, action: decided.action, rule: decided.rule };
}

/** The stricter of the decisions about a pair's two ends, whichever way round they are given. */
export function decidePair(compiled: CompiledPolicy, [one, other]: readonly [End, End]): PairDecision {
  return stricter(compiled, decide(compiled, one), decide(compiled, other));
}

/**
 * Whether and why a program, named as in /proc/PID/comm or in full, is never accelerated.
 * @param present hazards of this kernel; built-in programs without any of them may be accelerated
 */
export function excludedProgram(
  compiled: CompiledPolicy,
  program: string,
  present: ReadonlySet<Hazard> = allHazards,
): ExcludedProgram | undefined {
  return compiled.excluded.find(
    ({ matches, exclusion: { hazard } }) => (hazard === undefined || present.has(hazard)) && matches(program),
  )?.exclusion;
}

/** The fewest receives after which any connection may be promoted: the threshold for the kernel side. */
export function minimumPromoteAfter({ defaults, rules }: CompiledPolicy): number {
  const open = [defaults, ...rules.map(({ decision }) => decision)].filter(({ action }) => action !== 'tcp');
  return open.length === 0 ? defaults.promoteAfter : Math.min(...open.map(({ promoteAfter }) => promoteAfter));
}

/** Whether a rule applies to an end, or what would have to be known to tell. */
function match({ rulesOfCgroup }: CompiledPolicy, rule: CompiledRule, end: End): boolean | Unknown {
  const { ports, runs, asksCgroup, decision } = rule;
  if (ports && !ports.some(([from, to]) => end.ports.some((port) => from <= port && port <= to))) return false;
  const inCgroup = !asksCgroup || (end.cgroup === undefined ? undefined : rulesOfCgroup(end.cgroup).has(decision.rule));
  const running = !runs || (end.program ? runs(end.program) : undefined);
  if (inCgroup === false || running === false) return false;
  if (inCgroup === undefined) return 'cgroup';
  return running ?? 'program';
}

const strictness = ({ action }: Decision): number => actions.indexOf(action);

/** The stricter of two decisions in every respect, under the rule behind its action. */
function stricter({ order }: CompiledPolicy, a: Decision, b: Decision): Decision {
  const place = ({ rule }: Decision): number => order.get(rule) ?? order.size;
  const doubt = ({ unknown }: Decision): number => ['program', 'cgroup'].indexOf(unknown ?? '');
  const first = strictness(b) - strictness(a) || doubt(a) - doubt(b) || place(a) - place(b);
  return {
    ...(first <= 0 ? a : b),
    blockingReaders: a.blockingReaders && b.blockingReaders,
    promoteAfter: Math.max(a.promoteAfter, b.promoteAfter),
    backlog: Math.min(a.backlog, b.backlog),
    streams: a.streams === 'tcp' ? 'tcp' : b.streams,
  };
}

/** Whether those conditions of a rule hold that a cgroup's path, with the names in it, answers. */
function placeMatcher({ cgroup, unit, container, pod }: Rule): (path: string, names: readonly Name[]) => boolean {
  const inCgroup = cgroup && anyOf(cgroup.map(cgroupMatcher));
  const named = [unit?.map(unitMatcher), container?.map(containerMatcher), pod?.map(podMatcher)]
    .filter((matchers) => matchers !== undefined)
    .map(anyOf);
  return (path, names) => (inCgroup?.(path) ?? true) && named.every((matches) => matches(names));
}

const anyOf =
  <T>(matchers: readonly ((value: T) => boolean)[]) =>
  (value: T): boolean =>
    matchers.some((matches) => matches(value));

/** Remembers the results of the most recently used keys. */
function remember<V>(limit: number, compute: (key: string) => V): (key: string) => V {
  const results = new Map<string, V>();
  return (key) => {
    const value = results.has(key) ? (results.get(key) as V) : compute(key);
    results.delete(key);
    results.set(key, value);
    for (const oldest of results.keys()) {
      if (results.size <= limit) break;
      results.delete(oldest);
    }
    return value;
  };
}
