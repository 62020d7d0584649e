/**
 * Bugs of the kernel's sockmap, as data, and what they mean for a kernel.
 *
 * Ranges are those of the CVE records (kernel.org is their author), from the first
 * release that has the bug up to, but without, the first that has the fix. Series that ended
 * without a fix lie within a range.
 */
import { compareLevels, type KernelVersion, parseLevel } from './kernel-version.js';

/** What a bug means for us. */
export type Consequence =
  /** It needs something that this datapath never does. */
  | 'avoided'
  /** It may strike: nothing is promoted. */
  | 'no-promotion'
  /** It strikes only when something else has failed, and costs no data. */
  | 'warn';

export interface KnownBug {
  readonly id: string;
  /** What goes wrong, one sentence. */
  readonly summary: string;
  /** What has to be done for it to strike. */
  readonly needs: string;
  readonly consequence: Consequence;
  /** From the first release with the bug to the first without it. */
  readonly affected: readonly (readonly [from: string, before: string])[];
}

const SKB_PROGRAM = 'an sk_skb program (stream parser or verdict) on the sockmap; this datapath has none';

export const KNOWN_BUGS: readonly KnownBug[] = [
  {
    id: 'CVE-2024-39500',
    summary:
      'a socket that is closed while it is being taken out of a sockmap may never be closed, or be used after it was freed.',
    needs: 'removal from the sockmap at the moment of a close, which every demotion risks',
    consequence: 'no-promotion',
    affected: [
      ['5.13', '5.15.162'],
      ['5.16', '6.1.95'],
      ['6.2', '6.6.35'],
      ['6.7', '6.9.6'],
    ],
  },
  {
    id: 'CVE-2024-56633',
    summary: 'the memory account of a sender goes wrong when a redirect fails half-way.',
    needs: 'a redirect that runs out of memory',
    consequence: 'warn',
    affected: [
      ['4.20', '5.15.174'],
      ['5.16', '6.1.120'],
      ['6.2', '6.6.66'],
      ['6.7', '6.12.5'],
    ],
  },
  {
    id: 'CVE-2026-74589',
    summary: 'a send may use the socket that it redirects to after it was freed.',
    needs: 'bpf_msg_apply_bytes, which this datapath never calls',
    consequence: 'avoided',
    affected: [
      ['4.20', '5.15.216'],
      ['5.16', '6.1.183'],
      ['6.2', '6.6.152'],
      ['6.7', '6.12.104'],
      ['6.13', '6.18.45'],
      ['6.19', '7.1.9'],
    ],
  },
  {
    id: 'CVE-2026-74714',
    summary: 'the BPF iterator over TCP sockets may use a socket after it was freed.',
    needs: 'the iter/tcp program type; this datapath iterates over its own socket storage',
    consequence: 'avoided',
    affected: [
      ['5.15', '6.1.183'],
      ['6.2', '6.6.152'],
      ['6.7', '6.12.104'],
      ['6.13', '6.18.45'],
      ['6.19', '7.1.9'],
    ],
  },
  {
    id: 'CVE-2026-68284',
    summary: 'a corked message may be freed twice by two senders.',
    needs: 'bpf_msg_cork_bytes, which this datapath never calls',
    consequence: 'avoided',
    affected: [
      ['4.20', '5.15.216'],
      ['5.16', '6.1.183'],
      ['6.2', '6.6.148'],
      ['6.7', '6.12.101'],
      ['6.13', '6.18.42'],
      ['6.19', '7.1.6'],
    ],
  },
  {
    id: 'CVE-2024-46783',
    summary: 'send returns a negative number that is no error after corked messages went out.',
    needs: 'bpf_msg_cork_bytes, which this datapath never calls',
    consequence: 'avoided',
    affected: [
      ['4.17', '5.15.167'],
      ['5.16', '6.1.110'],
      ['6.2', '6.6.51'],
      ['6.7', '6.10.10'],
    ],
  },
  {
    id: 'CVE-2024-56664',
    summary: 'replacing an element of a sockmap while its socket is closed takes the wrong socket out.',
    needs: 'replacing an element; this datapath only fills empty ones (BPF_NOEXIST)',
    consequence: 'avoided',
    affected: [
      ['4.20', '6.1.125'],
      ['6.2', '6.6.67'],
      ['6.7', '6.12.6'],
    ],
  },
  {
    id: 'MPTCP subflows (commit fbade4bd08ba)',
    summary: 'a subflow of MPTCP in a sockmap breaks the connection it belongs to, or the kernel.',
    needs: 'an MPTCP socket in the sockmap; this datapath turns them away',
    consequence: 'avoided',
    affected: [
      ['5.7', '6.1.159'],
      ['6.2', '6.6.118'],
      ['6.7', '6.12.60'],
      ['6.13', '6.17.10'],
    ],
  },
  {
    id: 'CVE-2026-64548',
    summary: 'bpf_msg_push_data writes out of bounds.',
    needs: 'a program that edits messages; this datapath never does',
    consequence: 'avoided',
    affected: [
      ['4.20', '5.15.212'],
      ['5.16', '6.1.178'],
      ['6.2', '6.6.145'],
      ['6.7', '6.12.97'],
      ['6.13', '6.18.40'],
      ['6.19', '7.1.5'],
    ],
  },
  {
    id: 'CVE-2025-38154',
    summary: 'the backlog of a sockmap socket may use a socket after it was freed.',
    needs: SKB_PROGRAM,
    consequence: 'avoided',
    affected: [
      ['6.1.95', '6.1.142'],
      ['6.6.35', '6.6.94'],
      ['6.9.6', '6.12.34'],
      ['6.13', '6.15.3'],
    ],
  },
  {
    id: 'CVE-2025-38165',
    summary: 'the kernel panics when a shared packet is made linear.',
    needs: SKB_PROGRAM,
    consequence: 'avoided',
    affected: [
      ['6.1.54', '6.1.142'],
      ['6.5.4', '6.6.94'],
      ['6.7', '6.12.34'],
      ['6.13', '6.15.3'],
    ],
  },
  {
    id: 'CVE-2024-26731',
    summary: 'a packet for a socket that is being closed dereferences a null pointer.',
    needs: SKB_PROGRAM,
    consequence: 'avoided',
    affected: [
      ['6.1', '6.1.80'],
      ['6.2', '6.6.19'],
      ['6.7', '6.7.7'],
    ],
  },
];

