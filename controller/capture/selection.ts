/** Which pairs a capture is about. */
import { EXIT, UserError } from '../errors.js';
import { cgroupMatcher, cgroupProblem, type Matcher } from '../policy/glob.js';
import { quote } from '../policy/words.js';
import type { Candidate, PairName } from './streams.js';

/** What was asked for; every part that is there must hold. */
export interface SelectionOptions {
  /** As `pairs` prints it. */
  pair: string | undefined;
  /** Either end's own port, or the one it connected to. */
  port: number | undefined;
  /** Of either end: path below the cgroup v2 root, as in a policy. */
  cgroup: string | undefined;
}

export class Selection {
  readonly pair: PairName | undefined;
  readonly #port: number | undefined;
  readonly #cgroup: Matcher | undefined;

  /** @throws UserError (exit code 2) for what can't be meant */
  constructor(options: SelectionOptions) {
    this.pair = options.pair === undefined ? undefined : parsePair(options.pair);
    this.#port = options.port;
    this.#cgroup = options.cgroup === undefined ? undefined : parseCgroup(options.cgroup);
  }

  /** @param cgroupPath the path of a cgroup by its id, undefined once it is gone */
  wants(candidate: Candidate, cgroupPath: (id: bigint) => string | undefined): boolean {
    const { pair } = this;
    const port = this.#port;
    const matches = this.#cgroup;
    if (pair !== undefined && (pair.slot !== candidate.slot || pair.generation !== candidate.generation)) return false;
    if (
      port !== undefined &&
      !candidate.ends.some(({ local, remote }) => local.port === port || remote.port === port)
    ) {
      return false;
    }
    return matches === undefined || candidate.cgroups.some((id) => matches(cgroupPath(id) ?? ''));
  }
}

/** @throws UserError (exit code 2) */
export function parseCgroup(text: string): Matcher {
  const problem = cgroupProblem(text);
  if (problem !== undefined) throw new UserError(`--cgroup: ${quote(text)} ${problem}`, EXIT.usage);
  return cgroupMatcher(text);
}

/** @throws UserError (exit code 2) */
export function parsePair(text: string): PairName {
  const [, slot, generation] = /^(\d{1,7})\.(\d{1,8})$/.exec(text) ?? [];
  if (slot === undefined || generation === undefined) {
    throw new UserError(
      `--pair: ${quote(text)} is not a pair: write one as "slipstream-bpf pairs" shows it`,
      EXIT.usage,
    );
  }
  return { slot: Number(slot), generation: Number(generation) };
}
