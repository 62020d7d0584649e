/** The real `slipstream-bpf up`, killed, restarted and taken down; its datapath is looked at from outside. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { setTimeout as pause } from 'node:timers/promises';

import { attachedPrograms, BpfLink, BpfMap, objectExists } from '../../addon/index.js';
import { CgroupNames } from '../../controller/datapath/cgroups.js';
import { Datapath } from '../../controller/datapath/datapath.js';
import { cgroupRoot } from '../../controller/probe/host.js';
import { cgroupTotals } from '../../controller/view/totals.js';
import { PROGRAM, run } from '../kernel/support/daemon.js';
import { type Child, OBJECT_FILE, type Sandbox } from '../kernel/support/sandbox.js';
import { eventually } from '../kernel/support/stack.js';

/** What instances of the datapath counted, added up. */
export interface Counts {
  pairs: number;
  promotions: number;
  redirectedBytes: number;
  redirectedMessages: number;
  policyReloads: number;
  policyReloadFailures: number;
  eventsLost: number;
  totalsLost: number;
  releaseFailed: number;
  passed: Record<string, number>;
  refusals: Record<string, number>;
  demotions: Record<string, number>;
  unpaired: Record<string, number>;
}

/** One look at the controller's process. */
export interface Sample {
  seconds: number;
  controllerPid: number;
  /** Seconds since that process was ready. */
  age: number;
  rssKiB: number;
  descriptors: number;
  slabUnreclaimableKiB: number;
}

type KernelObject = ['program' | 'map' | 'link', number];

setFlagsFromString('--expose-gc');
/** Lets go of memory that is mapped from maps of an earlier datapath. */
const collectGarbage = runInNewContext('gc') as () => void;

const DOWN_SECONDS = 5;
const DOWN_ATTEMPTS = 6;

export class ControllerUnderTest {
  readonly policyFile: string;
  readonly counted = {
    kills: 0,
    restarts: 0,
    adoptions: 0,
    starts: 0,
    downs: 0,
    downsRefused: 0,
    policiesWritten: 0,
  };
  readonly samples: Sample[] = [];
  readonly #sandbox: Sandbox;
  readonly #begun = Date.now();
  readonly #names = new CgroupNames(cgroupRoot());
  readonly #past: Counts[] = [];
  #maxPairs = 0;
  #policy: string;
  #child: Child | undefined;
  /** Undefined while it starts. */
  #readyAt: number | undefined;
  #datapath: Datapath | undefined;
  #objects: KernelObject[] = [];

  constructor(sandbox: Sandbox, policy: string) {
    this.#sandbox = sandbox;
    this.#policy = policy;
    this.policyFile = join(sandbox.dir, 'policy.yaml');
  }