/** Whether a kernel has a bug. `unknown`: its base has it, but its vendor may have put the fix in. */
export type Presence = 'present' | 'absent' | 'unknown';

export function presence(bug: KnownBug, kernel: KernelVersion): Presence {
  const { base, exact } = kernel;
  if (base === undefined) return 'unknown';
  const hit = bug.affected.some(
    ([from, before]) => compareLevels(base, parseLevel(from)) >= 0 && compareLevels(base, parseLevel(before)) < 0,
  );
  if (!hit) return 'absent';
  return exact ? 'present' : 'unknown';
}

export interface BugReport {
  /** Every bug that this kernel has, or may have. */
  readonly bugs: readonly (KnownBug & { readonly presence: Exclude<Presence, 'absent'> })[];
  /** Those that forbid promotion. */
  readonly forbidding: readonly KnownBug[];
  /** Those that would, if the kernel has them. */
  readonly doubtful: readonly KnownBug[];
  /** Those to be told about. */
  readonly warned: readonly KnownBug[];
}

export function knownBugs(kernel: KernelVersion, table: readonly KnownBug[] = KNOWN_BUGS): BugReport {
  const bugs = table.flatMap((bug) => {
    const found = presence(bug, kernel);
    return found === 'absent' ? [] : [{ ...bug, presence: found }];
  });
  const pick = (consequence: Consequence, present: Presence): KnownBug[] =>
    bugs.filter((bug) => bug.consequence === consequence && bug.presence === present);
  return {
    bugs,
    forbidding: pick('no-promotion', 'present'),
    doubtful: pick('no-promotion', 'unknown'),
    warned: [...pick('warn', 'present'), ...pick('warn', 'unknown')],
  };
}

/** The first releases without any of these bugs, of the kernel's own series if there is one, else of all later. */
export function remedyRelease(bugs: readonly KnownBug[], kernel: KernelVersion): string {
  const { base } = kernel;
  const ends = bugs.flatMap(({ affected }) =>
    affected
      .filter(([from]) => base === undefined || compareLevels(base, parseLevel(from)) >= 0)
      .map(([, before]) => before),
  );
  return ends.sort((a, b) => compareLevels(parseLevel(a), parseLevel(b))).at(-1) ?? '6.12';
}
