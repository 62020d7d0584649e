/** What every test of pairing checks: the record, the promotion, the bytes redirected each way and the data. */
import assert from 'node:assert/strict';
import { inspect } from 'node:util';

import { cgroupId } from '../../../addon/index.js';
import { type End, type PairRecord, SIDES } from '../../../controller/datapath/pair-table.js';
import { Connection, type ConnectionOptions } from './endpoint.js';
import { Python } from './python.js';
import type { Sandbox } from './sandbox.js';
import { eventually, type Stack } from './stack.js';

/** Sends so many messages of so many bytes each way and checks them. */
export type Exchange = (count: number, size: number) => Promise<unknown>;

export const isDirect = (pair: PairRecord): boolean =>
  pair.control.state === 'inserted' && pair.directions.every(({ path }) => path === 'direct');

/** Compares the fields named in the expectations. */
export function assertEnds(pair: PairRecord, client: Partial<End>, server: Partial<End>): void {
  for (const [side, wanted] of [client, server].entries()) {
    const end = pair.ends[side];
    assert.ok(end);
    const got = Object.fromEntries(Object.keys(wanted).map((name) => [name, end[name as keyof End]]));
    assert.deepEqual(got, wanted, `side ${String(side)}`);
  }
}

/** A datapath under test and what it must have done. */
export class Pairing {
  readonly sandbox: Sandbox;
  readonly stack: Stack;

  constructor(sandbox: Sandbox, stack: Stack) {
    this.sandbox = sandbox;
    this.stack = stack;
  }

  /** The reasons counted so far. */
  unpaired(): Record<string, number> {
    return Object.fromEntries(Object.entries(this.stack.datapath.counters().unpaired).filter(([, count]) => count > 0));
  }

  /** Exchanges messages until the pair is promoted; then every message must be redirected, both ways. */
  async accelerated(find: () => PairRecord | undefined, exchange: Exchange): Promise<PairRecord> {
    const promoted = await eventually('the pair', find);
    const deadline = performance.now() + 10_000;
    let now: PairRecord | undefined = promoted;
    while (now === undefined || !isDirect(now)) {
      assert.ok(
        performance.now() < deadline,
        `not redirecting within 10 s: ${inspect(now, { depth: 4 })}, ${inspect(this.stack.passed())}`,
      );
      await exchange(8, 64);
      now = find();
    }
    await exchange(20, 500);
    const after = this.stack.datapath.pairs.read(promoted.slot);
    assert.ok(after);
    assert.deepEqual(
      after.directions.map(({ redirectedBytes }, side) => redirectedBytes - now.directions[side]!.redirectedBytes),
      [10_000, 10_000],
      JSON.stringify(this.stack.passed()),
    );
    assert.equal(after.control.generation, promoted.control.generation);
    return after;
  }

  /** The same for two sockets of one process. */
  async acceleratedBetween(p: Python, client: string, server: string): Promise<PairRecord> {
    const [clientPort, serverPort] = [await p.run<number>(`port(${client})`), await p.run<number>(`port(${server})`)];
    const find = (): PairRecord | undefined => this.stack.records().find(({ ends: [end] }) => end.port === clientPort);
    const pair = await this.accelerated(find, p.exchange(client, server));
    assertEnds(pair, { port: clientPort, remotePort: serverPort }, { port: serverPort, remotePort: clientPort });
    await this.assertSockets(pair, p, client, server);
    return pair;
  }

  /** The two ends of a pair are these two sockets and no others. */
  async assertSockets(pair: PairRecord, p: Python, client: string, server: string): Promise<void> {
    assert.deepEqual(
      this.cookies(pair),
      await Promise.all([client, server].map((socket) => p.run<string>(`cookie(${socket})`))),
    );
  }

  /** The cookies of a pair's two sockets, both of which have read something. */
  cookies({ slot }: PairRecord): [string, string] {
    return SIDES.map((side) => String(this.stack.datapath.pairs.holder(slot, side)?.cookie)) as [string, string];
  }

  /** The data are right, no pair was ever made for them and nothing was redirected. */
  async plain(exchange: Exchange): Promise<void> {
    const { pairs } = this.stack.datapath.counters();
    const redirected = this.stack.redirected();
    await exchange(100, 300);
    assert.equal(this.stack.datapath.counters().pairs, pairs);
    assert.deepEqual(this.stack.redirected(), redirected);
  }

  /** Opens a connection between two cgroups, has it accelerated and checks the record against what the programs know. */
  async checked(options: ConnectionOptions, client: Partial<End>, server: Partial<End>): Promise<Connection> {
    const homes = ['client', 'server'].map((name) => this.sandbox.makeCgroup(name)) as [string, string];
    const c = await Connection.open(this.sandbox, {
      ...options,
      client: { cgroup: homes[0], ...options.client },
      server: { cgroup: homes[1], ...options.server },
    });
    const pair = await this.accelerated(
      () => c.pairIn(this.stack),
      (count, size) => c.pingPong(count, size),
    );
    const own = (side: 0 | 1): Partial<End> => {
      const { receives, receivedBytes } = pair.ends[side];
      assert.ok(receives > 0 && receivedBytes > 0);
      return {
        netns: c.netns[side],
        cgroupId: cgroupId(homes[side]),
        pid: [c.client, c.server][side]!.child.pid,
        program: 'endpoint',
      };
    };
    assertEnds(
      pair,
      { ...own(0), port: c.clientPort, remotePort: options.connectPort ?? c.port, ...client },
      { ...own(1), port: c.port, remotePort: c.seenPort, ...server },
    );
    assert.deepEqual(this.unpaired(), {});
    return c;
  }

  /** Waits until every slot has come back, and checks that none was lost or counted twice on the way. */
  async nothingLeaked(slots: number): Promise<void> {
    await eventually('all slots are free', () => this.stack.datapath.pairs.tally().free === slots);
    const { releaseFailed, totalsLost, closedPairs } = this.stack.datapath.counters();
    assert.deepEqual({ releaseFailed, totalsLost }, { releaseFailed: 0, totalsLost: 0 });
    assert.deepEqual(this.stack.datapath.occupiedSlots(), []);
    assert.equal(this.#generations(slots), closedPairs, 'each claimed slot was returned once');
    // The queue of free slots holds each of them, once.
    const p = new Python(this.sandbox);
    const before = this.stack.datapath.counters();
    await p.run(`listening = listener(); held = [connection(listening) for _ in range(${String(slots + 1)})]`);
    const after = this.stack.datapath.counters();
    assert.equal(after.pairs - before.pairs, slots);
    assert.equal((after.unpaired['table_full'] ?? 0) - (before.unpaired['table_full'] ?? 0), 1);
    assert.equal(this.stack.records('observed').length, slots);
    await p.run('[s.close() for pair in held for s in pair]');
    await eventually('all slots are free again', () => this.stack.datapath.pairs.tally().free === slots);
  }

  /** How often a slot has been claimed. */
  #generations(slots: number): number {
    return Array.from({ length: slots }, (_, slot) => this.stack.datapath.pairs.control(slot).generation).reduce(
      (a, b) => a + b,
      0,
    );
  }
}
