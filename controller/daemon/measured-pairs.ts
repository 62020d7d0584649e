/**
 * The controller's part of `bench --port`: takes the pairs of a port to TCP and back as that command asks, and puts
 * everything back when it ends or is killed. See decisions/measurement.ts.
 */
import { setTimeout as pause } from 'node:timers/promises';

import type { Logger } from 'pino';

import type { Datapath } from '../datapath/datapath.js';
import type { Control } from '../datapath/pair-table.js';
import { decodeMeasurement, type Measurement, nextStep } from '../decisions/measurement.js';

/** How often pairs are looked at while there is something to do, milliseconds. */
const INTERVAL = 20;
/** How long pairs are brought back after the end before the rest is left to the ordinary way, milliseconds. */
const RESTORE_LIMIT = 5000;
/** Likewise when the controller ends; and between two looks. */
const STOP_LIMIT = 1000;
const STOP_PAUSE = 5;
const NEVER = 2n ** 63n;

/** What the controller does for it. */
export interface PairActions {
  /** Slots of the pairs that are promoted. */
  inserted: () => Iterable<number>;
  demote: (slot: number, control: Control) => boolean;
  /** Judges a pair again and has it promoted if nothing is against it. */
  approve: (slot: number, control: Control) => void;
}

interface Entry {
  generation: number;
  /** Why the pair had been taken back before, for afterwards. */
  demotion: string;
}

export class MeasuredPairs {
  readonly #datapath: Datapath;
  readonly #actions: PairActions;
  readonly #log: Logger;
  readonly #entries = new Map<number, Entry>();
  /** The last request that was live. */
  #request: Measurement | undefined;
  /** Pairs that took part, and when the request ended; milliseconds of performance.now(). */
  #seen = 0;
  #endedAt: number | undefined;
  #timer: NodeJS.Timeout | undefined;
  #stopped = false;

  constructor(datapath: Datapath, actions: PairActions, log: Logger) {
    this.#datapath = datapath;
    this.#actions = actions;
    this.#log = log;
  }

  /** Whether this pair's ways are not its own: nothing is concluded from them. */
  has(slot: number, control: Control): boolean {
    return this.#entries.get(slot)?.generation === control.generation;
  }

  /** Whether a pair that could be promoted is to stay on TCP; then it takes part from now on. */
  keeps(slot: number, control: Control): boolean {
    const { pairs } = this.#datapath;
    const request = this.#live();
    if (request?.path !== 'tcp' || !pairs.hasPort(slot, request.port)) return false;
    this.#take(slot, control);
    if (pairs.change(slot, control, 'observed') === undefined) return true;
    pairs.setDemotion(slot, 'measured');
    pairs.setRetry(slot, NEVER);
    return true;
  }

