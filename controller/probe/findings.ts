/** What the kernel gate looks at, as data; names as in enum gate_finding of bpf/abi.h. */
import type { GateMasks } from '../datapath/settings.js';
import type { Hazard } from '../policy/programs.js';

/** The parts of the self-test, in the order in which they run. */
export const PROBES = [
  'redirect',
  'order',
  'end',
  'memory',
  'fionread',
  'splice',
  'signal',
  'zerocopy',
  'removal',
] as const;
export type Probe = (typeof PROBES)[number];
export type FindingId = Probe | 'known_bug' | 'accepted_bug';

/** `unknown`: it could not be found out. */
export type FindingStatus = 'ok' | 'failed' | 'unknown';

export interface Finding {
  readonly id: FindingId;
  readonly status: FindingStatus;
  /** What was seen: one sentence without its full stop. */
  readonly detail: string;
}

interface Meaning {
  /** What is asked. */
  readonly asks: string;
  /** `refuse`: nothing is attached, or an adopted datapath promotes nothing. */
  readonly effect: 'refuse' | 'no-promotion' | 'hazard' | 'note';
  readonly hazard?: Hazard;
  /** What it means for a host when it failed or is unknown. */
  readonly consequence: string;
  readonly remedy: string;
}

/** For what could not be found out. */
export const TRY_AGAIN = 'try again when that has changed';

const OTHER_KERNEL = 'boot another kernel, and report this one';
const fatal = (asks: string): Meaning => ({
  asks,
  effect: 'refuse',
  consequence: 'no connection can be accelerated',
  remedy: OTHER_KERNEL,
});

export const MEANING: Readonly<Record<FindingId, Meaning>> = {
  redirect: fatal("messages go to the reader's queue and arrive"),
  order: fatal('order holds over switches between redirection and TCP'),
  end: fatal('redirected bytes are read before EOF'),
  memory: fatal('a sender is held when its reader does not read'),
  removal: fatal('nothing is lost when a connection leaves the sockmap'),
  fionread: {
    asks: 'FIONREAD counts both queues',
    effect: 'hazard',
    hazard: 'fionread',
    consequence: 'programs known to depend on FIONREAD stay on TCP',
    remedy: 'exclude other programs that depend on it, or boot a release with the fix (in mainline since July 2026)',
  },
  splice: {
    asks: 'splice sees redirected bytes',
    effect: 'hazard',
    hazard: 'splice',
    consequence: 'programs known to splice stay on TCP',
    remedy: 'exclude other programs that splice from sockets; no kernel is known to do it',
  },
  signal: {
    asks: 'a signal interrupts a blocking receive with EINTR',
    effect: 'note',
    consequence: 'with blockingReaders, a signal makes recv return EAGAIN',
    remedy: 'use blockingReaders only for programs that take no signals, or retry on EAGAIN',
  },
  zerocopy: {
    asks: 'MSG_ZEROCOPY on a promoted socket is completed',
    effect: 'note',
    consequence: 'a program that sets SO_ZEROCOPY after promotion gets no completions',
    remedy: 'exclude programs that set it later than right after connect or accept',
  },
  known_bug: {
    asks: 'the release has no bug that forbids promotion',
    effect: 'no-promotion',
    consequence: 'nothing is promoted',
    remedy: 'boot a later release, or accept the risk with "up --accept-known-bugs"',
  },
  accepted_bug: {
    asks: 'no bug of the release had to be accepted',
    effect: 'note',
    consequence: 'connections are promoted in spite of it, as --accept-known-bugs asks',
    remedy: 'boot a later release',
  },
};

/** What the controller goes by. */
export interface GateFacts {
  /** The finding that forbids every promotion, if one does. */
  readonly refusal: FindingId | undefined;
  /** Hazards of programs that this kernel has, or may have. */
  readonly hazards: ReadonlySet<Hazard>;
}

export function gateFacts({ failed, unknown }: GateMasks): GateFacts {
  const ids = Object.keys(MEANING) as FindingId[];
  const refusal = ids.find((id) => {
    const { effect } = MEANING[id];
    return failed.includes(id) && (effect === 'refuse' || effect === 'no-promotion');
  });
  const hazards = ids.flatMap((id) => {
    const { hazard } = MEANING[id];
    return hazard !== undefined && (failed.includes(id) || unknown.includes(id)) ? [hazard] : [];
  });
  return { refusal, hazards: new Set(hazards) };
}

export function gateMasks(findings: readonly Finding[]): GateMasks {
  const having = (status: FindingStatus): string[] =>
    findings.filter((finding) => finding.status === status).map(({ id }) => id);
  return { failed: having('failed'), unknown: having('unknown') };
}

/** One line for `status`. */
export function describeMasks({ failed, unknown }: GateMasks): string {
  const { refusal } = gateFacts({ failed, unknown });
  const lists = [
    refusal === undefined ? 'passed' : `${refusal}: ${MEANING[refusal].consequence}`,
    ...failed.filter((id) => id !== refusal).map((id) => `${id}: ${MEANING[id as FindingId].consequence}`),
    ...(unknown.length > 0 ? [`not known: ${unknown.join(', ')}`] : []),
  ];
  return lists.join('; ');
}
