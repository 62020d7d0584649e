/** Drives test/programs/endpoint.c: every system call of a connection's two ends, one at a time. */
import assert from 'node:assert/strict';
import { statSync } from 'node:fs';

import type { PairRecord } from '../../../controller/datapath/pair-table.js';
import type { Container } from './container.js';
import type { MemoryLimit } from './memory.js';
import { type Child, program, type Sandbox, type SpawnOptions } from './sandbox.js';
import { eventually, type Stack } from './stack.js';

export interface Answer {
  ok: boolean;
  tag?: string;
  returned?: number;
  errno?: string;
  error?: string;
  port?: number;
  bytes?: number;
  revents?: string[];
  mismatch?: unknown;
  [key: string]: unknown;
}

export class Endpoint {
  readonly child: Child;
  readonly #container: Container | undefined;
  /** Lines of the child already given to a caller. */
  readonly #taken = new Set<number>();

  constructor(sandbox: Sandbox, options: SpawnOptions = {}) {
    this.#container = options.container;
    this.child = sandbox.spawn(options.container ? '/programs/endpoint' : program('endpoint'), [], options);
  }

  /** Of the program; in a container only once it has answered. */
  get pid(): number {
    return this.#container?.pid ?? this.child.pid;
  }

  /** Number of its network namespace as the kernel shows it; only once it has answered. */
  get netns(): number {
    return statSync(`/proc/${String(this.pid)}/ns/net`).ino;
  }

  /** Runs a command and returns its answer, whatever it says. */
  async run(command: string): Promise<Answer> {
    const from = this.child.lines.length;
    this.child.write(command);
    return this.#answer((answer, line) => line >= from && (answer.tag === undefined || command.startsWith('parked')));
  }

  /** Runs a command that must succeed. */
  async do(command: string): Promise<Answer> {
    const answer = await this.run(command);
    assert.ok(answer.ok, `${command}: ${JSON.stringify(answer)}`);
    return answer;
  }

  /** Starts a command in a thread of its own; the promise is its answer. */
  async background(tag: string, command: string): Promise<{ answer: Promise<Answer> }> {
    await this.do(`async ${tag} ${command}`);
    return { answer: this.#answer((answer) => answer.tag === tag) };
  }

  async #answer(matches: (answer: Answer, line: number) => boolean): Promise<Answer> {
    return this.child.until(({ lines }) => {
      for (let line = 0; line < lines.length; line++) {
        if (this.#taken.has(line)) continue;
        const answer = JSON.parse(lines[line] ?? '{}') as Answer;
        if (!matches(answer, line)) continue;
        this.#taken.add(line);
        return answer;
      }
      return undefined;
    });
  }
}

export interface ConnectionOptions {
  /** Address to listen on and to connect to. */
  address?: string;
  /** Listen here when it differs, for instance `::` for v4-mapped. */
  listen?: string;
  /** Port to listen on; default: one that is free. */
  port?: number;
  /** Port to connect to when something between the ends changes it. */
  connectPort?: number;
  /** The client's own address and port. */
  bind?: { address: string; port: number };
  blocking?: boolean;
  /** Both ends' sockets are made in this memory cgroup. */
  memory?: MemoryLimit;
  client?: SpawnOptions;
  server?: SpawnOptions;
  /** Commands run on handle 2 of both ends before they connect, `NAME VALUE` of setsockopt. */
  sockopts?: string[];
}

/** The ports of a connection as its ends see them. */
export interface Ports {
  /** The server's own port. */
  port: number;
  /** The client's own port. */
  clientPort: number;
  /** The client's port as the server sees it. */
  seenPort: number;
}

/** A client and a server process with one connection, handle 2 on both sides. */
export class Connection {
  readonly client: Endpoint;
  readonly server: Endpoint;
  /** Of the client's and the server's network namespace. */
  readonly netns: readonly [number, number];
  readonly port: number;
  readonly clientPort: number;
  readonly seenPort: number;

  /** Of two endpoints that are connected already. */
  constructor(client: Endpoint, server: Endpoint, { port, clientPort, seenPort }: Ports) {
    this.client = client;
    this.server = server;
    this.netns = [client.netns, server.netns];
    this.port = port;
    this.clientPort = clientPort;
    this.seenPort = seenPort;
  }

