/** The processes with connections: where they are, what they report, who of them was killed. */
import { setTimeout as pause } from 'node:timers/promises';

import { type Child, program, type Sandbox } from '../kernel/support/sandbox.js';

export type Role = 'client' | 'server';

/** Where connections run: an address of the servers, and the namespaces of both. */
export interface Place {
  name: string;
  address: string;
  server: string | undefined;
  client: string | undefined;
}

/** One line of build/programs/soak. */
export interface Line {
  event: string;
  client?: number;
  number?: number;
  peer?: number;
  port?: number;
  peerPort?: number;
  atNs?: number;
  idleSeconds?: number;
  [key: string]: unknown;
}

export interface Stats {
  connections: number;
  early: number;
  earlyUnknown: number;
  refused: number;
  bytes: number;
  messages: number;
  signals: number;
  /** Sends refused with ENOMEM. */
  noMemory: number;
  /** Edges that epoll did not report. */
  noWakeup: number;
  open: number;
}

export const NO_STATS: Readonly<Stats> = {
  connections: 0,
  early: 0,
  earlyUnknown: 0,
  refused: 0,
  bytes: 0,
  messages: 0,
  signals: 0,
  noMemory: 0,
  noWakeup: 0,
  open: 0,
};

export interface Endpoint {
  id: number;
  role: Role;
  place: Place;
  child: Child;
  port: number;
  stats: Stats;
  killedAt: bigint | undefined;
  ended: boolean;
}

export interface EndpointsOptions {
  sandbox: Sandbox;
  seed: number;
  places: readonly Place[];
  /** Servers, and client processes, of each place. */
  processes: number;
  /** Connections of a client process. */
  threads: number;
  /** Called once for each new process. */
  onStart: (pid: number) => void;
  /** A socket was ready and epoll had not said so. */
  lostWakeup: (text: string) => void;
  fail: (reason: string) => void;
}

const STALL_SECONDS = 20;

export class Endpoints {
  readonly all = new Map<number, Endpoint>();
  readonly kills = { client: 0, server: 0 };
  readonly stops = { count: 0 };
  readonly #options: EndpointsOptions;
  /** Of processes that have ended. */
  readonly #past: Stats = { ...NO_STATS };
  #nextId = 1;
  #stopping = false;
  readonly #listeners = new Set<Line[]>();

  constructor(options: EndpointsOptions) {
    this.#options = options;
  }

  async start(): Promise<void> {
    const { places, processes } = this.#options;
    for (const place of places) for (let n = 0; n < processes; n++) await this.#start('server', place);
    for (const place of places) for (let n = 0; n < processes; n++) await this.#start('client', place);
  }

  alive(role?: Role, place?: Place): Endpoint[] {
    return [...this.all.values()].filter(
      (one) =>
        !one.ended &&
        one.killedAt === undefined &&
        (role === undefined || one.role === role) &&
        (place === undefined || one.place === place),
    );
  }

