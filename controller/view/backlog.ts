/** Redirected bytes that wait to be received. */
import type { Datapath } from '../datapath/datapath.js';
import { type Control, otherSide, type Side, SIDES } from '../datapath/pair-table.js';

export interface Backlog {
  slot: number;
  control: Control;
  /** The sending side. */
  side: Side;
  /** Bytes redirected and not received; above 0. */
  waiting: number;
  /** Bytes received of all that was redirected. */
  consumed: number;
}

/** Every direction with a backlog, as the iterator's run `pass` found it; default: one made now. */
export function backlogs(datapath: Datapath, pass = datapath.runPromote()): Backlog[] {
  const found: Backlog[] = [];
  const { pairs } = datapath;
  for (const [slot, control] of pairs.slots('inserted', 'draining', 'leaving')) {
    for (const side of SIDES) {
      // The reader's count comes first: what is redirected meanwhile counts as waiting.
      const consumed = pairs.drained(slot, otherSide(side), pass);
      if (consumed === undefined) continue;
      const waiting = pairs.redirectedBytes(slot, side) - consumed;
      if (waiting > 0) found.push({ slot, control, side, waiting, consumed });
    }
  }
  return found;
}

/** Bytes waiting over all pairs. */
export function totalBacklog(datapath: Datapath): number {
  return backlogs(datapath).reduce((sum, { waiting }) => sum + waiting, 0);
}
