/**
 * A place of its own for each test file: a cgroup, a BPF file system and the
 * processes started there. dispose() removes all of it, whatever happened.
 */
import { type ChildProcessWithoutNullStreams, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmdirSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath, pathToFileURL } from 'node:url';

import { mountBpf } from '../../../addon/index.js';
import { Datapath } from '../../../controller/datapath/datapath.js';
import { cgroupRoot } from '../../../controller/probe/host.js';
import type { Container } from './container.js';

export const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..');

/** Arguments that let a child process of Node.js run TypeScript from any directory. */
export const TSX = ['--import', pathToFileURL(createRequire(import.meta.url).resolve('tsx')).href];

/** A test program built by scripts/build. */
export function program(name: string): string {
  return join(ROOT, 'build', 'programs', name);
}

/** The datapath under test; another build of it when SLIPSTREAM_OBJECT names one (scripts/mutants). */
export const BORROW_PROGRAM = join(ROOT, 'build', 'probe', 'slipstream-borrow');
export const OBJECT_FILE = process.env['SLIPSTREAM_OBJECT'] ?? join(ROOT, 'build', 'bpf', 'slipstream.bpf.o');

export { needsRoot, skip } from '../../skip.js';

/** A child process whose output is read line by line. */
export class Child {
  readonly process: ChildProcessWithoutNullStreams;
  readonly lines: string[] = [];
  stderr = '';
  readonly #exited: Promise<number | null>;
  #waiting: (() => void)[] = [];
  #ended = false;

  constructor(process: ChildProcessWithoutNullStreams) {
    this.process = process;
    process.stdin.on('error', () => undefined); // it may have ended first
    process.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text;
      this.#wake();
    });
    createInterface({ input: process.stdout }).on('line', (line) => {
      this.lines.push(line);
      this.#wake();
    });
    this.#exited = once(process, 'close').then(() => {
      this.#ended = true;
      this.#wake();
      return process.exitCode;
    });
  }

  get pid(): number {
    if (this.process.pid === undefined) throw new Error(`${this.process.spawnfile} did not start`);
    return this.process.pid;
  }

  write(line: string): void {
    this.process.stdin.write(`${line}\n`);
  }

  signal(signal: NodeJS.Signals): void {
    this.process.kill(signal);
  }

  /** Exit code; null if a signal ended it. */
  exited(): Promise<number | null> {
    return this.#exited;
  }

  /** Resolves as soon as `find` returns something; rejects if the process ends first. */
  async until<T>(find: (child: this) => T | undefined): Promise<T> {
    for (;;) {
      const found = find(this);
      if (found !== undefined) return found;
      if (this.#ended) {
        const said = [...this.lines.slice(-5), this.stderr].join('\n');
        throw new Error(`${this.process.spawnargs.join(' ')} ended with ${String(this.process.exitCode)}: ${said}`);
      }
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }

  /** The first JSON line with this event, from line `from` on. */
  async event<T extends object>(name: string, from = 0): Promise<T> {
    return this.until(() => {
      for (const line of this.lines.slice(from)) {
        if (!line.includes(`"${name}"`)) continue;
        const value = JSON.parse(line) as { event?: string };
        if (value.event === name) return value as T;
      }
      return undefined;
    });
  }

  #wake(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const resolve of waiting) resolve();
  }
}

export interface SpawnOptions {
  /** cgroup directory to start in; default: the sandbox's. Null: where the tests run. */
  cgroup?: string | null;
  /** Network namespace by name (ip-netns(8)). */
  netns?: string;
  /** Runs it there instead; the container has its own namespaces and cgroup, and `cgroup` is that of runc. */
  container?: Container;
  env?: Record<string, string>;
}

let made = 0;

/** Those that are not disposed of. */
const live = new Set<Sandbox>();
let abandoning = false;

/** Ctrl-C, which mocha follows by SIGTERM: what the tests have made goes with them. */
function abandonAll(_signal: NodeJS.Signals, number: unknown): void {
  // A test that ends an `up` in this process emits the event, without a signal.
  if (abandoning || typeof number !== 'number') return;
  abandoning = true;
  const exit = (): never => process.exit(128 + number);
  // Longer than anything takes: an end that hangs is worse than what it leaves.
  setTimeout(exit, 30_000);
  void Promise.allSettled([...live].map((sandbox) => sandbox.dispose())).then((results) => {
    for (const result of results) if (result.status === 'rejected') console.error(String(result.reason));
    exit();
  });
}

process.on('SIGINT', abandonAll).on('SIGTERM', abandonAll);

export class Sandbox {
  /** Temporary directory. */
  readonly dir: string;
  /** cgroup directory that a datapath under test attaches to. */
  readonly cgroup: string;
  readonly pinDir: string;
  /** Of all that this process made. */
  readonly #number = ++made;
  readonly #undo: (() => void | Promise<void>)[] = [];
  readonly #children = new Set<Child>();
  #disposal: Promise<void> | undefined;

