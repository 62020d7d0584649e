/**
 * Setting an option on sockets of other processes. It waits for whoever has the socket locked, maybe for ever, and can't
 * be interrupted: a process of its own does it (probe/slipstream-borrow.c), which is left behind where it got stuck.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';

import type { Descriptor } from '../explain/host.js';

export interface Request extends Descriptor {
  /** Of the option, VALUE_SIZE bytes. */
  readonly value: Buffer;
}

/** As struct request has them. */
export const VALUE_SIZE = 16;
const REQUEST_SIZE = 16 + VALUE_SIZE;
/** An int: an errno number or 0. */
export const RESULT_SIZE = 4;

/** One that sleeps this long over one socket waits for its lock; nobody has it for longer by plan. Milliseconds. */
export const PATIENCE = 500;
/** One that does not even sleep is given up after so many times as long. */
export const ROUNDS_OF_PATIENCE = 20;
/** So many are left behind at one time. */
export const MAX_STUCK = 16;

export interface BorrowerOptions {
  /** The compiled probe/slipstream-borrow.c. */
  program: string;
  level: number;
  option: number;
  /** Told of a socket that is locked, once for as long as it is. */
  onStuck: (socket: Descriptor) => void;
}

export class Borrower {
  readonly #options: BorrowerOptions;
  /** What those that were left behind wait for. */
  readonly #stuck = new Set<Descriptor>();

  constructor(options: BorrowerOptions) {
    this.#options = options;
  }

  /**
   * Sets the option on one socket after the other.
   * @returns an errno number or 0 of each; undefined: it is locked, or another one of the same process is
   * @throws if the program can't be run, or when `signal` is aborted, at once
   */
  async set(requests: readonly Request[], signal?: AbortSignal): Promise<(number | undefined)[]> {
    const results = new Map<Request, number>();
    for (let left = requests; this.#stuck.size < MAX_STUCK;) {
      const skipped = new Set([...this.#stuck].map(({ pid }) => pid));
      left = left.filter((request) => !results.has(request) && !skipped.has(request.pid));
      if (left.length === 0) break;
      for (const [index, result] of (await this.#run(left, signal)).entries()) {
        const request = left[index];
        if (request !== undefined) results.set(request, result);
      }
    }
    return requests.map((request) => results.get(request));
  }

  /** The results of all, or of those before the one that is locked. */
  async #run(requests: readonly Request[], signal: AbortSignal | undefined): Promise<number[]> {
    signal?.throwIfAborted();
    const { program, level, option, onStuck } = this.#options;
    const child = spawn(program, ['set', String(level), String(option)], {
      stdio: ['pipe', 'pipe', 'ignore'],
      cwd: '/',
    });
    let answers = Buffer.alloc(0);
    const results = (): number[] =>
      Array.from({ length: Math.floor(answers.length / RESULT_SIZE) }, (_, at) =>
        answers.readInt32LE(at * RESULT_SIZE),
      );
    let timer: NodeJS.Timeout | undefined;
    let abort = (): void => undefined;
    try {
      return await new Promise((resolve, reject) => {
        let waits = 0;
        const look = (): void => {
          const socket = requests[results().length];
          if (socket === undefined || (stateOf(child) !== 'D' && ++waits < ROUNDS_OF_PATIENCE)) {
            timer?.refresh();
            return;
          }
          this.#stuck.add(socket);
          child.once('exit', () => this.#stuck.delete(socket));
          onStuck(socket);
          resolve(results());
        };
        timer = setTimeout(look, PATIENCE);
        abort = (): void => {
          reject(signal?.reason as Error);
        };
        signal?.addEventListener('abort', abort);
        child.once('error', reject).once('close', (code, end) => {
          if (results().length === requests.length) resolve(results());
          else reject(new Error(`${program} ended early (${String(end ?? code)})`));
        });
        child.stdout.on('data', (part: Buffer) => {
          answers = Buffer.concat([answers, part]);
          waits = 0;
          timer?.refresh();
        });
        child.stdin.on('error', () => undefined); // its end is told above
        child.stdin.end(encode(requests.map((request) => ({ ...request, identity: BigInt(request.inode) }))));
      });
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', abort);
      leave(child);
    }
  }
}

/** As the program reads them. @param requests `identity` is the inode or, for one that wakes, SO_COOKIE */
export function encode(
  requests: readonly { pid: number; descriptor: number; identity: bigint; value?: Buffer }[],
): Buffer {
  const buffer = Buffer.alloc(requests.length * REQUEST_SIZE);
  for (const [index, { pid, descriptor, identity, value }] of requests.entries()) {
    if (value !== undefined && value.length !== VALUE_SIZE) {
      throw new RangeError(`a value has ${String(VALUE_SIZE)} bytes`);
    }
    const at = index * REQUEST_SIZE;
    buffer.writeInt32LE(pid, at);
    buffer.writeInt32LE(descriptor, at + 4);
    buffer.writeBigUInt64LE(identity, at + 8);
    value?.copy(buffer, at + 16);
  }
  return buffer;
}

/** A letter of proc_pid_stat(5), D for a sleep that signals don't end; undefined: it has ended. */
export function stateOf({ pid }: ChildProcess): string | undefined {
  try {
    const stat = readFileSync(`/proc/${String(pid)}/stat`, 'utf8');
    return stat[stat.lastIndexOf(')') + 2];
  } catch {
    return undefined;
  }
}

/** Ends it as soon as it can be ended; nothing waits for that. */
export function leave(child: ChildProcess): void {
  child.kill('SIGKILL');
  child.stdin?.destroy();
  child.stdout?.destroy();
  child.unref();
}
