/** The policy file in force and its reloads. */
import { EventEmitter } from 'node:events';
import { type StatsListener, statSync, unwatchFile, watchFile } from 'node:fs';

import { EXIT, UserError } from '../errors.js';
import { type CompiledPolicy, compilePolicy } from '../policy/evaluate.js';
import { policyHash } from '../policy/in-force.js';
import { loadPolicy } from '../policy/load.js';
import { formatProblem, type PolicyPlaces, type PolicyProblem } from '../policy/parse.js';
import type { Policy } from '../policy/schema.js';

export interface LoadedPolicy {
  compiled: CompiledPolicy;
  policy: Policy;
  /** First 12 hexadecimal digits of the SHA-256 of the parsed policy. */
  hash: string;
  warnings: PolicyProblem[];
  places: PolicyPlaces;
}

/** What is wrong with a policy, one line a problem, each `file:line:col: message` as editors read it. */
export class PolicyError extends UserError {
  constructor(problems: readonly PolicyProblem[]) {
    super(problems.map(formatProblem).join('\n'), EXIT.usage);
    this.name = 'PolicyError';
  }
}

/** @throws PolicyError */
export async function readPolicy(file: string | undefined): Promise<LoadedPolicy> {
  const result = await loadPolicy(file);
  if (!result.ok) throw new PolicyError(result.problems);
  const { policy, warnings, places } = result;
  return { compiled: compilePolicy(policy), policy, hash: policyHash(policy), warnings, places };
}

/** How often the file is looked at, and how long it must stand still to be read, milliseconds. */
const POLL_INTERVAL = 250;

interface SourceEvents {
  loaded: [LoadedPolicy];
  invalid: [string];
}

/** Watches one file; an invalid version is reported and the old one stays in force. */
export class PolicySource extends EventEmitter<SourceEvents> {
  readonly #file: string;
  readonly #changed: StatsListener;
  #settling: NodeJS.Timeout | undefined;
  #hash: string;
  #busy: Promise<void> = Promise.resolve();

  constructor(file: string, current: LoadedPolicy) {
    super();
    this.#file = file;
    this.#hash = current.hash;
    this.#changed = (): void => {
      this.#settle();
    };
  }

  /**
   * Starts watching. By stat(2): a ConfigMap is a link to a link into a directory, of which the kubelet replaces the
   * second and removes the third, and an inotify watch on either can be left looking at what is gone.
   */
  watch(): void {
    watchFile(this.#file, { interval: POLL_INTERVAL }, this.#changed);
    this.#settle(); // it may have changed since it was read
  }

  /** Reads the file again. @param always report it even if nothing changed */
  reload(always: boolean): Promise<void> {
    this.#busy = this.#busy.then(async () => {
      try {
        const loaded = await readPolicy(this.#file);
        if (!always && loaded.hash === this.#hash) return;
        this.#hash = loaded.hash;
        this.emit('loaded', loaded);
      } catch (error) {
        this.emit('invalid', error instanceof Error ? error.message : String(error));
      }
    });
    return this.#busy;
  }

  async close(): Promise<void> {
    unwatchFile(this.#file, this.#changed);
    clearTimeout(this.#settling);
    await this.#busy;
  }

  /** Half of a file that is being written could be a valid policy. */
  #settle(): void {
    clearTimeout(this.#settling);
    this.#settling = setTimeout(() => {
      if (wasJustWritten(this.#file)) this.#settle();
      else void this.reload(false);
    }, POLL_INTERVAL);
  }
}

function wasJustWritten(file: string): boolean {
  try {
    const age = Date.now() - statSync(file).mtimeMs;
    return age >= 0 && age < POLL_INTERVAL;
  } catch {
    return false; // reading it tells why
  }
}
