/** Tells the service manager how things stand: the protocol of sd_notify(3). */
import type { Logger } from 'pino';

import { sendDatagram } from '../../addon/index.js';

/** How often the manager hears of a live service that it does not watch, milliseconds. */
const STATUS_INTERVAL = 10_000;

export class Notifier {
  readonly #socket: string | undefined;
  readonly #log: Logger;
  readonly #watched: boolean;
  /** Least time between two signs of life, milliseconds. */
  readonly #interval: number;
  #lastSign = -Infinity;

  /** @param environment NOTIFY_SOCKET says where to, WATCHDOG_USEC and WATCHDOG_PID whether it is waited for */
  constructor(log: Logger, environment: NodeJS.ProcessEnv = process.env) {
    this.#log = log;
    this.#socket = environment['NOTIFY_SOCKET'] === '' ? undefined : environment['NOTIFY_SOCKET'];
    const watchdog = watchdogInterval(environment);
    this.#watched = watchdog !== undefined;
    this.#interval = watchdog ?? STATUS_INTERVAL;
  }

  /** Up, or done with a reload. */
  ready(status: string): void {
    this.#send('READY=1', `STATUS=${status}`);
  }

  /** Ends with the next ready(). */
  reloading(): void {
    // The clock of both is CLOCK_MONOTONIC.
    this.#send(
      'RELOADING=1',
      `MONOTONIC_USEC=${String(process.hrtime.bigint() / 1000n)}`,
      'STATUS=reloading the policy',
    );
  }

  stopping(status: string): void {
    this.#send('STOPPING=1', `STATUS=${status}`);
  }

  status(status: string): void {
    this.#send(`STATUS=${status}`);
  }

  /** Call it whenever the control loop has got round: most calls are too early to be passed on. */
  alive(status: () => string): void {
    if (this.#socket === undefined || performance.now() - this.#lastSign < this.#interval) return;
    this.#lastSign = performance.now();
    this.#send(...(this.#watched ? ['WATCHDOG=1'] : []), `STATUS=${status()}`);
  }

  #send(...assignments: string[]): void {
    if (this.#socket === undefined) return;
    try {
      // An assignment ends with its line.
      sendDatagram(this.#socket, assignments.map((assignment) => assignment.replaceAll('\n', ' ')).join('\n'));
    } catch (error) {
      this.#log.warn(
        `the service manager could not be told (${error instanceof Error ? error.message : String(error)})`,
      );
    }
  }
}

/** A quarter of the time after which the manager gives this process up, milliseconds; undefined: it never does. */
function watchdogInterval(environment: NodeJS.ProcessEnv): number | undefined {
  const microseconds = Number(environment['WATCHDOG_USEC']);
  const pid = environment['WATCHDOG_PID'];
  if (!(microseconds > 0) || (pid !== undefined && pid !== String(process.pid))) return undefined;
  return microseconds / 4000;
}
