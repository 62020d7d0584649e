/** `policy test`: what a policy says of a connection that is described, and why. Pure. */
import { judgeCandidate } from '../decisions/promotion.js';
import { compilePolicy, decide, decidePair, type Decision, type End, excludedProgram } from './evaluate.js';
import { builtInHelperPorts, unnamedHelperPort } from './helper-ports.js';
import type { PolicyPlaces } from './parse.js';
import type { Hazard } from './programs.js';
import type { Action, Policy, Rule, Streaming } from './schema.js';
import { type Condition, type ConditionState, traceRules } from './trace.js';
import { quote } from './words.js';

/** An end as it is described; null: not given. */
export interface TrialEnd {
  /** Path below the cgroup v2 root. */
  cgroup: string | null;
  /** The port that this end has or dials. */
  port: number | null;
  program: string | null;
  /** This program in this cgroup left redirected data unread before; null: it can't be told. */
  learned: boolean | null;
}

/** What holds for an end or a pair. */
export interface TrialSettings {
  action: Action;
  blockingReaders: boolean;
  promoteAfter: number;
  /** Bytes. */
  backlog: number;
  streams: Streaming;
  /** The rule behind the action; `defaults` if none matched. */
  rule: string;
  /** Where it stands in the file; null if it does not stand there. */
  line: number | null;
  column: number | null;
}

export interface TrialEndResult extends TrialEnd, TrialSettings {
  /** What is not known of the end, if the action is `tcp` because the rule may apply. */
  unknown: 'cgroup' | 'program' | null;
  /** The rules before the one that matched, and why each did not. */
  passedOver: { rule: string; line: number | null; column: number | null; state: ConditionState; because: string }[];
  /** Why its program is never accelerated. */
  excluded: { program: string; source: 'built-in' | 'policy'; hazard: Hazard | null; reason: string } | null;
  /** The port of a conntrack helper that the rule does not name. */
  helperPort: number | null;
}

export interface TrialResult {
  file: string;
  hash: string;
  /** One, or both of a connection. */
  ends: TrialEndResult[];
  /** The stricter of the two; null with one end only. */
  pair: TrialSettings | null;
  /** What becomes of the connection, as far as the policy and the lists of programs and ports tell. */
  outcome: Action;
  /** A value of enum refusal_reason in bpf/abi.h, in lower case; null if it may be accelerated. */
  reason: string | null;
  because: string;
}

export interface TrialPolicy {
  file: string;
  hash: string;
  policy: Policy;
  places: PolicyPlaces;
}

export function tryPolicy(
  { file, hash, policy, places }: TrialPolicy,
  described: readonly [TrialEnd] | readonly [TrialEnd, TrialEnd],
): TrialResult {
  const compiled = compilePolicy(policy);
  const placeOf = (rule: string): { line: number | null; column: number | null } => {
    const index = policy.rules.findIndex(({ name }) => name === rule);
    const { line = null, column = null } = (index < 0 ? places.defaults : places.rules[index]) ?? {};
    return { line, column };
  };
  const settings = ({ action, blockingReaders, promoteAfter, backlog, streams, rule }: Decision): TrialSettings => ({
    action,
    blockingReaders,
    promoteAfter,
    backlog,
    streams,
    rule,
    ...placeOf(rule),
  });
  const ends = described.map((given): TrialEndResult => {
    const end = policyEnd(given);
    const decision = decide(compiled, end);
    const excluded = excludedProgram(compiled, given.program ?? '');
    return {
      ...given,
      ...settings(decision),
      unknown: decision.unknown ?? null,
      passedOver: traceRules(policy, end)
        .filter(({ state }) => state !== 'holds')
        .map(({ rule, state, conditions }) => ({
          rule,
          ...placeOf(rule),
          state,
          because: conditions
            .filter((one) => one.state === state)
            .map(({ condition }) => explainCondition(ruleNamed(policy, rule), condition, state, given))
            .join('; '),
        })),
      excluded:
        excluded === undefined
          ? null
          : {
              program: excluded.program,
              source: excluded.source,
              hazard: excluded.hazard ?? null,
              reason: excluded.reason,
            },
      helperPort: unnamedHelperPort(compiled, end, builtInHelperPorts) ?? null,
    };
  });
  const [one, other = one] = described;
  const pairEnds = [policyEnd(one), policyEnd(other)] as const;
  const decision = decidePair(compiled, pairEnds);
  const verdict = judgeCandidate(
    {
      ends: [candidate(one), candidate(other)],
      turnsShown: Infinity,
      kernelRefusal: undefined,
    },
    compiled,
    {},
  );
  const reason = verdict.kind === 'refuse' ? verdict.reason : null;
  return {
    file,
    hash,
    ends,
    pair: described.length === 2 ? settings(decision) : null,
    outcome: reason === null ? 'accelerate' : reason === 'observe' ? 'observe' : 'tcp',
    reason,
    because: inWords(reason, decision, ends),
  };
}

