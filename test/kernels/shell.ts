/** Programs of the host that this run starts: none outlives it. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';

const running = new Set<ChildProcess>();
const ending: { by?: NodeJS.Signals } = {};

/** Somebody pressed Ctrl-C, or asked this process to end. */
export class Interrupted extends Error {}

/** From now on these signals end what runs, and with it what waits for it. */
export function catchSignals(): void {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
      ending.by = signal;
      for (const child of running) child.kill('SIGTERM');
    });
  }
}

export interface ShellOptions {
  /** Of each line of its standard output; otherwise they are kept and returned. */
  onLine?: (line: string) => void;
  cwd?: string;
  /** Milliseconds after which it is killed; the exit code is null then. */
  timeout?: number;
}

export interface Ended {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** A session of its own would else get as much of the processors as any other (sched(7), autogroup). */
function beAsNice(pid: number): void {
  try {
    const [, nice] = /nice (-?\d+)/.exec(readFileSync('/proc/self/autogroup', 'utf8')) ?? [];
    if (nice !== undefined) writeFileSync(`/proc/${String(pid)}/autogroup`, nice);
  } catch {
    // Not every kernel groups processes, and a program may be gone already.
  }
}

/** Runs a program to its end, which the kernel brings about if this process dies first. */
export async function run(command: string, args: readonly string[], options: ShellOptions = {}): Promise<Ended> {
  if (ending.by !== undefined) throw new Interrupted(ending.by);
  const child = spawn('setpriv', ['--pdeathsig', 'TERM', command, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    cwd: options.cwd,
    // Ctrl-C is for this process to pass on.
    detached: true,
  });
  running.add(child);
  if (child.pid !== undefined) beAsNice(child.pid);
  const timer = setTimeout(() => child.kill('SIGKILL'), options.timeout ?? 2 ** 31 - 1);
  const output = { stdout: '', stderr: '' };
  createInterface({ input: child.stdout }).on('line', options.onLine ?? ((line) => (output.stdout += `${line}\n`)));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (output.stderr += text));
  try {
    const [code] = (await once(child, 'close')) as [number | null];
    // eslint-disable-next-line @typescript-eslint/no-unnecessary-condition -- a signal came meanwhile
    if (ending.by !== undefined) throw new Interrupted(ending.by);
    return { code, ...output };
  } finally {
    clearTimeout(timer);
    running.delete(child);
  }
}

/** The same; returns its standard output. @throws Error with what it said, if it failed. */
export async function must(command: string, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await run(command, args);
  if (code === 0) return stdout;
  throw new Error(
    `${[command, ...args].join(' ').slice(0, 200)} failed: ${stderr.trim().split('\n').slice(-5).join('; ')}`,
  );
}
