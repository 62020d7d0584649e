/** Drives test/programs/endpoint.c: every system call of a connection's two ends, one at a time. */
import assert from 'node:assert/strict';

import type { PairRecord } from '../../../controller/datapath/pair-table.js';
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
  /** Lines of the child already given to a caller. */
  readonly #taken = new Set<number>();

  constructor(sandbox: Sandbox, options: SpawnOptions = {}) {
    this.child = sandbox.spawn(program('endpoint'), [], options);
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
  blocking?: boolean;
  client?: SpawnOptions;
  server?: SpawnOptions;
  /** Commands run on handle 2 of both ends before they connect, `NAME VALUE` of setsockopt. */
  sockopts?: string[];
}

/** A client and a server process with one connection, handle 2 on both sides. */
export class Connection {
  readonly client: Endpoint;
  readonly server: Endpoint;
  port = 0;

  private constructor(client: Endpoint, server: Endpoint) {
    this.client = client;
    this.server = server;
  }

  static async open(sandbox: Sandbox, options: ConnectionOptions = {}): Promise<Connection> {
    const connection = new Connection(new Endpoint(sandbox, options.client), new Endpoint(sandbox, options.server));
    const { client, server } = connection;
    const address = options.address ?? '127.0.0.1';
    const listen = options.listen ?? address;
    const family = (of: string): string => (of.includes(':') ? '6' : '4');
    await server.do(`socket 1 ${family(listen)}`);
    await client.do(`socket 2 ${family(address)}`);
    for (const option of options.sockopts ?? []) {
      await server.do(`setsockopt 1 ${option}`);
      await client.do(`setsockopt 2 ${option}`);
    }
    connection.port = (await server.do(`listen 1 ${listen} 0`)).port ?? 0;
    await client.do(`connect 2 ${address} ${String(connection.port)}`);
    await server.do('accept 1 2');
    if (options.blocking !== true) {
      await client.do('nonblock 2 1');
      await server.do('nonblock 2 1');
    }
    return connection;
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
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      await this.pingPong(8, 64, wait);
      const record = stack.pairOn(this.port);
      if (record !== undefined && isReached(record)) return record;
      if (Date.now() > deadline) {
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
      const record = stack.pairOn(this.port);
      return record?.control.state === state && record;
    });
  }
}