  constructor(name: string) {
    if (abandoning) throw new Error('the tests have been abandoned');
    this.dir = mkdtempSync(join(tmpdir(), `slipstream-${name}-`));
    this.cgroup = join(cgroupRoot(), `slipstream-test-${String(process.pid)}-${String(this.#number)}`);
    const bpffs = join(this.dir, 'bpf');
    mkdirSync(bpffs);
    mountBpf(bpffs);
    this.pinDir = join(bpffs, 'slipstream');
    mkdirSync(this.cgroup);
    live.add(this);
  }

  /** The cgroup's path below the v2 root, as policies and metrics name it. */
  get cgroupPath(): string {
    return `/${this.cgroup.slice(cgroupRoot().length).replace(/^\/+/, '')}`;
  }

  /** Runs at dispose(), last first. */
  undo(action: () => void | Promise<void>): void {
    if (!live.has(this)) {
      // Made by a test that does not know yet that it has been abandoned.
      void action();
      throw new Error('the sandbox has been disposed of');
    }
    this.#undo.push(action);
  }

  /** Makes a cgroup below the sandbox's, or beside it. */
  makeCgroup(name: string, where: 'below' | 'beside' = 'below'): string {
    const dir = where === 'below' ? join(this.cgroup, name) : `${this.cgroup}-${name}`;
    mkdirSync(dir);
    this.undo(() => {
      removeCgroup(dir);
    });
    return dir;
  }

  spawn(command: string, args: string[], options: SpawnOptions = {}): Child {
    if (!live.has(this)) throw new Error('the sandbox has been disposed of');
    const cgroup = options.cgroup === undefined ? this.cgroup : options.cgroup;
    const program = options.container?.command(command, args) ?? [command, ...args];
    const inner = options.netns === undefined ? program : ['ip', 'netns', 'exec', options.netns, ...program];
    const script = cgroup === null ? 'exec "$@"' : 'echo $$ >"$0/cgroup.procs" && exec "$@"';
    const child = new Child(
      spawn('/bin/sh', ['-c', script, cgroup ?? 'sh', ...inner], {
        stdio: 'pipe',
        cwd: this.dir,
        env: { ...process.env, ...options.env },
      }),
    );
    this.#children.add(child);
    void child.exited().then(() => this.#children.delete(child));
    return child;
  }

  /** A network namespace with its loopback up. */
  makeNetns(name: string): string {
    const full = `slipstream-${String(process.pid)}-${String(this.#number)}-${name}`;
    execFileSync('ip', ['netns', 'add', full]);
    this.undo(() => {
      execFileSync('ip', ['netns', 'delete', full]);
    });
    execFileSync('ip', ['-n', full, 'link', 'set', 'lo', 'up']);
    return full;
  }

  dispose(): Promise<void> {
    return (this.#disposal ??= this.#dispose().finally(() => live.delete(this)));
  }

  async #dispose(): Promise<void> {
    const failures: unknown[] = [];
    const attempt = async (action: () => void | Promise<void>): Promise<void> => {
      try {
        await action();
      } catch (error) {
        failures.push(error);
      }
    };
    for (const child of this.#children) {
      child.signal('SIGKILL');
      await child.exited();
    }
    for (const action of this.#undo.reverse()) await attempt(action);
    await attempt(() => {
      Datapath.removePins(this.pinDir);
      execFileSync('umount', [join(this.dir, 'bpf')]);
    });
    await attempt(() => {
      removeCgroup(this.cgroup);
    });
    await attempt(() => {
      rmSync(this.dir, { recursive: true, force: true });
    });
    if (failures.length > 0) throw new AggregateError(failures, `clean-up failed: ${failures.map(String).join('; ')}`);
  }
}

/** Ends what still runs there and removes the cgroup with those below it. */
function removeCgroup(dir: string): void {
  if (!existsSync(dir)) return;
  for (const entry of readdirSync(dir, { withFileTypes: true })) {
    if (entry.isDirectory()) removeCgroup(join(dir, entry.name));
  }
  const members = (): string[] => readFileSync(join(dir, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean);
  for (const pid of members()) {
    try {
      process.kill(Number(pid), 'SIGKILL');
    } catch {
      // ended meanwhile
    }
  }
  const deadline = Date.now() + 5000;
  for (;;) {
    try {
      rmdirSync(dir);
      return;
    } catch (error) {
      // Dying processes leave it a moment after their signal; the kernel has no event for that.
      if ((error as NodeJS.ErrnoException).code !== 'EBUSY' || Date.now() > deadline) throw error;
      execFileSync('sleep', ['0.01']);
    }
  }
}
