/** A terminal taken over for full-screen frames, and given back as it was, whatever happens. */
import type { ReadStream, WriteStream } from 'node:tty';

import type { Size } from './frame.js';

// ECMA-48 and xterm's ctlseqs: the other screen, the cursor, erasing.
const ENTER = '\u001b[?1049h\u001b[?25l';
const LEAVE = '\u001b[?25h\u001b[?1049l';
const HOME = '\u001b[H';
const ERASE_LINE = '\u001b[K';
const ERASE_BELOW = '\u001b[J';

/** What a terminal sends as one: a control sequence, or a character. */
// eslint-disable-next-line no-control-regex
const KEYS = /\u001b\[[0-9;]*[A-Za-z~]|\u001bO[A-Z]|[^]/gu;

export interface ScreenEvents {
  onKey: (key: string) => void;
  onResize: () => void;
}

export class Screen {
  readonly #output: WriteStream;
  readonly #input: ReadStream | undefined;
  readonly #events: ScreenEvents;
  readonly #restore: () => void;
  #entered = false;

  /** @param input undefined: keys come from nowhere */
  constructor(output: WriteStream, input: ReadStream | undefined, events: ScreenEvents) {
    this.#output = output;
    this.#input = input;
    this.#events = events;
    this.#restore = (): void => {
      this.leave();
    };
  }

  enter(): void {
    this.#entered = true;
    // Also when an error ends the process.
    process.once('exit', this.#restore);
    this.#output.on('resize', this.#events.onResize);
    this.#output.write(ENTER);
    this.#input?.setRawMode(true);
    this.#input?.setEncoding('utf8').on('data', this.#onData).resume();
  }

  leave(): void {
    if (!this.#entered) return;
    this.#entered = false;
    process.off('exit', this.#restore);
    this.#output.off('resize', this.#events.onResize);
    this.#input?.off('data', this.#onData).pause();
    this.#input?.setRawMode(false);
    this.#output.write(LEAVE);
  }

  /** A terminal that knows no size (a serial line, a bare pty) says 0. */
  get size(): Size {
    return { columns: this.#output.columns || 80, rows: this.#output.rows || 24 };
  }

  draw(lines: readonly string[]): void {
    // Erased first: behind a full line the cursor still stands on its last cell.
    const body = lines.map((line) => `${ERASE_LINE}${line}`).join('\r\n');
    this.#output.write(`${HOME}${body}${lines.length < this.size.rows ? `\r\n${ERASE_BELOW}` : ''}`);
  }

  readonly #onData = (data: unknown): void => {
    for (const [key] of String(data).matchAll(KEYS)) this.#events.onKey(key);
  };
}
