/** The command line as a user runs it. */
import { join } from 'node:path';

import { type Child, ROOT, type Sandbox, type SpawnOptions } from './sandbox.js';

/** Where a daemon of this sandbox keeps what it learns. */
export function stateDir(sandbox: Sandbox): string {
  return join(sandbox.dir, 'state');
}

export const PROGRAM = join(ROOT, 'bin', 'slipstream-bpf');

export interface Result {
  code: number | null;
  stdout: string;
  stderr: string;
}

export interface ProgramOptions extends SpawnOptions {
  /** Another installation than this checkout. */
  program?: string;
}

/** Runs a command to its end. */
export async function run(sandbox: Sandbox, args: string[], options: ProgramOptions = {}): Promise<Result> {
  const child = sandbox.spawn(options.program ?? PROGRAM, args, { cgroup: null, ...options });
  child.process.stdin.end();
  const code = await child.exited();
  return { code, stdout: child.lines.map((line) => `${line}\n`).join(''), stderr: child.stderr };
}

/** A running `up`. */
export class Daemon {
  readonly child: Child;
  readonly metricsUrl: string;

  private constructor(child: Child, metricsUrl: string) {
    this.child = child;
    this.metricsUrl = metricsUrl;
  }

  /** Starts it on a free port and waits until it says that it is attached. */
  static async start(sandbox: Sandbox, args: string[] = [], options: ProgramOptions = {}): Promise<Daemon> {
    const child = sandbox.spawn(
      options.program ?? PROGRAM,
      [
        'up',
        '--cgroup',
        sandbox.cgroup,
        '--pin-dir',
        sandbox.pinDir,
        ...(args.includes('--metrics') ? [] : ['--metrics', '127.0.0.1:0']),
        ...(args.includes('--max-pairs') ? [] : ['--max-pairs', '1024']),
        '--state-dir',
        stateDir(sandbox),
        ...args,
      ],
      { cgroup: null, ...options },
    );
    const url = await child.until(({ lines }) =>
      lines.map((line) => /https?:\S+\/metrics/.exec(line)?.[0]).find(Boolean),
    );
    return new Daemon(child, url);
  }

  async get(path: string): Promise<{ status: number; body: string }> {
    const response = await fetch(new URL(path, this.metricsUrl));
    return { status: response.status, body: await response.text() };
  }

  /** Value of a metric summed over all series whose labels contain `labels`. */
  async metric(name: string, labels = ''): Promise<number> {
    const { body } = await this.get('/metrics');
    return body
      .split('\n')
      .filter((line) => line.startsWith(`${name} `) || (line.startsWith(`${name}{`) && line.includes(labels)))
      .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' ') + 1)), 0);
  }

  /** Sends a signal and waits for the end. */
  async stop(signal: NodeJS.Signals = 'SIGINT'): Promise<number | null> {
    this.child.signal(signal);
    return this.child.exited();
  }
}
