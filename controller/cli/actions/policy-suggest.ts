import { release } from 'node:os';

import { readPolicy } from '../../daemon/policy-source.js';
import type { MeasuredSize } from '../../decisions/gain.js';
import { EXIT, UserError } from '../../errors.js';
import { PolicyRecord } from '../../policy/in-force.js';
import { LearnedPrograms } from '../../policy/learned.js';
import type { Policy } from '../../policy/schema.js';
import { groupTraffic, suggestPolicy } from '../../policy/suggestion.js';
import { bench } from '../../probe/bench.js';
import { cgroupRoot } from '../../probe/host.js';
import { requireKernel } from '../../probe/kernel.js';
import { openDatapath } from '../../view/reader.js';
import { isHeld } from '../../view/status.js';
import { renderSuggestion, type Suggestion, suggestionComment } from '../../view/suggestion.js';
import { watchTraffic } from '../../view/traffic.js';
import type { SuggestArguments } from '../commands/policy-suggest.js';
import { makeLog } from '../log.js';
import { say } from '../options.js';
import { requireNew, writeNew } from '../output-file.js';
import { objectFile, socketsProgram } from '../package-info.js';

/** How long `--measure` takes, seconds. */
const MEASURING = 6;

export async function runPolicySuggest(args: SuggestArguments): Promise<void> {
  const { output } = args;
  if (output !== undefined) requireNew(output);
  const given = args.policy === undefined ? undefined : readPolicy(args.policy);
  const stop = new AbortController();
  const end = (): void => {
    stop.abort();
  };
  process.once('SIGINT', end).once('SIGTERM', end);
  const { suggestion, text } = await suggest(args, given?.policy, stop.signal);
  process.off('SIGINT', end).off('SIGTERM', end);
  if (output !== undefined) writeNew(output, text);
  say(args.json ? JSON.stringify(suggestion, undefined, 2) : renderSuggestion(suggestion));
}

/** Interrupted, it reports what it has seen. */
async function suggest(
  args: SuggestArguments,
  given: Policy | undefined,
  signal: AbortSignal,
): Promise<{ suggestion: Suggestion; text: string }> {
  const reading = openDatapath(args['pin-dir'], objectFile());
  try {
    const { settings } = reading.datapath;
    const inForce = new PolicyRecord(args['state-dir'], args['pin-dir'], settings.loadedNs).read();
    const policy = given ?? inForce?.policy;
    if (policy === undefined) {
      throw new UserError(
        'the policy in force is not known: no controller has left it in --state-dir, give --policy FILE',
        EXIT.failed,
      );
    }
    const traffic = await watchTraffic(reading, policy, new LearnedPrograms(args['state-dir']), args.seconds, signal);
    const measured = args.measure && !signal.aborted ? await measure(signal) : undefined;
    const groups = groupTraffic(traffic.pairs, traffic.seconds, measured);
    const facts = {
      seconds: traffic.seconds,
      loadedSeconds: Number(process.hrtime.bigint() - settings.loadedNs) / 1e9,
      controllerRunning: isHeld(args['pin-dir']),
      unseen: traffic.unseen,
      measured: measured ?? null,
      groups,
    };
    const { text, rules, also, left } = suggestPolicy(policy, groups, suggestionComment(facts));
    return { suggestion: { ...facts, rules, also, left, output: args.output ?? null }, text };
  } finally {
    reading.datapath.close();
  }
}

/** CPU time on this host, with and without redirection. */
async function measure(signal: AbortSignal): Promise<MeasuredSize[]> {
  requireKernel(release());
  const root = cgroupRoot();
  const { rows } = await bench(
    {
      objectFile: objectFile(),
      socketsProgram: socketsProgram(),
      cgroupRoot: root,
      cgroupDir: root,
      log: makeLog('error'),
    },
    MEASURING,
    signal,
  );
  return rows.map(({ size, tcp, slipstream }) => ({ size, tcp: tcp.cpu, direct: slipstream.cpu }));
}
