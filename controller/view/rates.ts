/** How fast bytes move at present: differences between two readings of the table. */
import type { Datapath } from '../datapath/datapath.js';
import { SIDES, type State } from '../datapath/pair-table.js';

/** Bytes and messages a second. */
export interface Rate {
  redirectedBytes: number;
  redirectedMessages: number;
  /** Received by the open pairs without having been redirected. */
  tcpBytes: number;
}

interface Reading {
  generation: number;
  redirectedBytes: number;
  redirectedMessages: number;
  received: number;
}

const OPEN: readonly State[] = ['observed', 'candidate', 'approved', 'inserted', 'draining', 'leaving'];
/** Readings are no closer than this, however many ask, milliseconds. */
const LEAST_INTERVAL = 900;
/** What was read longer ago is no present any more, milliseconds. */
const MOST_INTERVAL = 10_000;

export class RateMeter {
  readonly #datapath: Datapath;
  readonly #clock: () => number;
  #readings = new Map<number, Reading>();
  #rates = new Map<number, Rate>();
  #total: Rate | undefined;
  #at = -Infinity;

  /** @param clock milliseconds that only go forward */
  constructor(datapath: Datapath, clock: () => number = () => performance.now()) {
    this.#datapath = datapath;
    this.#clock = clock;
  }

  /** Over all open pairs; undefined until there are two readings. */
  get total(): Rate | undefined {
    this.#read();
    return this.#total;
  }

  /** Of one pair; undefined as above. */
  of(slot: number, generation: number): Rate | undefined {
    this.#read();
    return this.#readings.get(slot)?.generation === generation ? this.#rates.get(slot) : undefined;
  }

  /** Slots with any traffic, those with the most redirected bytes first. */
  busiest(): number[] {
    this.#read();
    return [...this.#rates]
      .filter(([, { redirectedBytes, tcpBytes }]) => redirectedBytes + tcpBytes > 0)
      .sort(([, a], [, b]) => b.redirectedBytes - a.redirectedBytes || b.tcpBytes - a.tcpBytes)
      .map(([slot]) => slot);
  }

  #read(): void {
    const now = this.#clock();
    const elapsed = now - this.#at;
    if (elapsed < LEAST_INTERVAL) return;
    this.#at = now;
    const { pairs } = this.#datapath;
    const readings = new Map<number, Reading>();
    const rates = new Map<number, Rate>();
    const total: Rate = { redirectedBytes: 0, redirectedMessages: 0, tcpBytes: 0 };
    for (const [slot, { generation }] of pairs.slots(...OPEN)) {
      const sum = (read: (side: (typeof SIDES)[number]) => number): number => read(0) + read(1);
      const reading: Reading = {
        generation,
        redirectedBytes: sum((side) => pairs.redirectedBytes(slot, side)),
        redirectedMessages: sum((side) => pairs.redirectedMessages(slot, side)),
        received: sum((side) => pairs.receivedBytes(slot, side)),
      };
      readings.set(slot, reading);
      const last = this.#readings.get(slot);
      // A pair that is new has done all of it since.
      const before =
        last?.generation === generation ? last : { redirectedBytes: 0, redirectedMessages: 0, received: 0 };
      const redirectedBytes = Math.max(0, reading.redirectedBytes - before.redirectedBytes);
      const rate: Rate = {
        redirectedBytes: perSecond(redirectedBytes, elapsed),
        redirectedMessages: perSecond(Math.max(0, reading.redirectedMessages - before.redirectedMessages), elapsed),
        // What is redirected and waits counts for neither.
        tcpBytes: perSecond(Math.max(0, reading.received - before.received - redirectedBytes), elapsed),
      };
      rates.set(slot, rate);
      total.redirectedBytes += rate.redirectedBytes;
      total.redirectedMessages += rate.redirectedMessages;
      total.tcpBytes += rate.tcpBytes;
    }
    const isPresent = elapsed <= MOST_INTERVAL;
    this.#readings = readings;
    this.#rates = isPresent ? rates : new Map<number, Rate>();
    this.#total = isPresent ? total : undefined;
  }
}

function perSecond(count: number, milliseconds: number): number {
  return (count * 1000) / milliseconds;
}
