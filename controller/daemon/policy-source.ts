/** The policy file in force and its reloads. */
import { EventEmitter } from 'node:events';
import { type StatsListener, statSync, unwatchFile, watchFile } from 'node:fs';

import { PolicyError } from '../errors.js';
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

/** @throws PolicyError */
export function readPolicy(file: string | undefined): LoadedPolicy {
  const result = loadPolicy(file);
  if (!result.ok) throw new PolicyError(result.problems.map(formatProblem));
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
  reload(always: boolean): void {
    try {
      const loaded = readPolicy(this.#file);
      if (!always && loaded.hash === this.#hash) return;
      this.#hash = loaded.hash;
      this.emit('loaded', loaded);
    } catch (error) {
      this.emit('invalid', error instanceof Error ? error.message : String(error));
    }
  }

  close(): void {
    unwatchFile(this.#file, this.#changed);
    clearTimeout(this.#settling);
  }

  /** Half of a file that is being written could be a valid policy. */
  #settle(): void {
    clearTimeout(this.#settling);
    this.#settling = setTimeout(() => {
      if (wasJustWritten(this.#file)) this.#settle();
      else this.reload(false);
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
