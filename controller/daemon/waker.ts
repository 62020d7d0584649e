/**
 * Has the kernel signal again what sockets of other processes are ready for, also to those that wait for an edge:
 * pidfd_getfd(2), for which it needs CAP_SYS_PTRACE, then two options are set to what they are. That waits for whoever has the socket
 * locked, maybe for ever: a process of its own does it (probe/slipstream-borrow.c), one for all of them, as there may be
 * hundreds a second. Where it got stuck it is left behind, and another one goes on.
 */
import { type ChildProcess, spawn } from 'node:child_process';

import { encode, leave, MAX_STUCK, PATIENCE, RESULT_SIZE, ROUNDS_OF_PATIENCE, stateOf } from '../adopt/borrow.js';
import type { SocketHolder } from '../datapath/pair-table.js';

export interface Wake extends SocketHolder {
  /** As logs call it. */
  readonly pair: string;
}

export interface WakerOptions {
  /** The compiled probe/slipstream-borrow.c. */
  program: string;
  /** @param error an errno number or 0; ENOENT: the descriptor is another socket by now */
  onAnswer?: (socket: Wake, error: number) => void;
  /** Told of a socket that is locked: all of its process wait until it no longer is. */
  onStuck?: (socket: Wake) => void;
  /** The program can't be run; it is tried again. */
  onError?: (error: unknown) => void;
}

export class Waker {
  readonly #options: WakerOptions;
  /** Sockets to be woken, each once, by keyOf(). */
  #waiting = new Map<string, Wake>();
  /** Of processes that have a locked one. */
  #later = new Map<string, Wake>();
  /** Not answered yet, in the order of the answers. */
  #sent: Wake[] = [];
  /** What those that were left behind wait for. */
  readonly #stuck = new Set<Wake>();
  #child: ChildProcess | undefined;
  #answers = 0;
  #patience: NodeJS.Timeout | undefined;
  #retry: NodeJS.Timeout | undefined;
  #idle: () => void = () => undefined;
  #closed = false;

  constructor(options: WakerOptions) {
    this.#options = options;
  }

  /** Soon; what is asked for twice before is done once. */
  wake(socket: Wake): void {
    this.#waiting.set(keyOf(socket), socket);
    this.#send();
  }

  /** Ends within half a second, before that when all are woken that can be. */
  async close(): Promise<void> {
    let limit: NodeJS.Timeout | undefined;
    await new Promise<void>((resolve) => {
      this.#idle = resolve;
      limit = setTimeout(resolve, PATIENCE);
      this.#send();
    });
    this.#closed = true;
    clearTimeout(limit);
    clearTimeout(this.#patience);
    clearTimeout(this.#retry);
    if (this.#child !== undefined) leave(this.#child);
    this.#child = undefined;
  }

  #send(): void {
    if (this.#closed || this.#sent.length > 0 || this.#retry !== undefined || this.#stuck.size >= MAX_STUCK) return;
    const skipped = new Set([...this.#stuck].map(({ pid }) => pid));
    for (const [key, socket] of this.#waiting) {
      if (skipped.has(socket.pid)) this.#later.set(key, socket);
      else this.#sent.push(socket);
    }
    this.#waiting.clear();
    if (this.#sent.length === 0) {
      this.#idle();
      return;
    }
    try {
      this.#child ??= this.#start();
      this.#child.stdin?.write(encode(this.#sent.map((socket) => ({ ...socket, identity: socket.cookie }))));
      this.#watch(this.#child);
    } catch (error) {
      this.#failed(error);
    }
  }

  #start(): ChildProcess {
    const { program, onAnswer } = this.#options;
    const child = spawn(program, ['wake'], { stdio: ['pipe', 'pipe', 'ignore'], cwd: '/' });
    let answers = Buffer.alloc(0);
    child.once('error', (error) => {
      if (child === this.#child) this.#failed(error);
    });
    child.once('close', (code, end) => {
      if (child === this.#child) this.#failed(new Error(`${program} ended early (${String(end ?? code)})`));
    });
    child.stdin.on('error', () => undefined); // its end is told above
    child.stdout.on('data', (part: Buffer) => {
      if (child !== this.#child) return;
      answers = Buffer.concat([answers, part]);
      for (; answers.length >= RESULT_SIZE; answers = answers.subarray(RESULT_SIZE)) {
        const socket = this.#sent.shift();
        if (socket !== undefined) onAnswer?.(socket, answers.readInt32LE());
        this.#answers++;
      }
      this.#send();
    });
    return child;
  }

  /** Looks after the process for as long as it owes answers. */
  #watch(child: ChildProcess, rounds = ROUNDS_OF_PATIENCE): void {
    clearTimeout(this.#patience);
    const before = this.#answers;
    this.#patience = setTimeout(() => {
      // Answers that came while this process was busy are read before.
      setImmediate(() => {
        if (child !== this.#child || this.#sent.length === 0) return;
        if (this.#answers !== before) this.#watch(child);
        else if (stateOf(child) === 'R' && rounds > 1) this.#watch(child, rounds - 1);
        else this.#leave(child);
      });
    }, PATIENCE);
  }

  #leave(child: ChildProcess): void {
    const [socket] = this.#sent;
    if (socket === undefined) return;
    this.#stuck.add(socket);
    child.once('exit', () => {
      this.#stuck.delete(socket);
      this.#waiting = new Map([...this.#later, ...this.#waiting]);
      this.#later.clear();
      this.#send();
    });
    this.#options.onStuck?.(socket);
    this.#giveUp();
    this.#send();
  }

  #failed(error: unknown): void {
    this.#giveUp();
    this.#retry = setTimeout(() => {
      this.#retry = undefined;
      this.#send();
    }, PATIENCE);
    this.#options.onError?.(error);
  }

  /** What it has not answered is to be done again. */
  #giveUp(): void {
    if (this.#child !== undefined) leave(this.#child);
    this.#child = undefined;
    this.#waiting = new Map([...this.#sent.map((socket) => [keyOf(socket), socket] as const), ...this.#waiting]);
    this.#sent = [];
  }
}

function keyOf({ pid, descriptor, cookie }: SocketHolder): string {
  return `${String(pid)}.${String(descriptor)}.${String(cookie)}`;
}
