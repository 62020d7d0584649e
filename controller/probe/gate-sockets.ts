/** The gate's socket program (probe/slipstream-gate.c), one line each way at a time. */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

/** The program could not do its part: says nothing about the kernel's sockmap. */
export class SocketsError extends Error {}

/** The program answered with an error, in its own words. */
export class SocketsAnswer extends Error {}

interface Waiting {
  resolve: (answer: string) => void;
  reject: (error: Error) => void;
}

export class GateSockets {
  readonly #process: ChildProcessWithoutNullStreams;
  readonly #waiting: Waiting[] = [];
  readonly #closed: Promise<unknown>;
  #ended: Error | undefined;

  private constructor(process: ChildProcessWithoutNullStreams) {
    this.#process = process;
    process.stdin.on('error', () => undefined); // its end is told below
    process.stderr.resume();
    createInterface({ input: process.stdout }).on('line', (line) => {
      const waiting = this.#waiting.shift();
      if (line === 'ok' || line.startsWith('ok ')) waiting?.resolve(line.slice('ok '.length));
      else if (line.startsWith('error ')) waiting?.reject(new SocketsAnswer(line.slice('error '.length)));
      else waiting?.reject(new SocketsError(`its socket program says "${line}"`));
    });
    this.#closed = once(process, 'close').then(([code, signal]) => {
      this.#end(new SocketsError(`its socket program ended early (${String(signal ?? code)})`));
    });
    this.#closed.catch(() => undefined);
  }

  /** Starts it inside a cgroup; undefined: that of this process. @throws SocketsError */
  static async start(program: string, cgroupDir: string | undefined): Promise<GateSockets> {
    const child = spawn(program, [], { stdio: 'pipe', cwd: '/' });
    try {
      await once(child, 'spawn');
    } catch (error) {
      throw new SocketsError(`${program} does not start (${(error as NodeJS.ErrnoException).code ?? String(error)})`);
    }
    const sockets = new GateSockets(child);
    if (cgroupDir === undefined) return sockets;
    try {
      // It makes its first socket when it is told to.
      writeFileSync(join(cgroupDir, 'cgroup.procs'), String(child.pid));
    } catch (error) {
      await sockets.stop();
      throw new SocketsError(
        `its socket program can't be moved into ${cgroupDir} (${(error as NodeJS.ErrnoException).code ?? String(error)})`,
      );
    }
    return sockets;
  }

  /**
   * Sends a command and returns what follows "ok".
   * @throws SocketsAnswer if the program says no, SocketsError if it is gone
   */
  command(line: string): Promise<string> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended);
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      this.#process.stdin.write(`${line}\n`);
    });
  }

  /** Ends it at once; whoever waits for an answer is told why. */
  abort(reason: string): void {
    this.#end(new SocketsError(reason));
    this.#process.kill('SIGKILL');
  }

  /** Resolves when it has ended and its sockets are closed. */
  async stop(): Promise<void> {
    this.#end(new SocketsError('it is over'));
    this.#process.stdin.end();
    this.#process.kill('SIGKILL');
    await this.#closed;
  }

  #end(error: Error): void {
    this.#ended ??= error;
    for (const { reject } of this.#waiting.splice(0)) reject(this.#ended);
  }
}