  /** SIGKILL, then another one in its place. */
  async kill(...victims: Endpoint[]): Promise<void> {
    for (const victim of victims) {
      victim.killedAt = process.hrtime.bigint();
      victim.child.signal('SIGKILL');
      this.kills[victim.role]++;
    }
    for (const victim of victims) {
      await victim.child.exited();
      if (victim.role === 'server') this.#tell(victim.place, `drop ${victim.id}`);
      if (!this.#stopping) await this.#start(victim.role, victim.place);
    }
  }

  /** Takes it off the processor for a time. */
  async stop(victim: Endpoint, forMs: number): Promise<void> {
    this.stops.count++;
    victim.child.signal('SIGSTOP');
    await pause(forMs);
    victim.child.signal('SIGCONT');
  }

  /** Everything reported so far. */
  stats(): Stats {
    const sum = { ...this.#past };
    for (const { stats } of this.all.values()) addUp(sum, stats);
    return { ...sum, open: [...this.all.values()].reduce((open, { stats }) => open + stats.open, 0) };
  }

  /** Reads what the processes have printed since the last call. */
  poll(): void {
    for (const endpoint of this.all.values()) {
      this.#take(endpoint);
      if (!endpoint.ended) continue;
      addUp(this.#past, endpoint.stats);
      endpoint.stats = { ...NO_STATS };
    }
  }

  /** Every connection as the processes at its ends see it. */
  async describe(): Promise<Line[]> {
    const talks: Line[] = [];
    this.#listeners.add(talks);
    for (const { child } of this.alive()) child.write('dump');
    // A process that does not answer is part of the picture.
    for (let n = 0; n < 20; n++) {
      await pause(50);
      this.poll();
    }
    this.#listeners.delete(talks);
    return talks;
  }

  /** Lets every connection come to its end: first the clients, then the servers. */
  async finish(timeoutMs: number): Promise<void> {
    this.#stopping = true;
    for (const role of ['client', 'server'] as const) {
      const some = this.alive(role);
      for (const { child } of some) child.write('stop');
      const ended = Promise.all(some.map(({ child }) => child.exited()));
      const late = Symbol('late');
      if ((await Promise.race([ended, pause(timeoutMs, late, { ref: false })])) !== late) continue;
      const left = some.filter(({ ended: done }) => !done);
      for (const { child } of left) child.write('dump');
      await pause(500);
      const lines = left.flatMap(({ child }) => child.lines.filter((line) => line.includes('"talk"')).slice(0, 3));
      throw new Error(`${left.length} ${role} processes did not end within ${timeoutMs} ms:\n${lines.join('\n')}`);
    }
    this.poll();
  }

  async #start(role: Role, place: Place): Promise<void> {
    const { sandbox, seed, threads } = this.#options;
    const id = this.#nextId++;
    const common = ['--id', String(id), '--seed', String(seed), '--idle-timeout', String(STALL_SECONDS)];
    const own = role === 'server' ? ['--server', '--bind', place.address] : ['--threads', String(threads)];
    const netns = place[role];
    const child = sandbox.spawn(program('soak'), [...common, ...own], netns === undefined ? {} : { netns });
    this.#options.onStart(child.pid);
    const endpoint: Endpoint = {
      id,
      role,
      place,
      child,
      port: 0,
      stats: { ...NO_STATS },
      killedAt: undefined,
      ended: false,
    };
    void child.exited().then((code) => {
      this.#take(endpoint);
      endpoint.ended = true;
      if (endpoint.killedAt !== undefined || (this.#stopping && code === 0)) return;
      const how = code ?? child.process.signalCode ?? 'a signal';
      this.#options.fail(`${role} ${id} (${place.name}) ended by itself with ${how}: ${child.stderr}`);
    });
    if (role === 'server') {
      const { port } = await child.event<Line>('listening');
      endpoint.port = port ?? 0;
      this.all.set(id, endpoint);
      this.#tell(place, targetLine(endpoint));
    } else {
      this.all.set(id, endpoint);
      for (const server of this.alive('server', place)) child.write(targetLine(server));
    }
  }

  #tell(place: Place, line: string): void {
    for (const { child } of this.alive('client', place)) child.write(line);
  }

  #take(endpoint: Endpoint): void {
    for (const text of endpoint.child.lines.splice(0)) {
      const line = JSON.parse(text) as Line;
      if (line.event === 'stats') endpoint.stats = line as unknown as Stats;
      else if (line.event === 'early') this.#judgeEarly(endpoint, line, text);
      else if (line.event === 'talk') for (const talks of this.#listeners) talks.push(line);
      else if (line.event === 'stall') this.#reportStall(endpoint, line, text);
      else if (line.event === 'lost wakeup') this.#options.lostWakeup(`${endpoint.place.name}: ${text}`);
      else if (line.event !== 'listening') {
        this.#options.fail(`${endpoint.role} ${endpoint.id} (${endpoint.place.name}): ${text}`);
      }
    }
  }

  /** The end of a stream before its time is right only if the other process was killed by then. */
  #judgeEarly(endpoint: Endpoint, line: Line, text: string): void {
    const peer = this.all.get(line.peer ?? 0);
    if (peer?.killedAt !== undefined && peer.killedAt <= BigInt(line.atNs ?? 0)) return;
    const { role, id, place } = endpoint;
    this.#options.fail(`${role} ${id} (${place.name}) lost a connection whose other end was not killed: ${text}`);
  }

  /** A sender that waits for a slow reader makes no progress of its own; only both ends at rest are a failure. */
  #reportStall(endpoint: Endpoint, line: Line, text: string): void {
    const { role, id, place } = endpoint;
    void this.describe().then((all) => {
      const talks = all.filter(({ client, number }) => client === line.client && number === line.number);
      if (talks.some(({ idleSeconds = 0 }) => idleSeconds < STALL_SECONDS / 2)) return;
      if (endpoint.killedAt !== undefined || this.all.get(line.peer ?? 0)?.killedAt !== undefined) return;
      // Several processes may have asked at once.
      const ends = talks
        .slice(0, 2)
        .map((talk) => JSON.stringify(talk))
        .join('\n');
      this.#options.fail(
        `${role} ${id} (${place.name}): no progress for ${STALL_SECONDS} s, ports ${line.port ?? 0} and ` +
          `${line.peerPort ?? 0}\n${text}\nboth ends:\n${ends}`,
      );
    });
  }
}

function targetLine(server: Endpoint): string {
  return `target ${server.id} ${server.place.address} ${server.port}`;
}

function addUp(sum: Stats, more: Stats): void {
  for (const key of Object.keys(NO_STATS) as (keyof Stats)[]) sum[key] += more[key];
}
