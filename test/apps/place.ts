/** Where a suite runs: a network namespace and a cgroup, accelerated or not. */
import { chmodSync, existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { Daemon } from '../kernel/support/daemon.js';
import { type Child, Sandbox } from '../kernel/support/sandbox.js';

/** `plain`: nothing attached. `accelerated`: `up`, promoteAfter 1. `blocking`: that, and blocking readers opted in. */
export type Form = 'plain' | 'accelerated' | 'blocking';

const POLICIES: Record<Exclude<Form, 'plain'>, string> = {
  accelerated: 'version: 1\ndefaults: { promoteAfter: 1 }\n',
  blocking: 'version: 1\ndefaults: { promoteAfter: 1, blockingReaders: true }\n',
};

/** What the datapath did for a run. */
export interface Work {
  pairs: number;
  promotions: number;
  messages: number;
  bytes: number;
  passed: number;
  refusals: Record<string, number>;
}

export interface RunOptions {
  /** Everything is killed when it takes longer; default: two minutes. */
  seconds?: number;
  /** Run as this user. */
  user?: string;
  cwd?: string;
  env?: Record<string, string>;
  /** Exit codes that are no failure; default: 0. */
  codes?: number[];
}

/** A program did not come to its end. */
export class Hung extends Error {}

export class Place {
  static readonly #open = new Set<Place>();

  readonly form: Form;
  readonly #sandbox: Sandbox;
  readonly #cgroup: string;
  readonly #netns: string;
  #daemon: Daemon | undefined;

  private constructor(name: string, form: Form) {
    this.form = form;
    this.#sandbox = new Sandbox(`app-${name}`);
    // The servers of some suites don't run as root.
    chmodSync(this.#sandbox.dir, 0o755);
    this.#netns = this.#sandbox.makeNetns('app');
    this.#cgroup = form === 'plain' ? this.#sandbox.makeCgroup('plain', 'beside') : this.#sandbox.cgroup;
  }

  static async open(name: string, form: Form): Promise<Place> {
    const place = new Place(name, form);
    Place.#open.add(place);
    if (form !== 'plain') {
      const policy = place.file('policy.yaml', POLICIES[form]);
      place.#daemon = await Daemon.start(place.#sandbox, ['--policy', policy]);
    }
    return place;
  }

  /** For an end before its time: closes what is open. */
  static async closeAll(): Promise<void> {
    for (const place of Place.#open) await place.close();
  }

  /** Directory for whatever the suite writes; gone afterwards. */
  get dir(): string {
    return this.#sandbox.dir;
  }

  path(name: string): string {
    return join(this.dir, name);
  }

  file(name: string, content: string | Buffer): string {
    writeFileSync(this.path(name), content);
    return this.path(name);
  }

  /** Starts a program there. */
  start(command: string, args: string[], { user, cwd, env }: RunOptions = {}): Child {
    const as = user === undefined ? [] : ['setpriv', `--reuid=${user}`, '--regid=nogroup', '--clear-groups'];
    const inner = [...as, 'env', '-C', cwd ?? this.dir, command, ...args];
    const [program = '', ...rest] = inner;
    return this.#sandbox.spawn(program, rest, {
      cgroup: this.#cgroup,
      netns: this.#netns,
      ...(env === undefined ? {} : { env }),
    });
  }

  /** Runs a program to its end and returns what it printed. */
  async run(command: string, args: string[], options: RunOptions = {}): Promise<string> {
    const child = this.start(command, args, options);
    child.process.stdin.end();
    const code = await this.within(options.seconds ?? 120, `${command} ${args.join(' ')}`, child.exited());
    if (code === null || !(options.codes ?? [0]).includes(code)) {
      const said = [...child.lines.slice(-20), child.stderr.slice(-3000)].join('\n');
      throw new Error(`${command} ${args.join(' ')} ended with ${String(code)}: ${said}`);
    }
    return child.lines.join('\n');
  }

  /** Runs a bash script; `set -e` and pipefail are on. */
  async bash(script: string, options: RunOptions = {}): Promise<string> {
    return this.run('bash', ['-euo', 'pipefail', '-c', script], options);
  }

  /** Waits no longer than this, then ends all that runs there. */
  async within<T>(seconds: number, what: string, promise: Promise<T>): Promise<T> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        this.kill();
        reject(new Hung(`${what}: no end within ${String(seconds)} s`));
      }, seconds * 1000);
    });
    try {
      return await Promise.race([promise, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Ends every program there. */
  kill(): void {
    const file = join(this.#cgroup, 'cgroup.kill');
    if (existsSync(file)) writeFileSync(file, '1');
  }

  /** What the datapath has done by now; undefined where there is none. */
  async work(): Promise<Work | undefined> {
    if (this.#daemon === undefined) return undefined;
    const { body } = await this.#daemon.get('/metrics');
    const work: Work = { pairs: 0, promotions: 0, messages: 0, bytes: 0, passed: 0, refusals: {} };
    const counters: Record<string, (value: number, labels: string) => void> = {
      slipstream_pairs_total: (value) => (work.pairs += value),
      slipstream_promotions_total: (value) => (work.promotions += value),
      slipstream_redirected_messages_total: (value) => (work.messages += value),
      slipstream_redirected_bytes_total: (value) => (work.bytes += value),
      slipstream_passed_messages_total: (value) => (work.passed += value),
      slipstream_refusals_total: (value, labels) => {
        if (value > 0) work.refusals[/reason="([^"]*)"/.exec(labels)?.[1] ?? ''] = value;
      },
    };
    for (const [, name = '', labels = '', value] of body.matchAll(/^(\w+)(\{.*\})? (\S+)$/gm)) {
      counters[name]?.(Number(value), labels);
    }
    return work;
  }

  /** The daemon's own complaints. */
  get trouble(): string[] {
    return (this.#daemon?.child.stderr ?? '').split('\n').filter((line) => /"level":(40|50|60)/.test(line));
  }

  async close(): Promise<void> {
    if (!Place.#open.delete(this)) return;
    // All at once: what forked holds the pipes of its parent.
    this.kill();
    await this.#daemon?.stop('SIGINT');
    await this.#sandbox.dispose();
  }
}