  get datapath(): Datapath {
    assert.ok(this.#datapath, 'the datapath is up');
    return this.#datapath;
  }

  /** Starts it and checks that it took over what was there. */
  async up(maxPairs: number): Promise<void> {
    const adopted = this.#datapath !== undefined;
    this.#maxPairs = maxPairs;
    writeFileSync(this.policyFile, this.#policy);
    const { cgroup, pinDir } = this.#sandbox;
    const where = ['--cgroup', cgroup, '--pin-dir', pinDir, '--metrics', '127.0.0.1:0'];
    const what = ['--max-pairs', String(maxPairs), '--policy', this.policyFile, '--log-level', 'warn'];
    this.#readyAt = undefined;
    this.#child = this.#sandbox.spawn(PROGRAM, ['up', ...where, ...what], { cgroup: null });
    const line = await this.#child.until(({ lines }) => lines.find((text) => text.includes('metrics at')));
    this.#readyAt = Date.now();
    this.counted.starts++;
    if (adopted) this.counted.adoptions++;
    if (line.includes('adopted') !== adopted) throw new Error(`expected ${adopted ? 'adoption' : 'a start'}: ${line}`);
    if (adopted) return;
    this.#datapath = Datapath.adopt(OBJECT_FILE, pinDir);
    this.#objects = kernelObjects(pinDir);
  }

  /** SIGKILL, an absence, a new one. */
  async killAndRestart(absentMs: number): Promise<void> {
    await this.#kill();
    await pause(absentMs);
    await this.up(this.#maxPairs);
  }

  /** An orderly end, an absence, a new one with another policy. */
  async restart(absentMs: number, policy: string): Promise<void> {
    this.counted.restarts++;
    this.#child?.signal('SIGTERM');
    const code = await this.#child?.exited();
    if (code !== 0) throw new Error(`up ended with ${String(code)} after SIGTERM: ${this.#child?.stderr ?? ''}`);
    this.#policy = policy;
    await pause(absentMs);
    await this.up(this.#maxPairs);
  }

  /** Writes a policy; an invalid one must not take effect, and the next start gets the last that was valid. */
  reload(policy: string, valid: boolean, signal: boolean): void {
    this.counted.policiesWritten++;
    if (valid) this.#policy = policy;
    writeFileSync(this.policyFile, policy);
    if (signal) this.#child?.signal('SIGHUP');
  }

  /**
   * Takes the datapath down, under whatever traffic there is, and checks that nothing is left.
   * A reader that is not reading may keep it for a while, but not for longer than that.
   */
  async down(killFirst: boolean): Promise<void> {
    if (killFirst) await this.#kill();
    const args = ['down', '--pin-dir', this.#sandbox.pinDir, '--timeout', String(DOWN_SECONDS)];
    for (let attempt = 1; ; attempt++) {
      const { code, stderr } = await run(this.#sandbox, args);
      if (code === 0) break;
      if (!stderr.includes('unread redirected data')) throw new Error(`down ended with ${String(code)}: ${stderr}`);
      this.counted.downsRefused++;
      if (attempt === DOWN_ATTEMPTS) {
        const pairs = await run(this.#sandbox, ['pairs', '--pin-dir', this.#sandbox.pinDir]);
        throw new Error(`down could not drain in ${DOWN_ATTEMPTS} attempts: ${stderr}\n${pairs.stdout}`);
      }
    }
    const code = await this.#child?.exited();
    if (!killFirst && code !== 0) throw new Error(`up ended with ${String(code)}: ${this.#child?.stderr ?? ''}`);
    this.#child = undefined;
    this.counted.downs++;
    this.#past.push(this.#read());
    this.#datapath?.close();
    this.#datapath = undefined;
    await this.#checkGone();
  }

  /** Counts of this and all earlier instances. */
  counts(): Counts {
    const all = this.#datapath === undefined ? this.#past : [...this.#past, this.#read()];
    return all.reduce(addCounts, emptyCounts());
  }

  sample(): void {
    const child = this.#child;
    const readyAt = this.#readyAt;
    if (
      child === undefined ||
      readyAt === undefined ||
      child.process.exitCode !== null ||
      child.process.signalCode !== null
    )
      return;
    try {
      const status = readFileSync(`/proc/${child.pid}/status`, 'utf8');
      const rss = /^VmRSS:\s+(\d+)/m.exec(status)?.[1];
      const slab = /^SUnreclaim:\s+(\d+)/m.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1];
      if (rss === undefined) return;
      this.samples.push({
        seconds: (Date.now() - this.#begun) / 1000,
        controllerPid: child.pid,
        age: (Date.now() - readyAt) / 1000,
        rssKiB: Number(rss),
        descriptors: readdirSync(`/proc/${child.pid}/fd`).length,
        slabUnreclaimableKiB: Number(slab ?? 0),
      });
    } catch {
      // It was killed meanwhile.
    }
  }

  /** Fails if the controller has ended without having been told to. */
  checkAlive(): void {
    const child = this.#child?.process;
    if (child === undefined || (child.exitCode === null && child.signalCode === null)) return;
    throw new Error(`up ended by itself with ${String(child.exitCode)}: ${this.#child?.stderr ?? ''}`);
  }

  /** With all connections closed every slot must be free, exactly once, and the sockmap empty. */
  async checkEmpty(): Promise<void> {
    const { pairs } = this.datapath;
    await eventually('every slot of the pair table is free', () => pairs.tally().free === pairs.capacity, 15_000).catch(
      (error: unknown) => {
        const states = Object.entries(pairs.tally()).filter(([, count]) => count > 0);
        throw new Error(`slots have leaked: ${JSON.stringify(Object.fromEntries(states))}`, { cause: error });
      },
    );
    assert.deepEqual(this.datapath.occupiedSlots(), [], 'sockets are left in the sockmap');
    const lists = ['free_slots', 'resting_slots'].map((name) => BpfMap.open(join(this.#sandbox.pinDir, name)));
    const slots = lists.flatMap((list) => {
      const own: Buffer[] = [];
      for (let slot = list.lookupAndDelete(); slot !== undefined; slot = list.lookupAndDelete()) own.push(slot);
      for (const slot of own) list.push(slot);
      list.close();
      return own.map((slot) => slot.readUInt32LE());
    });
    assert.equal(slots.length, pairs.capacity, 'free slots in the lists');
    assert.equal(new Set(slots).size, pairs.capacity, 'a slot is in the lists twice');
  }

  async #kill(): Promise<void> {
    this.counted.kills++;
    this.#child?.signal('SIGKILL');
    await this.#child?.exited();
  }

  #read(): Counts {
    const counters = this.datapath.counters();
    const { promotions, reloads, refusals, demotions } = this.datapath.controllerCounters;
    const totals = cgroupTotals(this.datapath, this.#names);
    return {
      pairs: counters.pairs,
      promotions,
      redirectedBytes: totals.reduce((sum, { bytes }) => sum + bytes, 0),
      redirectedMessages: totals.reduce((sum, { messages }) => sum + messages, 0),
      policyReloads: reloads.success,
      policyReloadFailures: reloads.failure,
      eventsLost: counters.eventsLost,
      totalsLost: counters.totalsLost,
      releaseFailed: counters.releaseFailed,
      passed: counters.passed,
      refusals,
      demotions,
      unpaired: counters.unpaired,
    };
  }

  async #checkGone(): Promise<void> {
    const { cgroup, pinDir } = this.#sandbox;
    assert.deepEqual(attachedPrograms(cgroup, 'sock_ops'), [], 'programs are left attached');
    assert.ok(!existsSync(pinDir), 'pins are left');
    let left: KernelObject[] = this.#objects;
    await eventually(
      'the kernel has freed programs, maps and links',
      () => {
        collectGarbage();
        left = left.filter(([kind, id]) => objectExists(kind, id));
        return left.length === 0;
        // A reader that blocks in recv() keeps the program of the sockmap until something arrives.
      },
      25_000,
    ).catch((error: unknown) => {
      throw new Error(`left in the kernel after down: ${JSON.stringify(left)}`, { cause: error });
    });
  }
}

/** What the kernel keeps of the instance that is pinned. */
function kernelObjects(pinDir: string): KernelObject[] {
  return readdirSync(pinDir).flatMap((name): KernelObject[] => {
    const path = join(pinDir, name);
    if (!name.startsWith('link_')) {
      const map = BpfMap.open(path);
      const { id } = map.info();
      map.close();
      return [['map', id]];
    }
    const link = BpfLink.open(path);
    const { id, programId } = link.info();
    link.close();
    return [
      ['link', id],
      ['program', programId],
    ];
  });
}

function emptyCounts(): Counts {
  return {
    pairs: 0,
    promotions: 0,
    redirectedBytes: 0,
    redirectedMessages: 0,
    policyReloads: 0,
    policyReloadFailures: 0,
    eventsLost: 0,
    totalsLost: 0,
    releaseFailed: 0,
    passed: {},
    refusals: {},
    demotions: {},
    unpaired: {},
  };
}

function addCounts(sum: Counts, more: Counts): Counts {
  const added = emptyCounts();
  for (const key of Object.keys(added) as (keyof Counts)[]) {
    const a = sum[key];
    const b = more[key];
    if (typeof a === 'number' && typeof b === 'number') (added as unknown as Record<string, number>)[key] = a + b;
    else if (typeof a === 'object' && typeof b === 'object') Object.assign(added[key], addReasons(a, b));
  }
  return added;
}

function addReasons(a: Record<string, number>, b: Record<string, number>): Record<string, number> {
  const names = new Set([...Object.keys(a), ...Object.keys(b)]);
  return Object.fromEntries([...names].map((name) => [name, (a[name] ?? 0) + (b[name] ?? 0)]));
}
