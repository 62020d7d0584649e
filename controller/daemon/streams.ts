/** Measures streams on TCP and redirected, and carries out what decisions/streams.ts makes of it. */
import type { Logger } from 'pino';

import type { Datapath } from '../datapath/datapath.js';
import { type Control, SIDES, type State, STATES } from '../datapath/pair-table.js';
import {
  areSmall,
  hasSlowed,
  isFaster,
  isSteady,
  measureAgainAfter,
  middle,
  retryAfter,
  WINDOW,
  WINDOWS,
} from '../decisions/streams.js';
import type { Streaming } from '../policy/schema.js';

/** So many are measured at a time: they would disturb each other. */
const AT_A_TIME = 2;
/** Whoever finds no place tries again after this time, milliseconds. */
const NO_PLACE = 500;
/** Looks in a row at which a stream must be slow to be measured again. */
const SLOW_LOOKS = 2;
const NEVER = 2n ** 63n;

/** What the controller does for it. */
export interface StreamActions {
  approve: (slot: number, control: Control) => void;
  demote: (slot: number, control: Control, reason: 'slower' | 'measured') => void;
}

/**
 * tcp: rates are taken on TCP, the pair is a CANDIDATE. entering: on its way into the sockmap. direct: rates are taken
 * there. kept: it was faster. resting: it is on TCP.
 */
type Phase = 'tcp' | 'entering' | 'direct' | 'kept' | 'resting';

/** States of its pair. */
const EXPECTED: Readonly<Record<Phase, readonly State[]>> = {
  tcp: ['candidate'],
  entering: ['approved', 'inserted'],
  direct: ['inserted'],
  kept: ['inserted'],
  resting: STATES,
};

interface Stream {
  generation: number;
  phase: Phase;
  /** Counts at the end of the last window, and when that was. */
  last: { bytes: number; messages: number; at: number };
  tcp: number[];
  direct: number[];
  /** Measurements in a row with the same result. */
  failures: number;
  successes: number;
  /** When a kept stream is measured again, milliseconds of performance.now(). */
  again: number;
  slowLooks: number;
}

export class Streams {
  readonly #datapath: Datapath;
  readonly #actions: StreamActions;
  readonly #log: Logger;
  readonly #gain: number | undefined;
  readonly #streams = new Map<number, Stream>();
  #timer: NodeJS.Timeout | undefined;

  constructor(datapath: Datapath, actions: StreamActions, log: Logger, gain?: number) {
    this.#datapath = datapath;
    this.#actions = actions;
    this.#log = log;
    this.#gain = gain;
  }

  /** Whether this pair is, or is about to be, redirected as a stream: other rules are not for it. */
  has(slot: number, control: Control): boolean {
    const stream = this.#streams.get(slot);
    return stream?.generation === control.generation && stream.phase !== 'resting';
  }

