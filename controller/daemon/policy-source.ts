/** The policy file in force and its reloads. */
import { EventEmitter } from 'node:events';

import { type FSWatcher, watch } from 'chokidar';

import { EXIT, UserError } from '../errors.js';
import { type CompiledPolicy, compilePolicy } from '../policy/evaluate.js';
import { policyHash } from '../policy/in-force.js';
import { loadPolicy } from '../policy/load.js';
import { formatProblem, type PolicyProblem } from '../policy/parse.js';
import type { Policy } from '../policy/schema.js';

export interface LoadedPolicy {
  compiled: CompiledPolicy;
  policy: Policy;
  /** First 12 hexadecimal digits of the SHA-256 of the parsed policy. */
  hash: string;
  warnings: PolicyProblem[];
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
  const hash = policyHash(result.policy);
  return { compiled: compilePolicy(result.policy), policy: result.policy, hash, warnings: result.warnings };
}

interface SourceEvents {
  loaded: [LoadedPolicy];
  invalid: [string];
}

/** Watches one file; an invalid version is reported and the old one stays in force. */
export class PolicySource extends EventEmitter<SourceEvents> {
  readonly #file: string;
  #watcher: FSWatcher | undefined;
  #hash: string;
  #busy: Promise<void> = Promise.resolve();

  constructor(file: string, current: LoadedPolicy) {
    super();
    this.#file = file;
    this.#hash = current.hash;
  }

  /** Starts watching; resolves when changes are seen from now on. */
  async watch(): Promise<void> {
    // Editors and ConfigMaps replace the file: chokidar watches the directory entry.
    const watcher = watch(this.#file, {
      ignoreInitial: true,
      awaitWriteFinish: { stabilityThreshold: 100, pollInterval: 20 },
    });
    this.#watcher = watcher;
    const changed = (): void => {
      void this.reload(false);
    };
    watcher.on('add', changed).on('change', changed);
    await new Promise<void>((resolve) => watcher.once('ready', resolve));
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
    await this.#watcher?.close();
    await this.#busy;
  }
}