  static async open(sandbox: Sandbox, options: ConnectionOptions = {}): Promise<Connection> {
    const client = new Endpoint(sandbox, options.client);
    const server = new Endpoint(sandbox, options.server);
    for (const { child } of [client, server]) {
      // An answer shows that it runs under its own name and in its cgroup.
      if (options.memory !== undefined) await client.do('pid');
      options.memory?.add(child.pid);
    }
    return Connection.between(client, server, options);
  }

  /** Connects two endpoints that run already. */
  static async between(
    client: Endpoint,
    server: Endpoint,
    options: Omit<ConnectionOptions, 'client' | 'server' | 'memory'> = {},
  ): Promise<Connection> {
    const address = options.address ?? '127.0.0.1';
    const listen = options.listen ?? address;
    const family = (of: string): string => (of.includes(':') ? '6' : '4');
    await server.do(`socket 1 ${family(listen)}`);
    await client.do(`socket 2 ${family(address)}`);
    for (const option of options.sockopts ?? []) {
      await server.do(`setsockopt 1 ${option}`);
      await client.do(`setsockopt 2 ${option}`);
    }
    const port = (await server.do(`listen 1 ${listen} ${String(options.port ?? 0)}`)).port ?? 0;
    if (options.bind) await client.do(`bind 2 ${options.bind.address} ${String(options.bind.port)}`);
    const connected = await client.do(`connect 2 ${address} ${String(options.connectPort ?? port)}`);
    const seenPort = (await server.do('accept 1 2')).port ?? 0;
    if (options.blocking !== true) {
      for (const end of [client, server]) await end.do('nonblock 2 1');
    }
    return new Connection(client, server, { port, clientPort: connected.port ?? 0, seenPort });
  }

  /** This connection's pair, by what both ends know of themselves. */
  pairIn(stack: Stack): PairRecord | undefined {
    const [clientNetns, serverNetns] = this.netns;
    return stack
      .records()
      .find(
        ({ ends: [client, server] }) =>
          client.port === this.clientPort &&
          client.netns === clientNetns &&
          server.port === this.port &&
          server.netns === serverNetns,
      );
  }

  /** Request and response, verified on both ends. */
  async pingPong(count: number, size: number, wait = ''): Promise<void> {
    // The server's main thread echoes: a second reading thread would be evidence of its own.
    await Promise.all([
      this.server.do(`echo 2 ${String(count)} ${String(size)} ${wait}`),
      this.client.do(`ask 2 ${String(count)} ${String(size)} ${wait}`),
    ]);
  }

  /** Exchanges messages until the pair is promoted and both directions redirect. */
  async promote(stack: Stack, wait = ''): Promise<PairRecord> {
    return this.driveUntil(
      stack,
      'both directions are DIRECT',
      (record) => record.control.state === 'inserted' && record.directions.every(({ path }) => path === 'direct'),
      wait,
    );
  }

  /** Exchanges messages until the pair is as wanted. */
  async driveUntil(
    stack: Stack,
    what: string,
    isReached: (record: PairRecord) => boolean,
    wait = '',
    timeoutMs = 10_000,
  ): Promise<PairRecord> {
    const deadline = performance.now() + timeoutMs;
    for (;;) {
      await this.pingPong(8, 64, wait);
      const record = this.pairIn(stack);
      if (record !== undefined && isReached(record)) return record;
      if (performance.now() > deadline) {
        throw new Error(
          `${what}: not within ${String(timeoutMs)} ms, the pair is ${JSON.stringify(record, (_, v: unknown) => (typeof v === 'bigint' ? String(v) : v))}`,
        );
      }
    }
  }

  async close(): Promise<void> {
    for (const endpoint of [this.client, this.server]) {
      endpoint.child.write('exit');
      await endpoint.child.exited();
    }
  }

  /** Waits until the pair is in a state. */
  async inState(stack: Stack, state: PairRecord['control']['state']): Promise<PairRecord> {
    return eventually(`pair on port ${String(this.port)} ${state}`, () => {
      const record = this.pairIn(stack);
      return record?.control.state === state && record;
    });
  }
}