  /** Looks whether something is asked for, and does it. */
  poll(): void {
    const { paused, leave } = this.#datapath.settings;
    if (paused || leave) {
      this.#giveUp();
      return;
    }
    const live = this.#live();
    if (live === undefined && this.#request === undefined) return;
    if (live !== undefined && live.port !== this.#request?.port) {
      // Another port without a pause between the two: the first one's pairs are brought back beside it.
      this.#log.info({ port: live.port }, 'bench measures the pairs of a port, on TCP and on the direct path in turns');
      this.#seen = 0;
    }
    if (live === undefined) {
      this.#endedAt ??= performance.now();
    } else {
      this.#request = live;
      this.#endedAt = undefined;
      if (live.path === 'tcp') {
        const { pairs } = this.#datapath;
        for (const slot of this.#actions.inserted()) {
          if (pairs.hasPort(slot, live.port)) this.#take(slot, pairs.control(slot));
        }
      }
    }
    for (const [slot, entry] of this.#entries) this.#step(slot, entry, live);
    const late = this.#endedAt !== undefined && performance.now() - this.#endedAt > RESTORE_LIMIT;
    if (late || (this.#endedAt !== undefined && this.#isRestored())) this.#finish();
    else
      this.#timer ??= setInterval(() => {
        this.poll();
      }, INTERVAL);
  }

  /** Brings everything back before the controller ends, and leaves what takes longer than a moment to the next one. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#stopped = true;
    const { settings } = this.#datapath;
    const deadline = performance.now() + STOP_LIMIT;
    while (this.#entries.size > 0 && !settings.paused && !settings.leave && performance.now() < deadline) {
      for (const [slot, entry] of this.#entries) this.#step(slot, entry, undefined);
      if (this.#isRestored()) break;
      await pause(STOP_PAUSE);
    }
    this.#giveUp();
  }

  /** Leaves all pairs to the ordinary way. @returns how many are not promoted by now */
  #giveUp(): number {
    const late = [...this.#entries].filter(([slot, entry]) => this.#release(slot, entry)).length;
    this.#request = undefined;
    this.#endedAt = undefined;
    clearInterval(this.#timer);
    this.#timer = undefined;
    return late;
  }

  #live(): Measurement | undefined {
    const { settings } = this.#datapath;
    if (this.#stopped || settings.paused || settings.leave) return undefined;
    return decodeMeasurement(settings.measurement, process.hrtime.bigint());
  }

  #take(slot: number, control: Control): void {
    if (this.has(slot, control)) return;
    this.#entries.set(slot, { generation: control.generation, demotion: this.#datapath.pairs.demotion(slot) });
    this.#seen++;
  }

  #step(slot: number, entry: Entry, live: Measurement | undefined): void {
    const { pairs } = this.#datapath;
    const control = pairs.control(slot);
    if (control.generation !== entry.generation) {
      this.#entries.delete(slot);
      return;
    }
    const path = live !== undefined && pairs.hasPort(slot, live.port) ? live.path : 'direct';
    const facts = {
      state: control.state,
      refusal: pairs.refusal(slot),
      demotion: pairs.demotion(slot),
      retryNs: pairs.retryNs(slot),
    };
    switch (nextStep(facts, path, process.hrtime.bigint())) {
      case 'demote':
        this.#actions.demote(slot, control);
        break;
      case 'keep':
        pairs.setRetry(slot, NEVER);
        break;
      case 'approve':
        this.#actions.approve(slot, control);
        break;
      case 'drop':
        this.#entries.delete(slot);
        if (control.state === 'observed' && facts.demotion === 'measured') pairs.setDemotion(slot, entry.demotion);
        break;
      case 'done':
        pairs.setDemotion(slot, entry.demotion);
        break;
      case 'wait':
        break;
    }
  }

  #isRestored(): boolean {
    const { pairs } = this.#datapath;
    return [...this.#entries.keys()].every((slot) => pairs.control(slot).state === 'inserted');
  }

  #finish(): void {
    const { settings } = this.#datapath;
    const port = this.#request?.port;
    this.#log.info({ port, pairs: this.#seen, late: this.#giveUp() }, 'bench measures no longer');
    const word = settings.measurement;
    // Of a command that was killed. Not that of one that has begun meanwhile.
    if (decodeMeasurement(word, process.hrtime.bigint()) === undefined) settings.changeMeasurement(word, 0n);
  }

  /** Leaves a pair to the ordinary way. @returns whether it is not promoted by now */
  #release(slot: number, { generation, demotion }: Entry): boolean {
    const { pairs } = this.#datapath;
    const control = pairs.control(slot);
    this.#entries.delete(slot);
    if (control.generation !== generation || control.state === 'closed' || control.state === 'free') return false;
    if (pairs.demotion(slot) === 'measured') pairs.setDemotion(slot, demotion);
    if (control.state === 'inserted') return false;
    if (control.state === 'observed' && pairs.retryNs(slot) === NEVER && pairs.refusal(slot) === 'none') {
      pairs.setRetry(slot, 0n);
    }
    return true;
  }
}