  /** Begins to measure a CANDIDATE. @param policy tcp: it is not to be redirected as a stream */
  measure(slot: number, control: Control, policy: Streaming): void {
    if (this.has(slot, control)) return;
    if (policy === 'tcp') {
      this.#rest(slot, control, Infinity);
      return;
    }
    if ([...this.#streams.values()].filter(isMeasured).length >= AT_A_TIME) {
      this.#rest(slot, control, NO_PLACE);
      return;
    }
    const before = this.#streams.get(slot);
    const known = before?.generation === control.generation ? before : undefined;
    this.#streams.set(slot, {
      generation: control.generation,
      phase: 'tcp',
      last: this.#counts(slot),
      tcp: [],
      direct: [],
      failures: known?.failures ?? 0,
      successes: known?.successes ?? 0,
      again: Infinity,
      slowLooks: 0,
    });
    this.#timer ??= setInterval(() => {
      this.#look();
    }, WINDOW);
  }

  /** Looks at what is redirected, and forgets what has closed. To be called now and then. */
  sweep(): void {
    for (const [slot, stream] of this.#streams) {
      const control = this.#datapath.pairs.control(slot);
      if (control.generation !== stream.generation || control.state === 'free' || control.state === 'closed') {
        this.#streams.delete(slot);
      } else if (stream.phase === 'kept') {
        this.#watch(slot, control, stream);
      }
    }
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
    const { pairs } = this.#datapath;
    for (const [slot, { generation, phase }] of this.#streams) {
      const control = pairs.control(slot);
      if (phase === 'tcp' && control.generation === generation && control.state === 'candidate') {
        pairs.change(slot, control, 'observed');
      }
    }
    this.#streams.clear();
  }

  /** The end of a window. */
  #look(): void {
    for (const [slot, stream] of this.#streams) {
      if (!isMeasured(stream)) continue;
      const control = this.#datapath.pairs.control(slot);
      if (control.generation !== stream.generation || !EXPECTED[stream.phase].includes(control.state)) {
        stream.phase = 'resting'; // others have decided, or it has closed
      } else {
        this.#advance(slot, control, stream);
      }
    }
    if ([...this.#streams.values()].some(isMeasured)) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  #advance(slot: number, control: Control, stream: Stream): void {
    if (stream.phase === 'entering') {
      if (control.state !== 'inserted') return;
      stream.phase = 'direct';
      stream.last = this.#counts(slot);
      return;
    }
    const { rate, bytes, messages } = this.#window(slot, stream);
    if (stream.phase === 'tcp') {
      stream.tcp.push(rate);
      if (stream.tcp.length < WINDOWS) return;
      if (!isSteady(stream.tcp)) {
        stream.phase = 'resting';
        this.#rest(slot, control, retryAfter(stream.failures++));
        return;
      }
      stream.phase = 'entering';
      this.#datapath.pairs.startWindow(slot);
      this.#actions.approve(slot, control);
      return;
    }
    stream.direct.push(rate);
    // The first window is for settling down.
    const rates = stream.direct.slice(1);
    const small = areSmall(bytes, messages);
    if (!small && rates.length < WINDOWS) return;
    const kept = !small && isFaster(stream.tcp, rates, this.#gain);
    const [tcp, direct] = [middle(stream.tcp), middle(rates)].map(Math.round);
    this.#log.debug(
      { pair: `${String(slot)}.${String(control.generation)}`, tcp, direct, small, kept },
      'stream measured, bytes/s',
    );
    if (kept) {
      stream.phase = 'kept';
      stream.failures = 0;
      stream.slowLooks = 0;
      stream.again = performance.now() + measureAgainAfter(stream.successes++);
      return;
    }
    stream.successes = 0;
    this.#datapath.pairs.setStreamRetry(slot, after(retryAfter(stream.failures++)));
    stream.phase = 'resting';
    this.#actions.demote(slot, control, 'slower');
  }

  #watch(slot: number, control: Control, stream: Stream): void {
    if (control.state !== 'inserted') {
      stream.phase = 'resting';
      return;
    }
    const { rate } = this.#window(slot, stream);
    stream.slowLooks = hasSlowed(rate, middle(stream.tcp)) ? stream.slowLooks + 1 : 0;
    if (stream.slowLooks < SLOW_LOOKS && performance.now() < stream.again) return;
    stream.phase = 'resting';
    this.#actions.demote(slot, control, 'measured');
  }

  /** Leaves a CANDIDATE on TCP. */
  #rest(slot: number, control: Control, milliseconds: number): void {
    const { pairs } = this.#datapath;
    pairs.startWindow(slot);
    pairs.setStreamRetry(slot, after(milliseconds));
    pairs.change(slot, control, 'observed');
  }

  #window(slot: number, stream: Stream): { rate: number; bytes: number; messages: number } {
    const { last } = stream;
    const now = this.#counts(slot);
    stream.last = now;
    const bytes = now.bytes - last.bytes;
    return { rate: (1000 * bytes) / (now.at - last.at), bytes, messages: now.messages - last.messages };
  }

  #counts(slot: number): Stream['last'] {
    const { pairs } = this.#datapath;
    const sum = (count: (side: 0 | 1) => number): number => count(SIDES[0]) + count(SIDES[1]);
    return {
      bytes: sum((side) => pairs.receivedBytes(slot, side)),
      messages: sum((side) => pairs.redirectedMessages(slot, side) + pairs.passedMessages(slot, side)),
      at: performance.now(),
    };
  }
}

function isMeasured({ phase }: Stream): boolean {
  return phase !== 'kept' && phase !== 'resting';
}

function after(milliseconds: number): bigint {
  if (milliseconds === Infinity) return NEVER;
  return process.hrtime.bigint() + BigInt(Math.ceil(milliseconds)) * 1_000_000n;
}
