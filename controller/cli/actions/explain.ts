import { readPolicy } from '../../daemon/policy-source.js';
import { UserError } from '../../errors.js';
import { explain, type ExplainContext, type ExplainResult } from '../../explain/explain.js';
import type { Target } from '../../explain/target.js';
import { compilePolicy } from '../../policy/evaluate.js';
import { PolicyRecord } from '../../policy/in-force.js';
import { LearnedPrograms } from '../../policy/learned.js';
import { renderExplanation } from '../../view/explanation.js';
import { withDatapath } from '../../view/reader.js';
import { isHeld } from '../../view/status.js';
import type { ExplainArguments } from '../commands/explain.js';
import { say } from '../options.js';
import { objectFile } from '../package-info.js';

export function runExplain(args: ExplainArguments): void {
  const { target } = args;
  const result = explainTarget(target, args, objectFile());
  if (args.json) say(JSON.stringify(result, undefined, 2));
  else if (result.connections.length > 0) say(renderExplanation(result));
  if (result.connections.length > 0) return;
  throw new UserError(
    target.kind === 'pair'
      ? `there is no ${result.target} any more: "pairs" lists those that are`
      : `nothing on this host uses ${result.target}: no connection and no listener, in any network namespace that can be seen`,
  );
}

/** @throws UserError if the policy can't be read, or no datapath is loaded */
export function explainTarget(
  target: Target,
  args: Pick<ExplainArguments, 'pin-dir' | 'state-dir' | 'policy'>,
  object: string,
): ExplainResult {
  const given = args.policy === undefined ? undefined : readPolicy(args.policy);
  return withDatapath(args['pin-dir'], object, ({ datapath, cgroups }) => {
    const record = new PolicyRecord(args['state-dir'], args['pin-dir'], datapath.settings.loadedNs).read();
    let policy: ExplainContext['policy'];
    if (given !== undefined) {
      policy = { compiled: given.compiled, file: args.policy ?? null, hash: given.hash, since: null };
    } else if (record !== undefined) {
      policy = { ...record, compiled: compilePolicy(record.policy) };
    }
    return explain(target, {
      datapath,
      cgroups,
      policy,
      learned: new LearnedPrograms(args['state-dir']),
      controllerRunning: isHeld(args['pin-dir']),
    });
  });
}
