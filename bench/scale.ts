/** What many open pairs cost, with the controller as a process of its own (bench/programs/crowd.c). */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { BpfLink } from '../addon/index.js';
import { Daemon } from '../test/kernel/support/daemon.js';
import { type Child, program, Sandbox } from '../test/kernel/support/sandbox.js';
import type { Scale } from './format.js';
import { median } from './statistics.js';

/** Of one process, whose descriptors are limited. */
const CROWD = 12_500;
/** Of the pairs. */
const ACTIVE = 0.01;
const SECONDS = 2;
const LOOKS = 7;
/** Fewer pairs can't be told from the noise of the machine's memory. */
const MEMORY_PAIRS = 1000;
/** The smallest table that holds them, but not smaller than the product's own. */
const tableFor = (pairs: number): number => Math.max(16_384, 2 ** Math.ceil(Math.log2(pairs + 64)));

/** The controller's clock ticks, of USER_HZ, which is 100 on every architecture that Node.js runs on. */
const TICKS = 100;

export async function measureScale(pairs: number, signal: AbortSignal): Promise<Scale> {
  const active = Math.max(1, Math.round(pairs * ACTIVE));
  const plain = await withSandbox(signal, async (sandbox) => {
    const crowd = await Crowd.open(sandbox, pairs, active);
    return { slab: crowd.slab, microseconds: await crowd.run() };
  });
  return withSandbox(signal, async (sandbox) => {
    const daemon = await Daemon.start(sandbox, ['--max-pairs', String(tableFor(pairs))]);
    const crowd = await Crowd.open(sandbox, pairs, active);
    // Long enough for all of them to be promoted.
    for (let turn = 0; turn < 5 && (await promoted(daemon)) < active; turn++) await crowd.run();
    const { pid } = daemon.child;
    const [before, start] = [ticks(pid), performance.now()];
    const microseconds = await crowd.run();
    const controllerCpu = (ticks(pid) - before) / TICKS / ((performance.now() - start) / 1000);
    const [sum, count] = [
      await daemon.metric('slipstream_promotion_seconds_sum'),
      await daemon.metric('slipstream_promotion_seconds_count'),
    ];
    const row: Scale = {
      pairs,
      active,
      promoted: await promoted(daemon),
      promotionMilliseconds: (1000 * sum) / count,
      iteratorMilliseconds: iteratorTime(sandbox.pinDir),
      tcpMicroseconds: plain.microseconds,
      slipstreamMicroseconds: microseconds,
      controllerCpu,
      controllerMegabytes: residentMegabytes(pid),
      metricsMilliseconds: await metricsTime(daemon),
      kernelBytesPerPair:
        pairs < MEMORY_PAIRS
          ? null
          : Math.round((crowd.slab - plain.slab) / pairs + mapBytes(sandbox.pinDir) / tableFor(pairs)),
    };
    await crowd.close();
    await daemon.stop();
    return row;
  });
}

async function withSandbox<T>(signal: AbortSignal, use: (sandbox: Sandbox) => Promise<T>): Promise<T> {
  signal.throwIfAborted();
  const sandbox = new Sandbox('scale');
  let disposed: Promise<void> | undefined;
  const dispose = (): Promise<void> => (disposed ??= sandbox.dispose());
  const abort = (): void => {
    void dispose().catch(() => undefined); // reported below
  };
  signal.addEventListener('abort', abort);
  try {
    return await use(sandbox);
  } finally {
    signal.removeEventListener('abort', abort);
    await dispose();
  }
}

class Crowd {
  /** Bytes of slab memory that came with its connections. */
  readonly slab: number;
  readonly #children: Child[];
  readonly #active: Child;

  private constructor(children: Child[], active: Child, slab: number) {
    this.#children = children;
    this.#active = active;
    this.slab = slab;
  }

  static async open(sandbox: Sandbox, pairs: number, active: number): Promise<Crowd> {
    const before = slabBytes();
    const children: Child[] = [];
    for (let left = pairs; left > 0; left -= CROWD) {
      const own = Math.min(left, CROWD);
      const talking = children.length === 0 ? active : 1;
      const child = sandbox.spawn(program('crowd'), ['--pairs', String(own), '--active', String(talking)]);
      await child.event('open');
      children.push(child);
    }
    const [first] = children;
    if (first === undefined) throw new Error('no pairs');
    return new Crowd(children, first, slabBytes() - before);
  }

  /** Median round trip, microseconds. */
  async run(): Promise<number> {
    const from = this.#active.lines.length;
    this.#active.write(`run ${String(SECONDS)}`);
    return (await this.#active.event<{ p50Microseconds: number }>('ran', from)).p50Microseconds;
  }

  async close(): Promise<void> {
    for (const child of this.#children) child.process.stdin.end();
    await Promise.all(this.#children.map((child) => child.exited()));
  }
}

const promoted = (daemon: Daemon): Promise<number> => daemon.metric('slipstream_pairs', 'state="inserted"');

function ticks(pid: number): number {
  // After the name, which may hold anything: utime and stime (proc_pid_stat(5)).
  const fields =
    readFileSync(`/proc/${String(pid)}/stat`, 'utf8')
      .split(') ')
      .at(-1)
      ?.split(' ') ?? [];
  return Number(fields[11]) + Number(fields[12]);
}

function residentMegabytes(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${String(pid)}/status`, 'utf8'))?.[1]) / 1024;
}

function slabBytes(): number {
  return Number(/^Slab:\s+(\d+) kB/m.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1]) * 1024;
}

function iteratorTime(pinDir: string): number {
  const link = BpfLink.open(join(pinDir, 'link_promote'));
  const times = Array.from({ length: LOOKS }, () => {
    const start = performance.now();
    link.runIterator();
    return performance.now() - start;
  });
  link.close();
  return median(times);
}

async function metricsTime(daemon: Daemon): Promise<number> {
  const times: number[] = [];
  for (let look = 0; look < LOOKS; look++) {
    const start = performance.now();
    await daemon.get('/metrics');
    times.push(performance.now() - start);
  }
  return median(times);
}

/** Of the maps that grow with the table, as the kernel accounts for them. */
function mapBytes(pinDir: string): number {
  return ['pairs', 'free_slots', 'resting_slots', 'sockets'].reduce((sum, name) => {
    const text = execFileSync('bpftool', ['-j', 'map', 'show', 'pinned', join(pinDir, name)], { encoding: 'utf8' });
    return sum + (JSON.parse(text) as { bytes_memlock: number }).bytes_memlock;
  }, 0);
}
