/** Redirected traffic by sending cgroup, closed and open pairs together. */
import type { CgroupNames } from '../datapath/cgroups.js';
import type { Datapath } from '../datapath/datapath.js';
import { SIDES } from '../datapath/pair-table.js';

export interface CgroupTotal {
  /** Path below the cgroup v2 root; `(gone)` for removed cgroups together. */
  cgroup: string;
  bytes: number;
  messages: number;
}

export const GONE = '(gone)';

/**
 * Closed pairs are read before open ones: a pair that closes between is missed, never counted twice. What pending
 * cgroups sent is left out until their names are known.
 */
export function cgroupTotals(datapath: Datapath, cgroups: CgroupNames): CgroupTotal[] {
  const byName = new Map<string, CgroupTotal>();
  const add = (id: bigint, bytes: number, messages: number): void => {
    if (id !== 0n && cgroups.isPending(id)) return;
    const cgroup = (id === 0n ? undefined : cgroups.path(id)) ?? GONE;
    const total = byName.get(cgroup) ?? { cgroup, bytes: 0, messages: 0 };
    total.bytes += bytes;
    total.messages += messages;
    byName.set(cgroup, total);
  };
  for (const [id, { bytes, messages }] of datapath.closedTotals()) {
    if (id !== 0n || messages > 0) add(id, bytes, messages);
  }
  const { pairs } = datapath;
  for (const [slot] of pairs.slots('observed', 'candidate', 'approved', 'inserted', 'draining', 'leaving')) {
    for (const side of SIDES) {
      const messages = pairs.redirectedMessages(slot, side);
      if (messages > 0) add(pairs.cgroupId(slot, side), pairs.redirectedBytes(slot, side), messages);
    }
  }
  return [...byName.values()].sort((a, b) => a.cgroup.localeCompare(b.cgroup));
}

/** Moves counts of cgroups that no longer exist to `(gone)`, to keep map and labels small. */
export function foldGoneCgroups(datapath: Datapath, cgroups: CgroupNames): void {
  for (const id of datapath.closedTotals().keys()) {
    if (id !== 0n && !cgroups.exists(id)) datapath.foldTotal(id);
  }
}
