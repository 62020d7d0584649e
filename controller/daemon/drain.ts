/** Takes pairs out of the sockmap without losing a byte: invariant 4 of docs/design.md. */
import { rcuBarrier } from '../../addon/index.js';
import { type Control, type Drainable, otherSide, type Side, SIDES } from '../datapath/drainable.js';

/** Longest pause between two looks at a draining pair, milliseconds. */
const PAUSE_LIMIT = 50;

export interface DrainHooks {
  /** A side's socket was taken out. */
  onEvicted?: (slot: number, control: Control, side: Side) => void;
  /** A pair is outside and still open; with the time given to add(). */
  onDrained?: (slot: number, retryNs: bigint) => void;
  /** A round failed; the next one tries again. */
  onError?: (error: unknown) => void;
}

interface Draining {
  control: Control;
  retryNs: bigint;
  /** True once no sender can still be deciding by the state before LEAVING. */
  settled: boolean;
}

export class Drain {
  readonly #datapath: Drainable;
  readonly #hooks: DrainHooks;
  readonly #draining = new Map<number, Draining>();
  #loop: Promise<void> | undefined;
  #stopped = false;

  constructor(datapath: Drainable, hooks: DrainHooks = {}) {
    this.#datapath = datapath;
    this.#hooks = hooks;
  }

  /** Starts with a pair that is DRAINING or LEAVING. @param retryNs handed to onDrained */
  add(slot: number, control: Control, retryNs: bigint): void {
    this.#draining.set(slot, { control, retryNs, settled: false });
    this.#loop ??= this.#run();
  }

  has(slot: number): boolean {
    return this.#draining.has(slot);
  }

  /** Pairs that are drained from now on may be promoted again at once. */
  retryAtOnce(): void {
    for (const entry of this.#draining.values()) entry.retryNs = 0n;
  }

  /** Drains until the sockmap is empty. @returns slots that still hold a socket after `timeoutMs` */
  async empty(timeoutMs: number): Promise<number[]> {
    const deadline = performance.now() + timeoutMs;
    for (;;) {
      await this.#round();
      const left = this.#datapath.occupiedSlots();
      if (left.length === 0 || performance.now() >= deadline) return left;
      await pause(PAUSE_LIMIT);
    }
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#loop;
  }

  async #run(): Promise<void> {
    let wait = 1;
    while (!this.#stopped && this.#draining.size > 0) {
      const before = this.#draining.size;
      try {
        await this.#round();
      } catch (error) {
        // Pairs stay in the sockmap and correct; the next round tries again.
        this.#hooks.onError?.(error);
        wait = PAUSE_LIMIT;
      }
      wait = this.#draining.size < before ? 1 : Math.min(PAUSE_LIMIT, wait * 2);
      if (this.#draining.size > 0) await pause(wait);
    }
    this.#loop = undefined;
  }

  /**
   * Invariant 4, in two steps. DRAINING redirects only behind what still waits, so
   * that no reader finds both queues filled. When the readers have received all
   * that was counted, LEAVING lets every message pass; after an RCU grace period
   * every program run that saw DRAINING has counted what it redirected. If then
   * still nothing waits, the pair leaves the sockmap; else it drains on.
   */
  async #round(): Promise<void> {
    const { pairs } = this.#datapath;
    const leaving = [...this.#draining.values()].filter(({ control }) => control.state === 'leaving');
    if (leaving.some(({ settled }) => !settled)) {
      await rcuBarrier();
      for (const entry of leaving) entry.settled = true;
    }
    if (this.#draining.size === 0) return;
    const pass = this.#datapath.runPromote();
    for (const [slot, entry] of this.#draining) {
      if (pairs.control(slot).word !== entry.control.word) {
        this.#draining.delete(slot); // closed: the kernel took its sockets out
        continue;
      }
      // A side that has closed reads no more, and leaves by itself with its last descriptor.
      const open = SIDES.filter((side) => (pairs.closedSides(slot) & (1 << side)) === 0);
      const empty = this.#isEmpty(slot, open, pass);
      if (entry.control.state === 'draining') {
        if (empty) this.#step(slot, entry, 'leaving');
      } else if (!entry.settled) {
        continue;
      } else if (!empty) {
        this.#step(slot, entry, 'draining');
      } else {
        for (const side of open) {
          this.#datapath.evict(slot, side);
          this.#hooks.onEvicted?.(slot, entry.control, side);
        }
        this.#draining.delete(slot);
        if (open.length === SIDES.length && pairs.change(slot, entry.control, 'observed') !== undefined) {
          this.#hooks.onDrained?.(slot, entry.retryNs);
        }
      }
    }
  }

  /**
   * Whether the readers have taken all that was redirected to them, by the sums alone: a queue may be empty while a
   * sender that was counted still waits for the reader's lock (bpf_tcp_ingress). A stream that the guard has ended
   * stays where it is refused.
   */
  #isEmpty(slot: number, open: Side[], pass: number): boolean {
    const { pairs } = this.#datapath;
    if (SIDES.some((side) => pairs.overtaken(slot, side))) return false;
    return open.every((reader) => pairs.drained(slot, reader, pass) === pairs.redirectedBytes(slot, otherSide(reader)));
  }

  /** Moves a draining pair to the other of its two states. */
  #step(slot: number, entry: Draining, state: 'draining' | 'leaving'): void {
    const next = this.#datapath.pairs.change(slot, entry.control, state);
    if (next === undefined) this.#draining.delete(slot);
    else Object.assign(entry, { control: next, settled: false });
  }
}

/** Takes a pair back that is not INSERTED yet; true if it was still that pair. */
export function abandon(datapath: Drainable, slot: number, control: Control): boolean {
  const { pairs } = datapath;
  // An index may still be an earlier pair's, with data that its reader has not taken.
  const inserted = SIDES.filter((side) => pairs.wasInserted(slot, side));
  if (control.state === 'approved') for (const side of inserted) datapath.evict(slot, side);
  return pairs.change(slot, control, 'observed') !== undefined;
}

/**
 * Ends promotion in a datapath that no controller runs, and takes every pair back to TCP.
 * @param timeoutMs how long to wait for readers to empty their queues
 * @returns slots that still hold a socket in the sockmap
 */
export async function drainAll(datapath: Drainable, timeoutMs: number): Promise<number[]> {
  const { pairs, settings } = datapath;
  const drain = new Drain(datapath);
  settings.paused = true;
  for (const [slot, control] of pairs.slots('candidate', 'approved', 'inserted', 'draining', 'leaving')) {
    if (control.state === 'candidate' || control.state === 'approved') {
      abandon(datapath, slot, control);
    } else {
      const draining = control.state === 'inserted' ? pairs.change(slot, control, 'draining') : control;
      if (draining !== undefined) drain.add(slot, draining, 0n);
    }
  }
  const kept = await drain.empty(timeoutMs);
  await drain.stop();
  return kept;
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
