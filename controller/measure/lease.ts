/** The right to have the controller take a port's pairs to TCP and back; see decisions/measurement.ts. */
import type { Settings } from '../datapath/settings.js';
import { decodeMeasurement, encodeMeasurement, LEASE, type Measurement } from '../decisions/measurement.js';
import { UserError } from '../errors.js';

const RENEWALS = 8;

export class Lease {
  readonly #settings: Settings;
  readonly #timer: NodeJS.Timeout;
  #request: Measurement;
  #word: bigint;
  /** Somebody else holds it, which happens when this process stood still for longer than it holds. */
  #lost = false;

  private constructor(settings: Settings, request: Measurement, word: bigint) {
    this.#settings = settings;
    this.#request = request;
    this.#word = word;
    this.#timer = setInterval(() => {
      this.#renew();
    }, LEASE / RENEWALS);
  }

  /** @throws UserError if another process holds it */
  static take(settings: Settings, request: Measurement): Lease {
    const now = process.hrtime.bigint();
    const before = settings.measurement;
    const other = decodeMeasurement(before, now);
    const word = encodeMeasurement(request, now);
    if (other !== undefined || !settings.changeMeasurement(before, word)) {
      const port = other === undefined ? '' : ` of port ${String(other.port)}`;
      throw new UserError(
        `another "bench --port" measures the connections${port} at the moment: wait until it has ended`,
      );
    }
    return new Lease(settings, request, word);
  }

  /** @throws UserError if it is held no more */
  use(path: Measurement['path']): void {
    this.#request = { ...this.#request, path };
    this.#renew();
    this.check();
  }

  /** @throws UserError if it is held no more */
  check(): void {
    if (this.#lost) {
      throw new UserError(
        `the measurement was not finished: this process stood still for more than ${String(LEASE / 1000)} s`,
      );
    }
  }

  /** Has the controller put everything back. */
  release(): void {
    clearInterval(this.#timer);
    if (!this.#lost) this.#settings.changeMeasurement(this.#word, 0n);
    this.#lost = true;
  }

  #renew(): void {
    if (this.#lost) return;
    const word = encodeMeasurement(this.#request, process.hrtime.bigint());
    // The controller clears a word that has run out.
    if (this.#settings.changeMeasurement(this.#word, word)) this.#word = word;
    else this.#lost = true;
  }
}