function policyEnd({ cgroup, port, program }: TrialEnd): End {
  // No rule can name port 0.
  return { cgroup: cgroup ?? undefined, ports: [port ?? 0, port ?? 0], program: program ?? undefined };
}

function candidate(end: TrialEnd): Parameters<typeof judgeCandidate>[0]['ends'][number] {
  const { cgroup, ports } = policyEnd(end);
  return { cgroup, ports: [...ports], program: end.program ?? '', evidence: 0, learned: end.learned ?? false };
}

function ruleNamed({ rules }: Policy, wanted: string): Rule | undefined {
  return rules.find(({ name }) => name === wanted);
}

/** `ports 5432, 6000-6010: the port is 6379`. */
function explainCondition(rule: Rule | undefined, condition: Condition, state: ConditionState, end: TrialEnd): string {
  const asked = `${condition} ${spell(rule, condition)}`;
  switch (condition) {
    case 'ports':
      return `${asked}: ${end.port === null ? 'no port is given' : `the port is ${String(end.port)}`}`;
    case 'programs':
      return `${asked}: ${end.program === null ? 'no program is given' : `the program is ${quote(end.program)}`}`;
    default:
      return `${asked}: ${state === 'unknown' ? 'the cgroup is not known' : `${quote(end.cgroup ?? '')} is not in it`}`;
  }
}

function spell(rule: Rule | undefined, condition: Condition): string {
  if (condition === 'ports') {
    return (rule?.ports ?? [])
      .map(([from, to]) => (from === to ? String(from) : `${String(from)}-${String(to)}`))
      .join(', ');
  }
  return (rule?.[condition] ?? []).join(', ');
}

function inWords(reason: string | null, { rule }: Decision, ends: readonly TrialEndResult[]): string {
  const says = rule === 'defaults' ? 'the defaults say' : `the rule ${quote(rule)} says`;
  const excluded = ends.find((end) => end.excluded !== null)?.excluded;
  switch (reason) {
    case null:
      return `${says} accelerate: it is promoted once its traffic is request and response and its readers are seen to be safe`;
    case 'observe':
      return `${says} observe: it is watched and counted, and stays on TCP`;
    case 'program':
      return `${(excluded?.reason ?? '').replace(/\.$/, '')}${
        excluded?.hazard == null ? '' : ' (on a kernel with this hazard: "doctor" tells)'
      }`;
    case 'helper': {
      const port = ends.find((end) => end.helperPort !== null)?.helperPort;
      return `port ${String(port)} belongs to a conntrack helper: a rule that names the port by itself and says accelerate opens it`;
    }
    case 'learned':
      return 'a program left redirected data unread before: "learned" lists it, "learned --forget NAME" opens it';
    default: {
      const { unknown } = ends.find((end) => end.unknown !== null) ?? { unknown: null };
      const doubt = unknown === null ? '' : `, and may apply: the ${unknown} of an end is not known`;
      return `${says} tcp${doubt}`;
    }
  }
}
