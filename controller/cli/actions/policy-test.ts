import { accessSync, constants } from 'node:fs';

import { readPolicy } from '../../daemon/policy-source.js';
import { findPlace } from '../../explain/find-place.js';
import type { Place } from '../../explain/place.js';
import { LearnedPrograms } from '../../policy/learned.js';
import { type TrialEnd, tryPolicy } from '../../policy/trial.js';
import { renderTrial } from '../../view/trial.js';
import type { TestArguments } from '../commands/policy-test.js';
import { say } from '../options.js';

export function runPolicyTest(args: TestArguments): void {
  const { policy, hash, places } = readPolicy(args.file);
  const learned = readLearned(args['state-dir']);
  const end = (place: Place | undefined, port: number | undefined, program: string | undefined): TrialEnd => {
    const found = place === undefined ? { cgroup: null, program: null } : findPlace(place);
    const name = program ?? found.program;
    return {
      cgroup: found.cgroup,
      port: port ?? null,
      program: name,
      learned: learned === undefined ? null : learned.has(name ?? '', found.cgroup ?? undefined),
    };
  };
  const own = end(args.cgroup, args.port, args.program);
  const peer = [args['peer-cgroup'], args['peer-port'], args['peer-program']].some((given) => given !== undefined)
    ? end(args['peer-cgroup'], args['peer-port'] ?? args.port, args['peer-program'])
    : undefined;
  const result = tryPolicy({ file: args.file, hash, policy, places }, peer === undefined ? [own] : [own, peer]);
  say(args.json ? JSON.stringify(result, undefined, 2) : renderTrial(result));
}

/** Undefined where only root can see it. */
function readLearned(stateDir: string): LearnedPrograms | undefined {
  try {
    accessSync(`${stateDir}/learned.json`, constants.R_OK);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EACCES') return undefined;
  }
  return new LearnedPrograms(stateDir);
}
