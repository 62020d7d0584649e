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
    text: 'A stream stays on TCP, but each receive is looked at. To avoid that, attach to a cgroup without it (`--cgroup`).',
  },
  {
    of: ({ workload }) => workload === 'connect',
    text:
      'Each end is looked up when it connects, and a local pair gets a slot of the table. To avoid that, attach to a ' +
      'cgroup without these programs (`--cgroup`).',
  },
  {
    of: ({ workload }) => workload.startsWith('nginx'),
    text: 'nginx stays on TCP where this kernel fails the finding `fionread`; its receives are looked at.',
  },
];

const NO_REMARK = 'Not analysed yet. `action: tcp` for its port or cgroup keeps it on TCP.';

export function remarkOn(row: Loser): string {
  return REMARKS.find(({ of }) => of(row))?.text ?? NO_REMARK;
}
