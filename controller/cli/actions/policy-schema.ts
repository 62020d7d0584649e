import { policyJsonSchema } from '../../policy/schema.js';
import { say } from '../options.js';

export function runPolicySchema(): void {
  say(JSON.stringify(policyJsonSchema(), undefined, 2));
}
