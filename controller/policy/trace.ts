/**
 * Why rules do or do not match an end. Each condition is put to `decide` in a policy of its own, so that there is no
 * second reading of what a condition means. Pure.
 */
import { compilePolicy, decide, type End } from './evaluate.js';
import { defaultPolicy, type Policy, type Rule } from './schema.js';

export const CONDITIONS = ['cgroup', 'unit', 'container', 'pod', 'ports', 'programs'] as const;
export type Condition = (typeof CONDITIONS)[number];

/** Whether a condition holds; unknown: it asks for something that is not known of the end. */
export type ConditionState = 'holds' | 'fails' | 'unknown';

export interface RuleTrace {
  rule: string;
  /** As a whole: it fails if a condition does. */
  state: ConditionState;
  /** Those that the rule has. */
  conditions: { condition: Condition; state: ConditionState }[];
}

/** The rules that were looked at: from the first to the one that matches, or all. */
export function traceRules(policy: Policy, end: End): RuleTrace[] {
  const seen: RuleTrace[] = [];
  for (const rule of policy.rules) {
    const conditions = CONDITIONS.filter((condition) => rule[condition] !== undefined).map((condition) => ({
      condition,
      state: ask({ [condition]: rule[condition] }, end),
    }));
    const state = ask(rule, end);
    seen.push({ rule: rule.name, state, conditions });
    if (state === 'holds') break;
  }
  return seen;
}

const NAME = 'asked';

/** The strictest action and the laxest default: a match, a doubt and a miss give three answers. */
function ask(conditions: Partial<Rule>, end: End): ConditionState {
  const rule = { ...conditions, name: NAME, action: 'tcp' as const };
  const decision = decide(compilePolicy({ ...defaultPolicy, rules: [rule] }), end);
  if (decision.unknown !== undefined) return 'unknown';
  return decision.rule === NAME ? 'holds' : 'fails';
}
