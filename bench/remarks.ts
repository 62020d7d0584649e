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
    of: (row) => 'overhead' in row && row.workload !== 'connect',
    text:
      'Every receive on the machine runs `observe` (its time is below), for who is in no policy as well. Only a host without ' +
      'slipstream-bpf avoids it.',
  },
  {
    of: ({ workload }) => workload === 'stream',
    text: 'A stream is measured on both ways now and then, which `streams: tcp` avoids, and each receive is looked at.',
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
  {
    of: ({ workload }) => workload.startsWith('Node.js HTTP'),
    text:
      'Node.js itself takes most of the time of a request, so little can be gained; with many streams in a connection most ' +
      'messages stay on TCP. `action: tcp` for its port or cgroup keeps all there.',
  },
  {
    of: ({ placement }) => placement === 'cross-cpu',
    text:
      'Waking a CPU that idles, an interrupt between the processors of a virtual machine, takes ten times as long as all else ' +
      'here, and varies. `action: tcp` for its port or cgroup keeps it on TCP.',
  },
];

const NO_REMARK = 'Not analysed yet. `action: tcp` for its port or cgroup keeps it on TCP.';

export function remarkOn(row: Loser): string {
  return REMARKS.find(({ of }) => of(row))?.text ?? NO_REMARK;
}
