/** Where the two ends of a row run: network namespaces, CPUs, cgroups, addresses; and what they start there. */
import { chmodSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';

import { Container } from '../test/kernel/support/container.js';
import { freePort } from '../test/kernel/support/redis.js';
import { type Child, program, type Sandbox } from '../test/kernel/support/sandbox.js';
import { must, publishPort } from '../test/kernel/topology/filter.js';
import { BridgedHost, type Plugged } from '../test/kernel/topology/network.js';
import type { Transport } from './workload.js';

/**
 * loopback: the machine's own. bridge: two network namespaces on a bridge. nat: the same, through a port that the
 * bridge's host publishes (DNAT and MASQUERADE). containers: as nat, each end in a container of runc.
 */
export const PATHS = ['loopback', 'bridge', 'nat', 'containers'] as const;
export type Path = (typeof PATHS)[number];

/** Both ends on CPU 0; the client on CPU 0 and the server on CPU 1; or wherever the scheduler puts them. */
export const PLACEMENTS = ['same-cpu', 'cross-cpu', 'free'] as const;
export type Placement = (typeof PLACEMENTS)[number];

export type Role = 'server' | 'client';

const CPU: Record<Placement, Record<Role, string | undefined>> = {
  'same-cpu': { server: '0', client: '0' },
  'cross-cpu': { server: '1', client: '0' },
  free: { server: undefined, client: undefined },
};

const PORT = 7000;
const PUBLISHED = 8080;
/** How long a server may take to listen, milliseconds. */
const PATIENCE = 10_000;

type Ends = Record<Role, Plugged> & { host: BridgedHost };

/**
 * Two namespaces on a bridge each, made when the first row asks for them. The rules of address translation would also see
 * what only crosses a bridge (net.bridge.bridge-nf-call-iptables): a plain bridge is another one.
 */
export class Network {
  readonly #sandbox: Sandbox;
  #plain: Ends | undefined;
  #translating: Ends | undefined;

  constructor(sandbox: Sandbox) {
    this.#sandbox = sandbox;
  }

  endsOf(path: Exclude<Path, 'loopback'>): Ends {
    if (path === 'bridge') return (this.#plain ??= this.#make('plain', 1));
    if (this.#translating === undefined) {
      const ends = this.#make('nat', 2);
      must(publishPort(ends.host.netns, PUBLISHED, { address: ends.server.address, port: PORT }));
      this.#translating = ends;
    }
    return this.#translating;
  }

  #make(name: string, subnet: number): Ends {
    const host = new BridgedHost(this.#sandbox, name, subnet);
    return { host, server: host.plug('server'), client: host.plug('client') };
  }
}

/** What a client's run cost. */
export interface Cost {
  /** Wall-clock seconds of the clients' processes. */
  seconds: number;
  /** CPU seconds of both ends in that time. */
  cpu: number;
}

export interface PlaceOptions {
  sandbox: Sandbox;
  network: Network;
  path: Path;
  placement: Placement;
  /** cgroup directories. */
  cgroups: Record<Role, string>;
  /** Ends the bench. */
  signal: AbortSignal;
}

let made = 0;

export class Place {
  /** Where servers listen, and where clients find that. */
  readonly listen: { address: string; port: number };
  readonly connect: { address: string; port: number };
  /** A socket that exists while a server listens there. */
  readonly unixPath: string;
  /** A directory of the row's own, as its programs see it. */
  readonly directory: string;
  /** Of the clients since the last look. */
  #cost: Cost = { seconds: 0, cpu: 0 };
  readonly #options: PlaceOptions;
  readonly #running = new Set<Child>();
  readonly #containers = new Map<Child, Container>();
  readonly #names = new Map<Child, string>();

  private constructor(options: PlaceOptions, port: number) {
    const { path, network, sandbox } = options;
    this.#options = options;
    if (path === 'loopback') {
      this.listen = { address: '127.0.0.1', port };
      this.connect = this.listen;
    } else {
      const { host, server } = network.endsOf(path);
      this.listen = { address: server.address, port: PORT };
      this.connect = path === 'bridge' ? this.listen : { address: host.address, port: PUBLISHED };
    }
    const dir = join(sandbox.dir, `row-${String(made++)}`);
    mkdirSync(dir);
    // Servers that refuse to be root come through here.
    for (const open of [sandbox.dir, dir]) chmodSync(open, 0o711);
    this.unixPath = join(dir, 'socket');
    this.directory = path === 'containers' ? '/tmp' : dir;
  }

  static async make(options: PlaceOptions): Promise<Place> {
    return new Place(options, options.path === 'loopback' ? await freePort() : PORT);
  }

  /** Whether both ends share the machine's files, so that a UNIX socket can join them. */
  get onHost(): boolean {
    return this.#options.path === 'loopback';
  }

  /** What a transport's address is called in a program's options. */
  at<T>(transport: Transport, tcp: (where: { address: string; port: number }) => T, unix: (path: string) => T): T {
    return transport === 'unix' ? unix(this.unixPath) : tcp(this.connect);
  }

  /** A second port for servers, on the loopback of theirs. */
  async inner(): Promise<number> {
    return this.#options.path === 'loopback' ? freePort() : PORT + 1;
  }

  /** One of the bench's own programs. */
  program(name: string): string {
    return this.#options.path === 'containers' ? `/programs/${name}` : program(name);
  }

  /** Starts a server, which runs until `stop`. */
  server(command: string, args: readonly string[]): Child {
    return this.#start('server', command, args);
  }

  /** Resolves when this server listens on a TCP port or a UNIX socket. */
  async listening(server: Child, where: number | string = this.listen.port): Promise<void> {
    for (const deadline = Date.now() + PATIENCE; ;) {
      this.#options.signal.throwIfAborted();
      if (isListening(this.#containers.get(server), server, where)) return;
      if (server.process.exitCode !== null || Date.now() > deadline) throw this.#failed(server, 'does not listen');
      await pause(3);
    }
  }

  /** Runs a client to its end and returns the lines it printed. */
  async client(command: string, args: readonly string[], others: readonly Child[] = []): Promise<string[]> {
    const before = this.#cpu();
    const start = performance.now();
    const child = this.#start('client', command, args);
    child.process.stdin.end();
    const codes = await Promise.all([child, ...others].map(async (one) => one.exited()));
    this.#options.signal.throwIfAborted();
    this.#cost.seconds += (performance.now() - start) / 1000;
    this.#cost.cpu += this.#cpu() - before;
    [child, ...others].forEach((one, index) => {
      if (codes[index] !== 0) throw this.#failed(one, `ended with ${String(codes[index])}`);
    });
    return child.lines;
  }

  /** What the clients have cost since the last call. */
  takeCost(): Cost {
    const cost = this.#cost;
    this.#cost = { seconds: 0, cpu: 0 };
    return cost;
  }

  /** Ends all that runs here. */
  async stop(): Promise<void> {
    await Promise.all(
      [...this.#running].map(async (child) => {
        this.#containers.get(child)?.remove();
        child.signal('SIGTERM');
        const timer = setTimeout(() => {
          child.signal('SIGKILL');
        }, 3000);
        await child.exited();
        clearTimeout(timer);
      }),
    );
  }

  /** Ends it at once, so that whoever waits for it learns. */
  kill(): void {
    for (const child of this.#running) {
      this.#containers.get(child)?.remove();
      child.signal('SIGKILL');
    }
  }

  #start(role: Role, command: string, args: readonly string[]): Child {
    const { sandbox, network, path, placement, cgroups, signal } = this.#options;
    signal.throwIfAborted();
    const cpu = CPU[placement][role];
    const [program, ...rest] =
      cpu === undefined ? ([command, ...args] as const) : (['taskset', '-c', cpu, command, ...args] as const);
    if (path !== 'containers') {
      const netns = path === 'loopback' ? {} : { netns: network.endsOf(path)[role].netns };
      return this.#keep(command, sandbox.spawn(program, rest, { cgroup: cgroups[role], ...netns }));
    }
    const name = `${role}-${String(made++)}`;
    const { netns } = network.endsOf(path)[role];
    const container = new Container(sandbox, name, { netns, cgroup: join(cgroups[role], name) });
    const child = this.#keep(command, sandbox.spawn(program, rest, { container, cgroup: null }));
    this.#containers.set(child, container);
    void child.exited().then(() => {
      container.remove();
    });
    return child;
  }

  #keep(command: string, child: Child): Child {
    this.#names.set(child, basename(command));
    this.#running.add(child);
    void child.exited().then(() => this.#running.delete(child));
    return child;
  }

  #failed(child: Child, problem: string): Error {
    const words = [...child.lines, ...child.stderr.split('\n')].filter((line) => line.trim() !== '').at(-1);
    return new Error(`${this.#names.get(child) ?? 'a program'} ${problem}: ${words ?? 'it says nothing'}`);
  }

  /** CPU seconds of all that ever ran in the cgroups of both ends. */
  #cpu(): number {
    return Object.values(this.#options.cgroups).reduce((sum, dir) => {
      const usage = /^usage_usec (\d+)/m.exec(readFileSync(join(dir, 'cpu.stat'), 'utf8'))?.[1];
      return sum + Number(usage) / 1e6;
    }, 0);
  }
}

/** The kernel has no event for that which another process could wait for. */
function isListening(container: Container | undefined, server: Child, where: number | string): boolean {
  try {
    const net = `/proc/${String(container?.pid ?? server.pid)}/net`;
    if (typeof where === 'string') {
      // __SO_ACCEPTCON of net/unix/af_unix.c:unix_seq_show
      return (
        existsSync(where) &&
        readFileSync(`${net}/unix`, 'utf8')
          .split('\n')
          .some((line) => line.includes(' 00010000 ') && line.endsWith(where))
      );
    }
    const listens = new RegExp(`:${where.toString(16).toUpperCase().padStart(4, '0')} [0-9A-F]+:0000 0A `, 'm');
    return listens.test(readFileSync(`${net}/tcp`, 'utf8'));
  } catch {
    return false; // has not begun, or has ended
  }
}
