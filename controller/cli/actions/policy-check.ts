import { readPolicy } from '../../daemon/policy-source.js';
import { formatProblem } from '../../policy/parse.js';
import type { CheckArguments } from '../commands/policy.js';
import { say } from '../options.js';

export function runPolicyCheck({ file, json }: CheckArguments): void {
  const { policy, warnings, hash } = readPolicy(file);
  if (json) {
    say(JSON.stringify({ file, hash, warnings, policy }, undefined, 2));
    return;
  }
  for (const warning of warnings) say(`warning: ${formatProblem(warning)}`);
  say(`${file}: valid, ${String(policy.rules.length)} rules, default action ${policy.defaults.action}`);
}
