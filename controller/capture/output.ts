/** Where a capture goes: a file or standard output. Nothing here blocks the process. */
import { closeSync, constants, createWriteStream, fchmodSync, fstatSync, openSync } from 'node:fs';
import type { Writable } from 'node:stream';
import { isatty } from 'node:tty';

import { EXIT, UserError } from '../errors.js';

export class Output {
  readonly #path: string;
  readonly #stream: Writable;
  #error: NodeJS.ErrnoException | undefined;
  #onFailure: () => void = () => undefined;

  /**
   * @param path a file, which is replaced, or `-`
   * @throws UserError if it is a terminal or can't be opened
   */
  constructor(path: string) {
    this.#path = path;
    if (path === '-') {
      refuseTerminal(process.stdout.isTTY);
      this.#stream = process.stdout;
    } else {
      const descriptor = openFile(path);
      refuseTerminal(isatty(descriptor));
      this.#stream = createWriteStream('', { fd: descriptor });
    }
    this.#stream.on('error', (error) => {
      this.#error = error;
      this.#onFailure();
    });
  }

  /** Nothing more can be written. */
  get failed(): boolean {
    return this.#error !== undefined;
  }

  onFailure(tell: () => void): void {
    this.#onFailure = tell;
  }

  /** @throws UserError if something could not be written, unless nobody wanted more */
  check(): void {
    const error = this.#error;
    // The command line itself reports failures of standard output.
    if (error === undefined || error.code === 'EPIPE' || this.#path === '-') return;
    throw new UserError(
      `${this.#path} can't be written (${error.code ?? error.message}): the capture is cut off there`,
    );
  }

  /** False when it takes no more for now; `ready` is called when it does again. */
  write(bytes: Buffer, ready: () => void): boolean {
    if (this.failed || this.#stream.write(bytes)) return true;
    this.#stream.once('drain', ready);
    return false;
  }

  /** Resolves when everything is written, or can't be. */
  async end(): Promise<void> {
    if (this.failed) return;
    await new Promise<void>((resolve) => {
      this.#onFailure = resolve;
      this.#stream.end(resolve);
    });
  }
}

function refuseTerminal(isTerminal: boolean): void {
  if (!isTerminal) return;
  throw new UserError('a capture is not for a terminal: give -w a file, or pipe it into a program', EXIT.usage);
}

/** Payload is nobody else's business: the file is its owner's only, also one that was there. */
function openFile(path: string): number {
  let descriptor: number | undefined;
  try {
    descriptor = openSync(path, constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC, 0o600);
    if (fstatSync(descriptor).isFile()) fchmodSync(descriptor, 0o600);
    return descriptor;
  } catch (error) {
    if (descriptor !== undefined) closeSync(descriptor);
    throw new UserError(`${path} can't be written (${(error as NodeJS.ErrnoException).code ?? String(error)})`);
  }
}
