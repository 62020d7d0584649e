/** What the controller decided, as one line a minute: single decisions are for the debug log. */
import type { Logger } from 'pino';

import type { ControllerCounters } from '../datapath/settings.js';

/** Milliseconds. */
const INTERVAL = 60_000;

/** Counts since the controller's counters began. */
export type Decisions = Pick<ControllerCounters, 'promotions' | 'demotions' | 'refusals'>;

export class Activity {
  readonly #log: Logger;
  readonly #counters: Decisions;
  readonly #timer: NodeJS.Timeout;
  #before: Decisions;
  #since = performance.now();

  /** @param interval milliseconds */
  constructor(log: Logger, counters: Decisions, interval = INTERVAL) {
    this.#log = log;
    this.#counters = counters;
    this.#before = copy(counters);
    this.#timer = setInterval(() => {
      this.#tell();
    }, interval).unref();
  }

  /** Tells what came since the last line, and no more after it. */
  close(): void {
    clearInterval(this.#timer);
    this.#tell();
  }

  #tell(): void {
    const now = copy(this.#counters);
    const since = this.#since;
    this.#since = performance.now();
    const promotions = now.promotions - this.#before.promotions;
    const demotions = growth(this.#before.demotions, now.demotions);
    const refusals = growth(this.#before.refusals, now.refusals);
    this.#before = now;
    const all = [promotions, ...Object.values(demotions), ...Object.values(refusals)];
    if (all.every((count) => count === 0)) return;
    const seconds = Math.round((this.#since - since) / 1000);
    this.#log.info({ seconds, promotions, demotions, refusals }, 'activity');
  }
}

function copy({ promotions, demotions, refusals }: Decisions): Decisions {
  return { promotions, demotions, refusals };
}

/** Reasons whose count has grown, with how much. */
function growth(before: Record<string, number>, now: Record<string, number>): Record<string, number> {
  return Object.fromEntries(
    Object.entries(now)
      .map(([reason, count]) => [reason, count - (before[reason] ?? 0)] as const)
      .filter(([, count]) => count !== 0),
  );
}
