/** Why slipstream-bpf loses where it does, and what avoids it; by workload. Pure. */
import type { Overhead, Row } from './format.js';

/** Slower than this part of TCP is a loss, which the document explains. */
export const BAR = 0.97;

type Loser = Pick<Row | Overhead, 'workload' | 'path' | 'placement' | 'size' | 'detail'>;

interface Remark {
  of: (row: Loser) => boolean;
  text: string;
}

const REMARKS: readonly Remark[] = [
  {
    of: ({ workload }) => workload === 'stream',
    text: 'A stream stays on TCP; each receive is still looked at. `action: tcp` for its port or cgroup does not change that, another `--cgroup` does.',
  },
  {
    of: ({ workload }) => workload === 'connect',
    text: 'Both ends are looked up and given a slot when they connect. Attach to a cgroup that leaves these programs out (`--cgroup`).',
  },
];

const NO_REMARK = 'Not analysed yet. `action: tcp` for its port or cgroup keeps it on TCP.';

export function remarkOn(row: Loser): string {
  return REMARKS.find(({ of }) => of(row))?.text ?? NO_REMARK;
}
