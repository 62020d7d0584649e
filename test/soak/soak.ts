/**
 * The soak: verified connections between many processes, while clients, servers and the controller are killed, stopped
 * and signalled, policies change, the datapath goes down and up, its tables are full and memory is short. Every byte and
 * every end of a stream is checked all along, and at the end that nothing has leaked.
 */
import { readFileSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';

import { run } from '../kernel/support/daemon.js';
import { program, Sandbox } from '../kernel/support/sandbox.js';
import { joinByVeth } from '../kernel/topology/network.js';
import { ControllerUnderTest, type Counts, type Sample } from './controller.js';
import { type Endpoint, Endpoints, type Place, type Stats } from './endpoints.js';
import { MemoryLimit } from '../kernel/support/memory.js';
import {
  type Chapter,
  chapters,
  type ControllerAction,
  controllerActions,
  type EndpointAction,
  endpointActions,
  FIRST_POLICY,
  type Timed,
} from './schedule.js';

export interface SoakOptions {
  seconds: number;
  seed: number;
  say: (line: string) => void;
}

export interface SoakReport {
  seed: number;
  seconds: number;
  failure: string | null;
  /** What could not be exercised here, and why. */
  skipped: string[];
  connections: Stats;
  datapath: Counts;
  kills: { client: number; server: number; controller: number };
  processStops: number;
  floods: number;
  synsSent: number;
  controller: ControllerUnderTest['counted'];
  /** The most that sockets held while their memory was limited, bytes. */
  socketMemory: number;
  /** Growth of the controller's memory within one process, KiB; null if none lived long enough to tell. */
  rssGrowthKiB: number | null;
  descriptorGrowth: number | null;
  slabUnreclaimableKiB: [number, number];
  samples: Sample[];
}

const POLL_MS = 100;
const SAMPLE_MS = 2000;
const FINISH_MS = 45_000;
const PULSE_MS = 1000;
/** A controller's memory is compared with what it was at this age, in seconds, and only after so long again. */
const WARM_AGE = 8;
const JUDGED_AGE = 25;
const RSS_LIMIT_KIB = 30 * 1024;
const DESCRIPTOR_LIMIT = 4;
const SERVER_ADDRESS = '10.78.0.1';
const CLIENT_ADDRESS = '10.78.0.2';

export async function soak(options: SoakOptions): Promise<SoakReport> {
  const sandbox = new Sandbox('soak');
  const memory = new MemoryLimit(`slipstream-soak-${process.pid}`);
  sandbox.undo(() => memory.remove());
  const soaking = new Soak(sandbox, memory, options);
  const interrupt = (signal: string): void => {
    soaking.fail(`interrupted by ${signal}`);
  };
  process.on('SIGINT', interrupt).on('SIGTERM', interrupt);
  try {
    return await soaking.run();
  } finally {
    process.off('SIGINT', interrupt).off('SIGTERM', interrupt);
    await soaking.killAll();
    await sandbox.dispose();
  }
}

class Soak {
  readonly #sandbox: Sandbox;
  readonly #memory: MemoryLimit;
  readonly #options: SoakOptions;
  readonly #controller: ControllerUnderTest;
  readonly #endpoints: Endpoints;
  readonly #places: Place[];
  readonly #endpointActions: Generator<Timed<EndpointAction>, never>;
  readonly #controllerActions: Generator<Timed<ControllerAction>, never>;
  readonly #background = new Set<Promise<void>>();
  readonly #slabAtStart = slabKiB();
  readonly #aborted = new AbortController();
  #failure: string | null = null;
  #floods = 0;
  #synsSent = 0;
  #lastSample = 0;
  #socketMemory = 0;
  #narrow = false;
  #noMemory = 0;

  constructor(sandbox: Sandbox, memory: MemoryLimit, options: SoakOptions) {
    this.#sandbox = sandbox;
    this.#memory = memory;
    this.#options = options;
    this.#controller = new ControllerUnderTest(sandbox, FIRST_POLICY);
    this.#endpointActions = endpointActions(options.seed);
    this.#controllerActions = controllerActions(options.seed);
    const server = sandbox.makeNetns('server');
    const client = sandbox.makeNetns('client');
    joinByVeth(
      { netns: server, device: 'eth0', addresses: [`${SERVER_ADDRESS}/24`] },
      { netns: client, device: 'eth0', addresses: [`${CLIENT_ADDRESS}/24`] },
    );
    this.#places = [
      { name: 'IPv4', address: '127.0.0.1', server: undefined, client: undefined },
      { name: 'IPv6', address: '::1', server: undefined, client: undefined },
      { name: 'two namespaces', address: SERVER_ADDRESS, server, client },
    ];
    this.#endpoints = new Endpoints({
      sandbox,
      seed: options.seed,
      places: this.#places,
      processes: 2,
      threads: 6,
      onStart: (pid) => {
        memory.add(pid);
      },
      lostWakeup: (text) => {
        if (!this.#narrow) this.fail(`epoll did not report an edge, ${text}`);
      },
      fail: (reason) => {
        this.fail(reason);
      },
    });
  }

  async run(): Promise<SoakReport> {
    const { seconds, say } = this.#options;
    const end = Date.now() + seconds * 1000;
    const poll = setInterval(() => {
      this.#poll();
    }, POLL_MS);
    try {
      const plan = chapters(seconds);
      await this.#controller.up(plan[0]!.maxPairs);
      await this.#endpoints.start();
      let maxPairs = plan[0]!.maxPairs;
      for (const chapter of plan) {
        const left = (end - Date.now()) / 1000;
        if (this.#failure !== null || left <= 0) break;
        if (chapter.maxPairs !== maxPairs) {
          await this.#controller.down(false);
          await this.#controller.up(chapter.maxPairs);
          maxPairs = chapter.maxPairs;
        }
        await this.#runChapter({ ...chapter, seconds: Math.min(chapter.seconds, left) });
        const { connections } = this.#endpoints.stats();
        say(
          `${chapter.kind}: ${connections} connections, ${this.#controller.counts().promotions} promotions, ${this.#killCount()} kills so far`,
        );
      }
      if (this.#failure === null) await this.#finish();
    } catch (error) {
      this.fail(error instanceof Error ? `${error.message}${causeOf(error)}` : String(error));
    } finally {
      clearInterval(poll);
    }
    if (this.#failure !== null) this.#failure += await this.#pairsOf(this.#failure);
    return this.#report();
  }

  /** Ends what a failure may have left, so that the cgroups can be removed. */
  async killAll(): Promise<void> {
    for (const { child } of this.#endpoints.alive()) {
      child.signal('SIGKILL');
      await child.exited();
    }
    this.#memory.widen();
  }

  async #runChapter(chapter: Chapter): Promise<void> {
    const until = Date.now() + chapter.seconds * 1000;
    const narrowing = chapter.kind === 'memory' && this.#memory.skipped === undefined;
    // In pulses: while memory lasts for nobody, sockets in a sockmap wait where TCP always lets one segment go.
    const squeeze = async (): Promise<void> => {
      this.#narrow ||= narrowing;
      while (narrowing && Date.now() < until && this.#failure === null) {
        while (Date.now() < until && !this.#memory.narrow()) await this.#wait(20);
        await this.#wait(PULSE_MS);
        this.#memory.widen();
        await this.#wait(PULSE_MS);
      }
    };
    await Promise.all([
      squeeze(),
      this.#disturbEndpoints(until),
      chapter.kind === 'steady' ? this.#reloadOnly(until) : this.#disturbController(until),
    ]);
    await Promise.all(this.#background);
    // What was reported up to now happened under the limit; a lost edge is noticed after 2 s.
    await this.#wait(narrowing ? 3000 : 0);
    this.#poll();
    this.#narrow = false;
  }

  async #disturbEndpoints(until: number): Promise<void> {
    while (Date.now() < until && this.#failure === null) {
      const action = this.#endpointActions.next().value;
      await this.#wait(action.afterMs);
      this.#start(this.#doToEndpoints(action));
    }
  }

  async #doToEndpoints(action: EndpointAction): Promise<void> {
    const endpoints = this.#endpoints;
    const choose = (from: Endpoint[], index: number): Endpoint | undefined => from[index % from.length];
    switch (action.kind) {
      case 'kill': {
        const victim = choose(endpoints.alive(action.role), action.victim);
        if (victim !== undefined) await endpoints.kill(victim);
        break;
      }
      case 'kill both': {
        const place = this.#places[action.place % this.#places.length]!;
        const victims = (['server', 'client'] as const).flatMap((role) => endpoints.alive(role, place).slice(0, 1));
        await endpoints.kill(...victims);
        break;
      }
      case 'signal': {
        const victim = choose(endpoints.alive(), action.victim);
        for (let n = 0; n < action.count && victim?.killedAt === undefined; n++) {
          victim?.child.signal('SIGUSR1');
          await this.#wait(5);
        }
        break;
      }
      case 'stop': {
        const victim = choose(endpoints.alive(), action.victim);
        if (victim !== undefined) await endpoints.stop(victim, action.forMs);
        break;
      }
      case 'flood':
        await this.#flood(action.count, action.seed);
    }
  }

  /** SYNs without a sender behind them fill the table of handshakes. */
  async #flood(count: number, seed: number): Promise<void> {
    const place = this.#places.find(({ client }) => client !== undefined)!;
    const target = this.#endpoints.alive('server', place)[0];
    if (target === undefined) return;
    const child = this.#sandbox.spawn(
      program('soak'),
      [
        ...['--count', String(count), '--seed', String(seed), '--to', place.address, '--from', CLIENT_ADDRESS],
        ...['--port', String(target.port)],
      ],
      { netns: place.client! },
    );
    if ((await child.exited()) !== 0) throw new Error(`the flood failed: ${child.lines.join()}${child.stderr}`);
    this.#floods++;
    this.#synsSent += count;
  }

  async #disturbController(until: number): Promise<void> {
    while (Date.now() < until && this.#failure === null) {
      const action = this.#controllerActions.next().value;
      await this.#wait(action.afterMs);
      switch (action.kind) {
        case 'reload':
          this.#controller.reload(action.policy, action.valid, action.signal);
          break;
        case 'kill':
          await this.#controller.killAndRestart(action.absentMs);
          break;
        case 'restart':
          await this.#controller.restart(action.absentMs, action.policy);
          break;
        case 'down': {
          const { maxPairs } = this.#controller.datapath.settings;
          await this.#controller.down(action.killFirst);
          await this.#wait(action.absentMs);
          await this.#controller.up(maxPairs);
        }
      }
    }
  }

  /** The same sequence of actions without those that end the controller. */
  async #reloadOnly(until: number): Promise<void> {
    while (Date.now() < until && this.#failure === null) {
      const action = this.#controllerActions.next().value;
      await this.#wait(action.afterMs);
      if (action.kind === 'reload') this.#controller.reload(action.policy, action.valid, action.signal);
    }
  }

  async #finish(): Promise<void> {
    await this.#endpoints.finish(FINISH_MS);
    await this.#controller.checkEmpty();
    const { releaseFailed, totalsLost } = this.#controller.counts();
    if (releaseFailed + totalsLost > 0) {
      throw new Error(`release_failed is ${releaseFailed} and totals_lost ${totalsLost}, both must be 0`);
    }
    await this.#controller.down(false);
    const growth = this.#growth((sample) => sample.rssKiB);
    if (growth !== null && growth > RSS_LIMIT_KIB) throw new Error(`the controller grew by ${growth} KiB`);
    const descriptors = this.#growth((sample) => sample.descriptors);
    if (descriptors !== null && descriptors > DESCRIPTOR_LIMIT) {
      throw new Error(`the controller has ${descriptors} descriptors more than when it was young`);
    }
  }

  /** The largest growth within one controller from when it had warmed up to its last sample. */
  #growth(of: (sample: Sample) => number): number | null {
    const first = new Map<number, number>();
    const last = new Map<number, number>();
    for (const sample of this.#controller.samples) {
      const { controllerPid: pid, age } = sample;
      if (age >= WARM_AGE && !first.has(pid)) first.set(pid, of(sample));
      if (age >= JUDGED_AGE) last.set(pid, of(sample));
    }
    const growths = [...last].map(([pid, value]) => value - (first.get(pid) ?? value));
    return growths.length === 0 ? null : Math.max(...growths);
  }

  #poll(): void {
    try {
      this.#endpoints.poll();
      const { noMemory } = this.#endpoints.stats();
      if (this.#narrow) this.#socketMemory = Math.max(this.#socketMemory, this.#memory.held());
      else if (noMemory > this.#noMemory) this.fail(`${noMemory - this.#noMemory} sends met ENOMEM without a limit`);
      this.#noMemory = noMemory;
      if (Date.now() - this.#lastSample < SAMPLE_MS) return;
      this.#lastSample = Date.now();
      this.#controller.sample();
    } catch (error) {
      this.fail(String(error));
    }
  }

  /** Only the first failure counts: what comes after it may be its consequence. */
  fail(reason: string): void {
    if (this.#failure !== null) return;
    this.#failure = reason;
    this.#aborted.abort();
  }

  async #wait(ms: number): Promise<void> {
    await pause(ms, undefined, { signal: this.#aborted.signal }).catch(() => undefined);
  }

  #start(action: Promise<void>): void {
    const watched = action
      .catch((error: unknown) => {
        this.fail(String(error));
      })
      .then(() => {
        this.#background.delete(watched);
      });
    this.#background.add(watched);
  }

  #killCount(): number {
    const { client, server } = this.#endpoints.kills;
    return client + server + this.#controller.counted.kills;
  }

  /** The lines of `slipstream-bpf pairs` for the ports that a failure names. */
  async #pairsOf(failure: string): Promise<string> {
    const ports = [...failure.matchAll(/"(?:port|peerPort)":(\d+)/g)].map((match) => match[1]);
    if (ports.length === 0) return '';
    const { stdout } = await run(this.#sandbox, ['pairs', '--pin-dir', this.#sandbox.pinDir]);
    const lines = stdout.split('\n').filter((line) => ports.some((port) => line.includes(`:${port} `)));
    return `\npairs:\n${lines.join('\n')}`;
  }

  #report(): SoakReport {
    return {
      seed: this.#options.seed,
      seconds: this.#options.seconds,
      failure: this.#failure,
      skipped: this.#memory.skipped === undefined ? [] : [`memory pressure: ${this.#memory.skipped}`],
      connections: this.#endpoints.stats(),
      datapath: this.#controller.counts(),
      kills: { ...this.#endpoints.kills, controller: this.#controller.counted.kills },
      processStops: this.#endpoints.stops.count,
      floods: this.#floods,
      synsSent: this.#synsSent,
      controller: this.#controller.counted,
      socketMemory: this.#socketMemory,
      rssGrowthKiB: this.#growth((sample) => sample.rssKiB),
      descriptorGrowth: this.#growth((sample) => sample.descriptors),
      slabUnreclaimableKiB: [this.#slabAtStart, slabKiB()],
      samples: this.#controller.samples,
    };
  }
}

function causeOf(error: Error): string {
  return error.cause instanceof Error ? ` (${error.cause.message})` : '';
}

function slabKiB(): number {
  return Number(/^SUnreclaim:\s+(\d+)/m.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1] ?? 0);
}
