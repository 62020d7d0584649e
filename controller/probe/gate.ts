/**
 * The kernel gate: loads the real datapath for a private cgroup and tries it on real
 * connections over loopback. Nothing is pinned, so whatever happens to this process,
 * nothing stays but an empty cgroup, which the next gate removes.
 */
import { existsSync, mkdirSync, readdirSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';

import type { Logger } from 'pino';

import { Controller } from '../daemon/controller.js';
import { CgroupNames } from '../datapath/cgroups.js';
import { Datapath } from '../datapath/datapath.js';
import type { Control, Side } from '../datapath/pair-table.js';
import type { GateMasks } from '../datapath/settings.js';
import { compilePolicy } from '../policy/evaluate.js';
import { defaultPolicy } from '../policy/schema.js';
import { type Finding, type FindingStatus, gateMasks, type Probe, PROBES } from './findings.js';
import { GateSockets, SocketsAnswer, SocketsError } from './gate-sockets.js';
import { inCgroupNamespace, ownCgroup } from './host.js';
import { kernelNames, type KernelNames, type KernelVersion, parseKernel } from './kernel-version.js';
import { type BugReport, knownBugs, remedyRelease } from './known-bugs.js';

export interface GateOptions {
  /** The datapath's object file. */
  objectFile: string;
  /** The program that makes the connections. */
  socketsProgram: string;
  /** Where the cgroup v2 is mounted. */
  cgroupRoot: string;
  /** Where the private cgroup goes if it can't be made at the root. */
  cgroupDir: string;
  log: Logger;
  /** Promote in spite of known bugs. */
  acceptKnownBugs?: boolean;
  kernel?: KernelNames;
  /** Milliseconds until the self-test is given up. */
  timeout?: number;
}

export interface GateResult {
  readonly kernel: KernelVersion;
  readonly bugs: BugReport;
  readonly findings: readonly Finding[];
  readonly masks: GateMasks;
  /** Whether the connections had a network namespace of their own; undefined if there were none. */
  readonly privateNetwork: boolean | undefined;
  readonly milliseconds: number;
}

/** The gate could not be run: nothing is known of this kernel. */
export class GateError extends Error {}

/** Of the cgroup that a gate makes for itself. */
export const CGROUP_PREFIX = 'slipstream-gate-';
const TIMEOUT = 10_000;
/** How long a pair may take to show up, or leave the sockmap, milliseconds. */
const PATIENCE = 2000;
const POLL = 1;
/** The least that a policy can ask for, bytes. */
const BACKLOG = 64 * 1024;
/** More than the limit above and the sockets' own buffers. */
const FLOOD = 2 * 1024 * 1024;
const SMALL = 64;
const MESSAGE = 1000;
const CLIENT: Side = 0;
const SERVER: Side = 1;
/** More than the connections made here: where the cgroup is not a private one, it may see others. */
const MAX_PAIRS = 64;

/**
 * Runs the self-test and looks the release up.
 * @throws NativeError if the kernel refuses the datapath; GateError if the test can't be carried out
 */
export async function runGate(options: GateOptions): Promise<GateResult> {
  const start = performance.now();
  const kernel = parseKernel(options.kernel ?? kernelNames());
  const bugs = knownBugs(kernel);
  const cgroup = gateCgroup(options);
  let lab: Lab | undefined;
  try {
    lab = await Lab.open(options, cgroup);
    const findings = [...(await lab.run()), ...bugFindings(kernel, bugs, options.acceptKnownBugs === true)];
    return {
      kernel,
      bugs,
      findings,
      masks: gateMasks(findings),
      privateNetwork: lab.privateNetwork,
      milliseconds: performance.now() - start,
    };
  } catch (error) {
    if (error instanceof SocketsError || error instanceof SocketsAnswer) throw new GateError(error.message);
    throw error;
  } finally {
    await lab?.close();
    if (cgroup.made) rmdirSync(cgroup.dir);
  }
}

/** What the table of known bugs says, as findings. */
export function bugFindings(kernel: KernelVersion, bugs: BugReport, accepted: boolean): Finding[] {
  const { forbidding, doubtful } = bugs;
  const names = (list: BugReport['forbidding']): string => list.map(({ id, summary }) => `${id}: ${summary}`).join(' ');
  const until = (list: BugReport['forbidding']): string => `fixed in ${remedyRelease(list, kernel)}`;
  let status: FindingStatus = 'ok';
  let detail = `${kernel.name} is not known to have one that may strike`;
  if (forbidding.length > 0) {
    status = accepted ? 'ok' : 'failed';
    detail = `${kernel.name} has ${names(forbidding)} (${until(forbidding)})`;
  } else if (doubtful.length > 0) {
    status = 'unknown';
    detail = `${kernel.name} may have ${names(doubtful)} (${until(doubtful)}; whether its vendor put the fix in is not known)`;
  } else if (kernel.base === undefined) {
    status = 'unknown';
    detail = `"${kernel.name}" names no release`;
  }
  const findings: Finding[] = [{ id: 'known_bug', status, detail }];
  if (forbidding.length > 0 && accepted) findings.push({ id: 'accepted_bug', status: 'failed', detail });
  return findings;
}

/** Removes the cgroups of gates whose process has ended. */
export function removeGateLeftovers(dirs: readonly string[]): void {
  for (const dir of new Set(dirs)) {
    if (!existsSync(dir)) continue;
    for (const name of readdirSync(dir).filter((entry) => entry.startsWith(CGROUP_PREFIX))) {
      if (existsSync(join('/proc', name.slice(CGROUP_PREFIX.length)))) continue;
      try {
        rmdirSync(join(dir, name));
      } catch {
        // Its last process is still ending, or somebody else was quicker.
      }
    }
  }
}

export interface GateCgroup {
  readonly dir: string;
  /** It is for the gate alone. */
  readonly made: boolean;
}

/**
 * A new cgroup, found and removed by the next gate if this process is killed. A container may neither make one outside its own, nor move a process there; then its own will do, which
 * has the processes of the container only.
 * @throws GateError
 */
export function gateCgroup({ cgroupRoot, cgroupDir }: Pick<GateOptions, 'cgroupRoot' | 'cgroupDir'>): GateCgroup {
  const parents = [cgroupRoot, cgroupDir];
  removeGateLeftovers(parents);
  let reason = 'inside a cgroup namespace';
  for (const parent of inCgroupNamespace() ? [] : parents) {
    const dir = join(parent, `${CGROUP_PREFIX}${String(process.pid)}`);
    try {
      mkdirSync(dir);
      return { dir, made: true };
    } catch (error) {
      reason = (error as NodeJS.ErrnoException).code ?? String(error);
      // Of an earlier process with this number.
      if (reason === 'EEXIST') return { dir, made: true };
    }
  }
  const own = ownCgroup(cgroupRoot);
  if (own !== undefined) return { dir: own, made: false };
  throw new GateError(`no cgroup can be made in ${parents.join(' or ')} (${reason})`);
}

/** What a probe found wrong. */
export class Failed extends Error {}
/** A probe could not be carried out. */
class Unknown extends Error {}

/** Each probe has pairs of its own, by number, so that one that fails spoils no other. */
const PAIRS: Readonly<Record<Probe, readonly number[]>> = {
  redirect: [0],
  order: [1],
  end: [2, 3],
  memory: [4],
  fionread: [5],
  splice: [6],
  signal: [7],
  removal: [8],
  zerocopy: [9],
};
const PAIR_COUNT = Object.values(PAIRS).flat().length;

export interface LabPair {
  slot: number;
  control: Control;
}

/**
 * Finds connections in the table by their clients' ports and puts them into the sockmap. They show no pattern first:
 * this is about the kernel. Nothing else becomes a candidate.
 * @throws Failed
 */
export async function insertPairs(datapath: Datapath, ports: readonly number[], backlog: number): Promise<LabPair[]> {
  const { pairs } = datapath;
  const found = await waitFor(() => {
    const slots = [...pairs.slots('observed')];
    const byPort = new Map(slots.map(([slot]) => [pairs.read(slot)?.ends[CLIENT].port, slot]));
    return ports.every((port) => byPort.has(port)) ? ports.map((port) => byPort.get(port) ?? 0) : undefined;
  });
  if (found === undefined) {
    const unpaired = Object.entries(datapath.counters().unpaired).filter(([, count]) => count > 0);
    throw new Failed(
      `connections of one process were not recognized as pairs (${unpaired.map(([why]) => why).join(', ') || 'no callback'})`,
    );
  }
  datapath.settings.paused = true;
  const approved = found.map((slot): [number, Control] => {
    pairs.prepare(slot, backlog, 0);
    const control = pairs.change(slot, pairs.control(slot), 'approved');
    if (control === undefined) throw new Failed('a pair closed by itself');
    return [slot, control];
  });
  datapath.runPromote();
  return approved.map(([slot, control]) => {
    for (const side of [CLIENT, SERVER]) {
      const result = pairs.insertResult(slot, side);
      if (result.kind === 'refused') throw new Failed(`a socket could not be put into the sockmap (${result.reason})`);
      if (result.kind === 'pending') throw new Failed('the iterator did not meet a socket');
    }
    const inserted = pairs.change(slot, control, 'inserted');
    if (inserted === undefined) throw new Failed('a pair closed by itself');
    return { slot, control: inserted };
  });
}

/** Waits for something in shared memory, for which the kernel has no event. */
async function waitFor<T>(find: () => T | undefined): Promise<T | undefined> {
  const deadline = performance.now() + PATIENCE;
  for (;;) {
    const found = find();
    if (found !== undefined || performance.now() > deadline) return found;
    await new Promise((resolve) => setTimeout(resolve, POLL));
  }
}

/** The datapath under test, the connections, and the probes. */
class Lab {
  privateNetwork = false;
  readonly #datapath: Datapath;
  readonly #sockets: GateSockets;
  readonly #options: GateOptions;
  readonly #timer: NodeJS.Timeout;
  readonly #pairs: LabPair[] = [];

  private constructor(options: GateOptions, datapath: Datapath, sockets: GateSockets) {
    this.#options = options;
    this.#datapath = datapath;
    this.#sockets = sockets;
    const timeout = options.timeout ?? TIMEOUT;
    this.#timer = setTimeout(() => {
      sockets.abort(`it took longer than ${String(timeout)} ms`);
    }, timeout);
  }

  static async open(options: GateOptions, cgroup: GateCgroup): Promise<Lab> {
    const datapath = Datapath.load({
      objectFile: options.objectFile,
      pinDir: undefined,
      cgroupDir: cgroup.dir,
      maxPairs: MAX_PAIRS,
      version: 'gate',
    });
    try {
      return new Lab(
        options,
        datapath,
        await GateSockets.start(options.socketsProgram, cgroup.made ? cgroup.dir : undefined),
      );
    } catch (error) {
      datapath.remove();
      throw error;
    }
  }

  async close(): Promise<void> {
    clearTimeout(this.#timer);
    await this.#sockets.stop();
    this.#datapath.remove();
  }

  /** @throws SocketsError or SocketsAnswer if there are no connections to try it on. */
  async run(): Promise<Finding[]> {
    const [network, ...ports] = (await this.#sockets.command(`open ${String(PAIR_COUNT)}`)).split(' ');
    this.privateNetwork = network === 'private';
    const findings: Finding[] = [];
    let without: string | undefined;
    for (const probe of PROBES) {
      if (without !== undefined) {
        findings.push({ id: probe, status: 'unknown', detail: without });
        continue;
      }
      const finding = await this.#try(probe, async () => {
        if (probe === 'redirect') this.#pairs.push(...(await insertPairs(this.#datapath, ports.map(Number), BACKLOG)));
        return this[probe]();
      });
      findings.push(finding);
      if (probe === 'redirect' && finding.status !== 'ok') without = 'not tried, as nothing is redirected';
    }
    return findings;
  }

  async #try(probe: Probe, action: () => Promise<string>): Promise<Finding> {
    try {
      return { id: probe, status: 'ok', detail: await action() };
    } catch (error) {
      if (error instanceof SocketsError) throw error;
      if (!(error instanceof Failed || error instanceof Unknown || error instanceof SocketsAnswer)) throw error;
      return { id: probe, status: error instanceof Unknown ? 'unknown' : 'failed', detail: error.message };
    } finally {
      if (probe !== 'redirect') for (const pair of PAIRS[probe]) await this.#close(pair);
    }
  }

  /** Messages both ways, the first of each over TCP as the fence asks. */
  async redirect(): Promise<string> {
    for (const side of [CLIENT, SERVER]) await this.#fence(0, side);
    for (const side of [CLIENT, SERVER]) await this.#roundTrip(0, side);
    return 'messages went both ways';
  }

  /** Redirected, then TCP behind it, then a message that must not overtake, then redirected again. */
  async order(): Promise<string> {
    await this.#fence(1, CLIENT);
    await this.#direct(1, CLIENT, MESSAGE);
    await this.#overTcp(1, CLIENT, MESSAGE);
    await this.#send(1, CLIENT, MESSAGE);
    await this.#receive(1, SERVER, 3 * MESSAGE);
    await this.#roundTrip(1, CLIENT);
    return 'it held over redirect, TCP, redirect';
  }

  /** EOF after shutdown, and after close, with redirected bytes unread. */
  async end(): Promise<string> {
    for (const [pair, how] of [
      [2, 'shut'],
      [3, 'close'],
    ] as const) {
      await this.#fence(pair, CLIENT);
      await this.#direct(pair, CLIENT, MESSAGE);
      await this.#sockets.command(`${how} ${String(pair)} ${String(CLIENT)}`);
      await this.#receive(pair, SERVER, MESSAGE);
      await this.#sockets.command(`end ${String(pair)} ${String(SERVER)}`);
    }
    return 'EOF came last after shutdown and after close';
  }

  async memory(): Promise<string> {
    await this.#fence(4, CLIENT);
    const before = this.#redirected(4, CLIENT);
    const accepted = Number(await this.#sockets.command(`fill 4 ${String(CLIENT)} ${String(FLOOD)} 4096`));
    const redirected = this.#redirected(4, CLIENT) - before;
    if (redirected === 0) throw new Failed(`nothing was redirected (${this.#lastPass(4, CLIENT)})`);
    if (redirected > BACKLOG) {
      throw new Failed(
        `${String(redirected)} bytes were redirected to a reader that does not read, the limit is ${String(BACKLOG)}`,
      );
    }
    if (accepted >= FLOOD) throw new Failed(`a sender was never held, ${String(accepted)} bytes were taken`);
    await this.#receive(4, SERVER, accepted);
    return `the sender was held after ${String(accepted)} bytes, ${String(redirected)} of them redirected`;
  }

  async fionread(): Promise<string> {
    await this.#fence(5, CLIENT);
    await this.#direct(5, CLIENT, MESSAGE);
    const direct = await this.#count(MESSAGE);
    await this.#receive(5, SERVER, MESSAGE);
    await this.#overTcp(5, CLIENT, MESSAGE);
    const tcp = await this.#count(MESSAGE);
    await this.#receive(5, SERVER, MESSAGE);
    if (direct === MESSAGE && tcp === MESSAGE) return 'it counts both queues';
    throw new Failed(
      `of ${String(MESSAGE)} bytes it says ${String(direct)} when they were redirected and ${String(tcp)} when they came over TCP`,
    );
  }

  async splice(): Promise<string> {
    await this.#fence(6, CLIENT);
    await this.#direct(6, CLIENT, MESSAGE);
    const moved = Number(await this.#sockets.command(`splice 6 ${String(SERVER)} ${String(MESSAGE)}`));
    if (moved !== MESSAGE) throw new Failed(`of ${String(MESSAGE)} redirected bytes it moves ${String(moved)}`);
    return 'it moves redirected bytes';
  }

  async signal(): Promise<string> {
    const name = await this.#sockets.command(`signal 7 ${String(SERVER)}`);
    if (name !== 'EINTR') throw new Failed(`a blocking receive returns ${name}`);
    return 'a blocking receive returns EINTR';
  }

  /** Such a message uses TCP. */
  async zerocopy(): Promise<string> {
    await this.#fence(9, CLIENT);
    await this.#direct(9, CLIENT, MESSAGE);
    await this.#receive(9, SERVER, MESSAGE);
    await this.#sockets.command(`sendzc 9 ${String(CLIENT)} ${String(MESSAGE)}`);
    await this.#receive(9, SERVER, MESSAGE);
    const completions = Number(await this.#sockets.command(`completions 9 ${String(CLIENT)}`));
    if (completions === 0) throw new Failed('a send was not completed');
    return 'a send was completed';
  }

  /** The real drain: a pair with unread bytes stays, one without leaves, and goes on over TCP. */
  async removal(): Promise<string> {
    await this.#fence(8, CLIENT);
    await this.#direct(8, CLIENT, MESSAGE);
    const controller = new Controller({
      datapath: this.#datapath,
      cgroups: new CgroupNames(this.#options.cgroupRoot),
      policy: compilePolicy(defaultPolicy),
      log: this.#options.log,
      borrowProgram: undefined,
    });
    try {
      const { slot } = this.#pair(8);
      // Two rounds are what a pair needs that has nothing to wait for.
      for (let round = 0; round < 2; round++) {
        if (!(await controller.takeDown(0)).includes(slot)) throw new Failed('a pair left with bytes unread');
      }
      await this.#receive(8, SERVER, MESSAGE);
      if ((await controller.takeDown(PATIENCE)).length > 0) {
        throw new Failed('a pair did not leave the sockmap after all was read');
      }
    } finally {
      await controller.stop();
    }
    const before = this.#redirected(8, CLIENT);
    for (const side of [CLIENT, SERVER]) {
      await this.#send(8, side, MESSAGE);
      await this.#receive(8, side === CLIENT ? SERVER : CLIENT, MESSAGE);
    }
    if (this.#redirected(8, CLIENT) !== before) throw new Failed('a pair that left was still redirected');
    return 'a pair stayed until its bytes were read and went on over TCP';
  }

  #pair(pair: number): LabPair {
    const found = this.#pairs[pair];
    if (found === undefined) throw new Unknown('there is no such pair');
    return found;
  }

  #redirected(pair: number, side: Side): number {
    return this.#datapath.pairs.redirectedBytes(this.#pair(pair).slot, side);
  }

  #lastPass(pair: number, side: Side): string {
    return this.#datapath.pairs.read(this.#pair(pair).slot)?.directions[side].lastPass ?? 'its program never ran';
  }

  /** The first message after insertion, which goes over TCP. */
  async #fence(pair: number, side: Side): Promise<void> {
    await this.#send(pair, side, SMALL);
    await this.#receive(pair, side === CLIENT ? SERVER : CLIENT, SMALL);
  }

  async #roundTrip(pair: number, side: Side): Promise<void> {
    await this.#direct(pair, side, MESSAGE);
    await this.#receive(pair, side === CLIENT ? SERVER : CLIENT, MESSAGE);
  }

  /** Sends a message that must be redirected. */
  async #direct(pair: number, side: Side, size: number): Promise<void> {
    const before = this.#redirected(pair, side);
    await this.#send(pair, side, size);
    if (this.#redirected(pair, side) === before + size) return;
    const reason = this.#lastPass(pair, side);
    if (reason === 'memory') throw new Unknown('the host is short of memory for TCP (net.ipv4.tcp_mem)');
    throw new Failed(`a message was not redirected (${reason})`);
  }

  /** Sends a message that must go over TCP: the limit of the backlog is 0 for it. */
  async #overTcp(pair: number, side: Side, size: number): Promise<void> {
    const { slot } = this.#pair(pair);
    const before = this.#redirected(pair, side);
    this.#datapath.pairs.setLimits(slot, 0, 0);
    try {
      await this.#send(pair, side, size);
    } finally {
      this.#datapath.pairs.setLimits(slot, BACKLOG, 0);
    }
    if (this.#redirected(pair, side) !== before) throw new Failed('a message was redirected beyond the limit');
  }

  async #send(pair: number, side: Side, size: number): Promise<void> {
    const sent = Number(await this.#sockets.command(`send ${String(pair)} ${String(side)} ${String(size)}`));
    if (sent !== size) throw new Failed(`send took ${String(sent)} of ${String(size)} bytes`);
  }

  async #receive(pair: number, side: Side, size: number): Promise<void> {
    await this.#sockets.command(`recv ${String(pair)} ${String(side)} ${String(size)}`);
  }

  async #count(expected: number): Promise<number> {
    return Number(await this.#sockets.command(`count 5 ${String(SERVER)} ${String(expected)}`));
  }

  async #close(pair: number): Promise<void> {
    for (const side of [CLIENT, SERVER]) await this.#sockets.command(`close ${String(pair)} ${String(side)}`);
  }
}
