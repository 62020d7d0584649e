/**
 * One test, or more, for each invariant of docs/design.md, made to fail when the
 * invariant is taken out of the BPF code (scripts/mutants does that).
 */
import { DEFAULT_TUNING } from '../../controller/datapath/settings.js';
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { type AddressInfo, createConnection, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';

import { BpfMap, BpfObject } from '../../addon/index.js';
import { Layout, Records } from '../../controller/datapath/layout.js';
import type { PairRecord } from '../../controller/datapath/pair-table.js';
import { cgroupRoot } from '../../controller/probe/host.js';
import { promotesBy } from '../../controller/probe/kernel.js';
import { Connection, type ConnectionOptions } from './support/endpoint.js';
import { MemoryLimit } from './support/memory.js';
import { Python } from './support/python.js';
import { needsRoot, OBJECT_FILE, Sandbox, skip } from './support/sandbox.js';
import { EAGER, eventually, Stack } from './support/stack.js';
import { wakeOnce } from './support/waking.js';

const { ENOENT } = constants.errno;
const CLIENT = 0;
const SERVER = 1;
/** Promotes nothing by itself: the test says when. */
const PATIENT = 'version: 1\ndefaults: { promoteAfter: 60000, blockingReaders: true }\n';

describe('invariants', function () {
  this.timeout(60_000);
  let sandbox: Sandbox;
  let stack: Stack;

  before(function () {
    needsRoot(this);
  });

  beforeEach(() => {
    sandbox = new Sandbox('invariants');
  });

  afterEach(() => sandbox.dispose());

  async function promoted(
    options: ConnectionOptions = {},
    policy = EAGER,
  ): Promise<{ c: Connection; pair: PairRecord }> {
    stack = new Stack(sandbox, { policy });
    const c = await Connection.open(sandbox, options);
    const pair = await c.promote(stack);
    return { c, pair };
  }

  const redirectedMessages = (pair: PairRecord, side: 0 | 1): number =>
    stack.datapath.pairs.redirectedMessages(pair.slot, side);

  /** Runs `action`, which must send one message to the server, and checks that it passed for this reason. */
  async function passes(pair: PairRecord, reason: string, action: () => Promise<unknown>): Promise<void> {
    const before = stack.passed()[reason] ?? 0;
    const redirected = redirectedMessages(pair, CLIENT);
    await action();
    assert.equal(redirectedMessages(pair, CLIENT), redirected, 'the message was redirected');
    assert.ok(
      (stack.passed()[reason] ?? 0) > before,
      `nothing passed for ${reason}: ${JSON.stringify(stack.passed())}`,
    );
  }

  /** Sends one message to the server and expects it to be redirected, once all that went over TCP is acknowledged. */
  async function redirects(c: Connection, pair: PairRecord, size = 100): Promise<void> {
    await c.client.do('settle 2');
    const before = redirectedMessages(pair, CLIENT);
    await c.client.do(`sendall 2 ${String(size)}`);
    await c.server.do(`recvall 2 ${String(size)}`);
    assert.equal(redirectedMessages(pair, CLIENT), before + 1, `not redirected: ${JSON.stringify(stack.passed())}`);
  }

  /** True after the iterator has run several times for this pair. */
  function drainRounds(pair: PairRecord): () => boolean {
    const { layout } = stack.datapath;
    const settings = BpfMap.open(join(sandbox.pinDir, 'settings'));
    const records = new Records(settings.mmap(), layout.size('settings'));
    settings.close();
    const pass = layout.field('settings', 'pass');
    const start = records.get(0, pass);
    assert.equal(stack.datapath.pairs.control(pair.slot).state, 'draining');
    return () => records.get(0, pass) > start + 3;
  }

  function openTable(): { records: Records; field: (path: string) => ReturnType<Layout['field']> } {
    const layout = new Layout(BpfObject.open(OBJECT_FILE));
    const map = BpfMap.open(join(sandbox.pinDir, 'pairs'));
    const records = new Records(map.mmap(), layout.size('pair'));
    map.close();
    return { records, field: (path) => layout.field('pair', path) };
  }

  describe('1: order', () => {
    it('keeps messages behind TCP bytes that were not consumed', async () => {
      const { c, pair } = await promoted();
      stack.datapath.pairs.hold(pair.slot, CLIENT, true);
      await passes(pair, 'held', () => c.client.do('sendall 2 1000'));
      stack.datapath.pairs.hold(pair.slot, CLIENT, false);
      await passes(pair, 'order', () => c.client.do('sendall 2 1000'));
      await c.server.do('recvall 2 2000');
      await redirects(c, pair);
    });

    it('waits for the acknowledgement of TCP bytes, which alone proves that they were not lengthened', async () => {
      const { c, pair } = await promoted({ sockopts: ['TCP_NODELAY 1'] });
      // An answer over TCP makes the client's kernel hold its next ACK back (tcp_enter_pingpong_mode).
      await c.client.do('setsockopt 2 TCP_QUICKACK 0');
      await c.server.do('setsockopt 2 TCP_QUICKACK 0');
      const passed = (): number => stack.datapath.pairs.passedMessages(pair.slot, CLIENT);
      let waited = 0;
      for (let round = 0; round < 20 && waited === 0; round++) {
        stack.datapath.pairs.hold(pair.slot, CLIENT, true);
        await c.client.do('sendall 2 100');
        await c.server.do('recvall 2 100');
        stack.datapath.pairs.hold(pair.slot, CLIENT, false);
        const before = passed();
        await c.client.do('sendall 2 100');
        await c.server.do('recvall 2 100');
        waited = stack.passed()['unacknowledged'] ?? 0;
        if (waited > 0) assert.equal(passed(), before, 'counted as if it told a stream');
      }
      assert.ok(waited > 0, `every message was acknowledged at once: ${JSON.stringify(stack.passed())}`);
      await redirects(c, pair);
    });

    it('keeps order over many switches with unread data on both paths', async () => {
      const { c, pair } = await promoted();
      for (let round = 0; round < 50; round++) {
        stack.datapath.pairs.hold(pair.slot, CLIENT, round % 2 === 0);
        for (let n = 1; n < 5; n++) await c.client.do(`sendall 2 ${String(37 * n)}`);
        await c.server.do('recvall 2 370');
        await c.server.do('sendall 2 5');
        await c.client.do('recvall 2 5');
      }
      const { switches } = stack.records()[0]!.directions[CLIENT];
      assert.ok(switches > 50, `only ${String(switches)} switches`);
    });
  });

  describe('2: no parked reader', () => {
    it('wakes a reader that has been inside recv() since before insertion', async () => {
      stack = new Stack(sandbox, { policy: PATIENT });
      const c = await Connection.open(sandbox, { blocking: true });
      await c.pingPong(4, 10, 'wait=block');
      const parked = await c.server.background('reader', 'recv 2 100');
      await c.server.do('parked reader');
      const { slot, control } = await c.inState(stack, 'observed');
      stack.datapath.pairs.prepare(slot, 1 << 20, 0);
      // A sweep of the controller takes it from here.
      assert.ok(stack.datapath.pairs.change(slot, control, 'candidate'));
      stack.datapath.pairs.setPromoteAfter(slot, 60_000);
      const pair = await c.inState(stack, 'inserted');
      // Blocking receives by several threads alone would be reason enough to leave redirection.
      await stack.controller.stop();
      stack.datapath.pairs.setLimits(slot, 1 << 20, 0);
      await passes(pair, 'fence', () => c.client.do('sendall 2 100'));
      const answer = await parked.answer;
      assert.equal(answer.returned, 100, JSON.stringify(answer));
      await c.client.do('settle 2');
      // The next receive goes through tcp_bpf_recvmsg, which wakes for both queues.
      const again = await c.server.background('again', 'recv 2 100');
      await c.server.do('parked again');
      const before = redirectedMessages(pair, CLIENT);
      await c.client.do('sendall 2 100');
      assert.equal((await again.answer).returned, 100);
      assert.equal(redirectedMessages(pair, CLIENT), before + 1, JSON.stringify(stack.passed()));
    });

    it('does not promote blocking readers unless the policy opts in', async () => {
      stack = new Stack(sandbox, { policy: 'version: 1\ndefaults: { promoteAfter: 2 }\n' });
      const c = await Connection.open(sandbox, { blocking: true });
      await c.driveUntil(stack, 'refused', ({ refusal }) => refusal === 'blocking', 'wait=block');
      assert.equal(stack.redirected().messages, 0);
    });

    for (const [flag, side] of [
      ['MSG_WAITALL', 'server'],
      ['MSG_TRUNC', 'client'],
    ] as const) {
      it(`does not promote a ${side} that used ${flag}`, async () => {
        stack = new Stack(sandbox);
        const c = await Connection.open(sandbox);
        const [from, to] = side === 'server' ? [c.client, c.server] : [c.server, c.client];
        await from.do('sendall 2 10');
        await to.do('verify 2 0');
        await to.do('poll 2 POLLIN 5000');
        await to.run(`recv 2 10 ${flag}`);
        await to.do('verify 2 1');
        await c.driveUntil(stack, 'refused', ({ refusal }) => refusal === 'reader');
        assert.equal(stack.redirected().messages, 0);
      });
    }

    it('stops redirecting at once when the reader changes its ways', async () => {
      const { c, pair } = await promoted();
      await c.client.do('sendall 2 100');
      await c.server.do('recv 2 100 MSG_WAITALL');
      const before = redirectedMessages(pair, CLIENT);
      await c.client.do('sendall 2 100');
      await c.server.do('recvall 2 100');
      assert.equal(redirectedMessages(pair, CLIENT), before);
      const record = await c.inState(stack, 'observed');
      assert.equal(record.demotion, 'reader');
    });

    it('passes to a reader with forbidden evidence, whatever the controller does', async () => {
      const { c, pair } = await promoted();
      await stack.controller.stop();
      await c.client.do('sendall 2 100');
      await c.server.do('recv 2 100 MSG_WAITALL');
      await passes(pair, 'reader', () => c.client.do('sendall 2 100'));
      await c.server.do('recvall 2 100');
    });

    it('does not promote a reader that spliced bytes away', async () => {
      stack = new Stack(sandbox);
      const c = await Connection.open(sandbox);
      await c.client.do('sendall 2 1000');
      await c.server.do('poll 2 POLLIN 5000');
      await c.server.do('splice 2 1000');
      await c.driveUntil(stack, 'refused', ({ refusal }) => refusal === 'accounting');
      assert.equal(stack.redirected().messages, 0);
    });

    it('does not promote again a reader that spliced in between', async () => {
      const { c, pair } = await promoted({ sockopts: ['TCP_NODELAY 1'] });
      await c.pingPong(20, 500);
      assert.ok(stack.controller.demote(pair.slot, stack.datapath.pairs.control(pair.slot), 'requested', 2n ** 63n));
      await c.inState(stack, 'observed');
      for (let n = 0; n < 20; n++) {
        await c.client.do('sendall 2 100');
        await c.server.do('poll 2 POLLIN 5000');
        assert.equal((await c.server.do('splice 2 100')).returned, 100);
      }
      stack.datapath.pairs.setRetry(pair.slot, 0n);
      await c.driveUntil(stack, 'refused', ({ refusal }) => refusal === 'accounting');
    });

    it('counts every receive, also of who interrupts another one that is being counted', async function () {
      stack = new Stack(sandbox, { policy: PATIENT });
      const c = await Connection.open(sandbox);
      const p = new Python(sandbox);
      await p.run('l = listener(); c, s = connection(l); cpu = {min(os.sched_getaffinity(0))}');
      for (const { pid } of [p, c.client, c.server]) await p.run(`os.sched_setaffinity(${String(pid)}, cpu)`);
      await p
        .run('os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))')
        .catch((error: unknown) => skip(this, `no real-time priority here: ${String(error)}`));
      let [done, count] = [false, 0];
      const interrupted = (async () => {
        for (; !done; count += 1000) await c.pingPong(1000, 100);
      })();
      // At moments that have nothing to do with what the others are at.
      const interrupting = `
import random, time
for _ in range(3000):
    time.sleep(random.uniform(50e-6, 150e-6))
    exchange(c, s, 1, 100)`;
      await p.run(interrupting).finally(() => (done = true));
      await interrupted;
      const received = (port: number): number[] => stack.pairOn(port)!.ends.map((end) => end.receivedBytes);
      assert.deepEqual(received(await p.run('port(l)')), [300_000, 300_000]);
      assert.deepEqual(received(c.port), [100 * count, 100 * count]);
    });

    it('leaves redirection when bytes are consumed uncounted afterwards', async () => {
      const { c, pair } = await promoted();
      stack.datapath.pairs.hold(pair.slot, CLIENT, true);
      await c.client.do('sendall 2 1000');
      await c.server.do('poll 2 POLLIN 5000');
      await c.server.do('splice 2 1000');
      await c.client.do('settle 2');
      stack.datapath.pairs.hold(pair.slot, CLIENT, false);
      await passes(pair, 'accounting', () => c.client.do('sendall 2 100'));
      await c.server.do('recvall 2 100');
    });
  });

  describe('2: the guard', () => {
    /** 100 redirected bytes, and behind them 100 that had to go over TCP. */
    async function behind(): Promise<{ c: Connection; pair: PairRecord }> {
      const { c, pair } = await promoted({ sockopts: ['TCP_NODELAY 1'] });
      await redirects(c, pair);
      await c.client.do('send 2 100');
      await c.server.do('setsockopt 2 SO_RCVLOWAT 2');
      await passes(pair, 'low_water_mark', () => c.client.do('send 2 100'));
      await c.server.do('setsockopt 2 SO_RCVLOWAT 1');
      return { c, pair };
    }

    it('ends a stream whose reader took TCP bytes before redirected ones', async () => {
      const { c, pair } = await behind();
      await c.server.do('verify 2 0');
      assert.equal((await c.server.do('splice 2 100')).returned, 100, 'splice sees the second message');
      const sent = await untilRefused(c);
      assert.equal(sent.errno, 'EACCES');
      assert.ok(stack.datapath.counters().dropped > 0);
      assert.ok(stack.datapath.pairs.overtaken(pair.slot, CLIENT));
      assert.equal((await c.client.run('send 2 10')).errno, 'EACCES', 'for good');
      // Also when the pair is taken back, and after the reader has come round.
      await c.server.do('recv 2 1000');
      assert.ok(stack.controller.demote(pair.slot, stack.datapath.pairs.control(pair.slot), 'program', 2n ** 63n));
      await eventually('looks at the pair', drainRounds(pair));
      assert.equal((await c.client.run('send 2 10')).errno, 'EACCES', 'the next byte is not the next of the stream');
    });

    it('never fires for a reader that uses recvmsg', async () => {
      const { c, pair } = await behind();
      await c.server.do('recv 2 50');
      for (let n = 0; n < 4; n++) await c.client.do('send 2 100');
      await c.server.do('recvall 2 550');
      // For longer than the guard waits until it is certain.
      const end = Date.now() + 1500;
      while (Date.now() < end) await c.pingPong(10, 100);
      assert.equal(stack.datapath.counters().dropped, 0);
      assert.ok(!stack.datapath.pairs.overtaken(pair.slot, CLIENT));
    });

    /** Sends now and then until the kernel says no. */
    async function untilRefused(c: Connection): Promise<{ errno?: string }> {
      const deadline = Date.now() + 10_000;
      for (;;) {
        const answer = await c.client.run('send 2 10');
        if (!answer.ok || Date.now() > deadline) return answer;
        await c.client.run('poll 2 POLLIN 100');
      }
    }
  });

  describe('2: sums that never add up', () => {
    it('bytes that were counted and then refused by the kernel neither cut a stream nor hold it on redirection', async () => {
      const { c, pair } = await promoted({ sockopts: ['TCP_NODELAY 1'] });
      await redirects(c, pair);
      const { records, field } = openTable();
      records.add(pair.slot, field('direction[0].redirected_bytes'), 5000);
      stack.datapath.pairs.hold(pair.slot, CLIENT, true);
      const before = (): number => redirectedMessages(pair, CLIENT);
      const deadline = Date.now() + 10_000;
      for (let last = -1; last !== before();) {
        assert.ok(Date.now() < deadline, 'it never leaves redirection');
        last = before();
        await c.client.run('poll 2 POLLIN 100');
        await c.pingPong(5, 10);
      }
      // For longer than the guard takes to be certain.
      const end = Date.now() + 1500;
      while (Date.now() < end) {
        await c.pingPong(1, 1); // few bytes: the sums must not catch up
        await c.client.run('poll 2 POLLIN 50');
      }
      assert.equal(stack.datapath.counters().dropped, 0);
    });
  });

  describe('2: keepalive', () => {
    it('sends a message over TCP in the end where something always waits', async () => {
      stack = new Stack(sandbox, { keepalive: 20 });
      const c = await Connection.open(sandbox, { sockopts: ['TCP_NODELAY 1'] });
      const pair = await c.promote(stack);
      await c.client.do('send 2 10');
      await c.client.do('send 2 10');
      const before = stack.passed()['keepalive'] ?? 0;
      const deadline = Date.now() + 10_000;
      while ((stack.passed()['keepalive'] ?? 0) === before) {
        assert.ok(Date.now() < deadline, `never: ${JSON.stringify(stack.passed())}`);
        await c.client.do('send 2 10');
        await c.server.do('recvall 2 10');
        await c.server.do('send 2 10');
        await c.client.do('recvall 2 10');
      }
      await c.server.do('recvall 2 20');
      await c.promote(stack);
      assert.equal(stack.datapath.pairs.control(pair.slot).state, 'inserted');
    });

    it('sends a message over TCP now and then, and only when nothing waits', async () => {
      stack = new Stack(sandbox, { keepalive: 200 });
      const c = await Connection.open(sandbox, { sockopts: ['TCP_NODELAY 1'] });
      const pair = await c.promote(stack);
      await c.client.do('send 2 10');
      await c.client.run('poll 2 POLLIN 300');
      const before = redirectedMessages(pair, CLIENT);
      await c.client.do('send 2 10');
      assert.equal(redirectedMessages(pair, CLIENT), before + 1, 'went to TCP behind unread data');
      await c.server.do('recvall 2 20');
      await passes(pair, 'keepalive', () => c.client.do('send 2 10'));
      await c.server.do('recvall 2 10');
      await redirects(c, pair);
    });

    it('does not make a slow pair look like a stream', async () => {
      stack = new Stack(sandbox, { keepalive: 1 });
      const c = await Connection.open(sandbox, { sockopts: ['TCP_NODELAY 1'] });
      const pair = await c.promote(stack);
      const passedMessages = (): number => stack.datapath.pairs.passedMessages(pair.slot, CLIENT);
      const before = passedMessages();
      // What the judgement of streams goes by.
      for (let n = 0; n < 5; n++) {
        await c.client.run('poll 2 POLLIN 30');
        await passes(pair, 'keepalive', () => c.client.do('send 2 10'));
        await c.server.do('recvall 2 10');
        await redirects(c, pair);
      }
      assert.equal(passedMessages(), before);
    });
  });

  describe('3: bounded memory', () => {
    it('refuses a sender whose reader has stopped, and loses nothing', async () => {
      const backlog = 256 * 1024;
      const buffer = 128 * 1024;
      const { c, pair } = await promoted(
        { sockopts: [`SO_SNDBUF ${String(buffer)}`, `SO_RCVBUF ${String(buffer)}`] },
        'version: 1\ndefaults: { promoteAfter: 2, backlog: 256KiB }\n',
      );
      // So that only the limit, and not the pattern, ends redirection.
      stack.datapath.settings.tune({
        ...DEFAULT_TUNING,
        promoteAfter: 2,
        runMessages: 2 ** 31,
        runBytes: 2 ** 31,
        keepalive: 0,
        streamBytes: 0,
      });
      const redirectedBefore = stack.datapath.pairs.redirectedBytes(pair.slot, CLIENT);
      const passedBefore = stack.passed()['backlog'] ?? 0;
      const filled = await c.client.do('fill 2 4096 64M');
      const total = filled.bytes ?? 0;
      const held = socketMemory(c.port);
      const redirected = stack.datapath.pairs.redirectedBytes(pair.slot, CLIENT) - redirectedBefore;
      console.log(
        `      accepted ${String(total)} bytes before EAGAIN, ${String(redirected)} redirected; the kernel held ${String(held)} bytes`,
      );
      // Each message counts for its 4096 bytes and the 1024 of the kernel's own structure.
      const limit = (backlog / 5120) * 4096;
      assert.ok(redirected > limit - 8192 && redirected <= limit, 'redirected up to the limit');
      assert.ok((stack.passed()['backlog'] ?? 0) > passedBefore);
      // Both ends' buffers as the kernel doubles them (socket(7)), and as much again for its overhead.
      assert.ok(total <= backlog + 4 * buffer, `the sender was only refused after ${String(total)} bytes`);
      assert.ok(
        held >= redirected && held <= backlog + 2 * (2 * buffer + 2 * buffer),
        `the kernel holds ${String(held)} bytes`,
      );
      await c.server.do(`recvall 2 ${String(total)}`);
      const empty = await c.server.run('recv 2 1');
      assert.equal(empty.errno, 'EAGAIN', 'more came than was sent');
      await c.promote(stack);
      await redirects(c, pair);
    });
  });

  it('3: bounded memory also for the smallest messages, which cost more than their bytes', async () => {
    const { c, pair } = await promoted({}, 'version: 1\ndefaults: { promoteAfter: 2, backlog: 64KiB }\n');
    stack.datapath.settings.tune({
      ...DEFAULT_TUNING,
      promoteAfter: 2,
      runMessages: 2 ** 31,
      runBytes: 2 ** 31,
      keepalive: 0,
      streamBytes: 0,
    });
    const before = redirectedMessages(pair, CLIENT);
    await c.client.do('fill 2 1 500');
    assert.ok(redirectedMessages(pair, CLIENT) - before <= 64, 'more structures than the limit allows');
    await c.server.do('recvall 2 500');
    assert.equal((await c.server.run('recv 2 1')).errno, 'EAGAIN');
    await c.promote(stack);
    await redirects(c, pair);
  });

  describe('short receives', () => {
    // epoll(7): an edge-triggered reader may take a short receive for the end of what is there.
    it('a burst that turns into a stream stays in one queue until it was read', async () => {
      const { c } = await promoted({ sockopts: ['TCP_NODELAY 1'] });
      for (let n = 0; n < 30; n++) await c.client.do('send 2 10');
      assert.equal((await c.server.do('recv 2 1000')).returned, 300);
    });

    it('a direction that is held in mid-burst stays in one queue until it was read', async () => {
      const { c, pair } = await promoted({ sockopts: ['TCP_NODELAY 1'] });
      for (let n = 0; n < 8; n++) {
        if (n === 4) stack.datapath.pairs.hold(pair.slot, CLIENT, true);
        await c.client.do('send 2 10');
      }
      assert.equal((await c.server.do('recv 2 1000')).returned, 80);
      await passes(pair, 'held', () => c.client.do('send 2 10'));
      await c.server.do('recvall 2 10');
    });

    it('a pair that is demoted in mid-burst stays in one queue until it was read', async () => {
      const { c, pair } = await promoted({ sockopts: ['TCP_NODELAY 1'] });
      for (let n = 0; n < 8; n++) {
        if (n === 4)
          stack.controller.demote(pair.slot, stack.datapath.pairs.control(pair.slot), 'requested', 2n ** 63n);
        await c.client.do('send 2 10');
      }
      assert.equal((await c.server.do('recv 2 1000')).returned, 80);
      await c.inState(stack, 'observed');
      await c.pingPong(5, 10);
    });

    it('an edge-triggered reader that stops at the short receive is woken for what follows', async () => {
      const { c, pair } = await promoted({ sockopts: ['TCP_NODELAY 1'] });
      await c.server.do('epolladd 2 EPOLLIN|EPOLLET');
      await redirects(c, pair);
      await c.server.run('epollwait 0'); // forgets the edges so far
      await c.client.do('send 2 100');
      await c.client.do('setsockopt 2 SO_ZEROCOPY 1');
      await passes(pair, 'zerocopy', () => c.client.do('send 2 100'));
      assert.equal((await c.server.do('epollwait 5000')).returned, 1);
      assert.equal((await c.server.do('recv 2 1000')).returned, 100, 'one queue a receive');
      assert.equal((await c.server.do('epollwait 5000')).returned, 1, 'not woken');
      assert.equal((await c.server.do('recv 2 1000')).returned, 100);
    });

    it('a socket is found again and woken in another process, both ways, and no other socket is', async () => {
      const { c, pair } = await promoted({ sockopts: ['TCP_NODELAY 1'] });
      await c.client.do('epolladd 2 EPOLLIN|EPOLLOUT|EPOLLET');
      assert.equal((await c.client.do('epollwait 5000')).returned, 1);
      assert.equal((await c.client.do('epollwait 0')).returned, 0);
      const holder = stack.datapath.pairs.holder(pair.slot, CLIENT);
      assert.equal(holder?.pid, c.client.child.pid);
      assert.equal(await wakeOnce({ ...holder, cookie: holder.cookie + 1n }), ENOENT);
      assert.equal((await c.client.do('epollwait 0')).returned, 0);
      assert.equal(await wakeOnce(holder), 0);
      assert.equal((await c.client.do('epollwait 5000')).returned, 1, 'room for output is not signalled');
    });

    it('a reader that peeks is not promoted', async () => {
      stack = new Stack(sandbox);
      const c = await Connection.open(sandbox);
      await c.client.do('sendall 2 10');
      await c.server.do('poll 2 POLLIN 5000');
      await c.server.do('recv 2 10 MSG_PEEK');
      await c.server.do('recvall 2 10');
      await c.driveUntil(stack, 'refused', ({ refusal }) => refusal === 'reader');
    });
  });

  describe('4: nothing is dropped on removal', () => {
    it('evicts the open end of a pair whose other end has gone', async () => {
      const { c, pair } = await promoted();
      await c.client.do('send 2 100');
      await c.client.do('close 2');
      await c.server.do('recvall 2 100');
      assert.equal((await c.server.run('recv 2 1')).returned, 0);
      // The client sits in FIN_WAIT2 or is gone; its index is empty either way.
      const control = stack.datapath.pairs.control(pair.slot);
      assert.ok(stack.controller.demote(pair.slot, control, 'requested', 2n ** 63n));
      await eventually('the server has left', () => !stack.datapath.holdsSocket(pair.slot, SERVER));
      await c.server.do('close 2');
      assert.deepEqual(await stack.controller.takeDown(2000), []);
    });

    it('leaves an index alone that an earlier connection still holds', async () => {
      stack = new Stack(sandbox, { maxPairs: 1 });
      const first = await Connection.open(sandbox);
      const { slot } = await first.promote(stack);
      await first.client.do('sendall 2 500');
      await first.client.do('shutdown 2 wr');
      await first.server.do('shutdown 2 wr');
      // Both are closed for TCP, but the server has not read yet.
      await eventually('the slot is free', () => stack.datapath.pairs.control(slot).state === 'free');
      assert.ok(stack.datapath.holdsSocket(slot, SERVER));
      const second = await Connection.open(sandbox);
      await second.pingPong(10, 64);
      await stack.controller.takeDown(0);
      await first.server.do('recvall 2 500');
      await second.pingPong(10, 64);
    });

    it('keeps a pair in the sockmap until its redirected data was read', async () => {
      const { c, pair } = await promoted();
      await c.client.do('sendall 2 5000');
      await c.server.do('sendall 2 300');
      const control = stack.datapath.pairs.control(pair.slot);
      assert.ok(stack.controller.demote(pair.slot, control, 'requested', 2n ** 63n));
      // Unread on both ends: rounds of the drain loop pass and nothing may leave. What is sent
      // meanwhile follows what waits, so that the reader never finds both queues filled.
      const before = redirectedMessages(pair, CLIENT);
      await c.client.do('sendall 2 700');
      assert.equal(redirectedMessages(pair, CLIENT), before + 1);
      await c.server.do('recvall 2 2000');
      await eventually('a look at the pair', drainRounds(pair));
      assert.ok(stack.datapath.holdsSocket(pair.slot, SERVER) && stack.datapath.holdsSocket(pair.slot, CLIENT));
      await c.server.do('recvall 2 3700');
      await eventually('a look at the pair', drainRounds(pair));
      assert.ok(stack.datapath.holdsSocket(pair.slot, CLIENT), 'the client has not read its 300 bytes');
      await c.client.do('recvall 2 300');
      await c.inState(stack, 'observed');
      assert.ok(!stack.datapath.holdsSocket(pair.slot, SERVER) && !stack.datapath.holdsSocket(pair.slot, CLIENT));
      await c.pingPong(10, 1000);
    });

    it('a socket that is reset keeps what waits for it, and leaves when nothing does', async () => {
      const { c, pair } = await promoted({ sockopts: ['TCP_NODELAY 1'] });
      await redirects(c, pair);
      await c.client.do('send 2 100');
      await c.client.do('setsockopt 2 SO_LINGER 0');
      await c.client.do('close 2');
      await c.server.do('poll 2 POLLHUP 5000');
      assert.ok(stack.datapath.holdsSocket(pair.slot, SERVER));
      assert.equal((await c.server.do('recv 2 1000')).returned, 100);
      const other = await Connection.open(sandbox);
      const { slot } = await other.promote(stack);
      await other.client.do('setsockopt 2 SO_LINGER 0');
      await other.client.do('close 2');
      await other.server.do('poll 2 POLLHUP 5000');
      assert.ok(!stack.datapath.holdsSocket(slot, SERVER));
    });

    it('lets every message pass while a pair is leaving', async () => {
      const { c, pair } = await promoted();
      await stack.controller.stop();
      // Even behind what still waits: this state is what the last check relies on.
      await c.client.do('sendall 2 100');
      assert.ok(stack.datapath.pairs.change(pair.slot, stack.datapath.pairs.control(pair.slot), 'leaving'));
      await passes(pair, 'state', () => c.client.do('sendall 2 100'));
      await c.server.do('recvall 2 200');
    });

    for (const promotion of ['promote', 'promote_by_file'] as const) {
      it(`${promotion} puts a pair in, and reports also on an end that no process has any more`, async function () {
        if (!promotesBy(promotion)) skip(this, 'the kernel refuses this iterator');
        stack = new Stack(sandbox, { promotion });
        const c = await Connection.open(sandbox);
        const pair = await c.promote(stack);
        await redirects(c, pair);
        await c.client.do('close 2');
        assert.equal((await c.server.run('recv 2 1')).returned, 0, 'end of stream');
        const { pairs } = stack.datapath;
        assert.equal(pairs.control(pair.slot).state, 'inserted');
        assert.equal(pairs.closedSides(pair.slot), 0, 'FIN_WAIT2 is not closed');
        assert.ok(stack.controller.demote(pair.slot, pairs.control(pair.slot), 'requested', 2n ** 63n));
        await c.inState(stack, 'observed');
      });
    }

    it('drains half-closed pairs', async () => {
      const { c, pair } = await promoted();
      await c.client.do('sendall 2 100');
      await c.client.do('shutdown 2 wr');
      await c.server.do('recvall 2 100');
      assert.equal((await c.server.run('recv 2 1')).returned, 0, 'end of stream');
      // By the sums, not by having seen the queue empty for a time.
      const pass = stack.datapath.runPromote();
      const { pairs } = stack.datapath;
      assert.equal(pairs.drained(pair.slot, SERVER, pass), pairs.redirectedBytes(pair.slot, CLIENT));
      await c.server.do('sendall 2 50');
      assert.ok(stack.controller.demote(pair.slot, stack.datapath.pairs.control(pair.slot), 'requested', 2n ** 63n));
      await c.client.do('recvall 2 50');
      await c.inState(stack, 'observed');
      await c.server.do('sendall 2 50');
      await c.client.do('recvall 2 50');
    });
  });

  describe('5: socket state', () => {
    it('send() after own SHUT_WR fails as on TCP', async () => {
      const { c, pair } = await promoted();
      await c.client.do('shutdown 2 wr');
      const before = redirectedMessages(pair, CLIENT);
      const answer = await c.client.run('send 2 100 MSG_NOSIGNAL');
      assert.equal(answer.errno, 'EPIPE', JSON.stringify(answer));
      assert.equal(redirectedMessages(pair, CLIENT), before);
      assert.ok((stack.passed()['shutdown'] ?? 0) > 0);
    });

    it('a peer that shut down reading is left to TCP', async () => {
      const { c, pair } = await promoted();
      await c.server.do('shutdown 2 rd');
      await passes(pair, 'shutdown', () => c.client.run('send 2 100 MSG_NOSIGNAL'));
    });

    it('a half-closed connection goes on over TCP', async () => {
      const { c, pair } = await promoted();
      await c.server.do('shutdown 2 wr');
      await c.client.do('poll 2 POLLIN 5000');
      await passes(pair, 'not_established', () => c.client.do('sendall 2 100'));
      await c.server.do('recvall 2 100');
    });

    it('a sender with SO_ZEROCOPY is left to TCP', async () => {
      const { c, pair } = await promoted();
      await c.client.do('setsockopt 2 SO_ZEROCOPY 1');
      await passes(pair, 'zerocopy', () => c.client.do('sendall 2 100'));
      await c.server.do('recvall 2 100');
    });

    it('a reader with SO_RCVLOWAT is left to TCP', async () => {
      const { c, pair } = await promoted();
      await c.server.do('setsockopt 2 SO_RCVLOWAT 200');
      await passes(pair, 'low_water_mark', () => c.client.do('sendall 2 200'));
      await c.server.do('recvall 2 200');
    });

    it('memory pressure sends messages over TCP', async () => {
      const { c, pair } = await promoted();
      // Up to a mebibyte a CPU is not in the kernel's sum (SK_MEMORY_PCPU_RESERVE): more than that must be in use.
      const hoard = await Promise.all([1, 2, 3, 4].map(() => Connection.open(sandbox)));
      for (const { client } of hoard) await client.do('fill 2 65536 16M');
      const file = '/proc/sys/net/ipv4/tcp_mem';
      const limits = readFileSync(file, 'utf8');
      try {
        // Pressure begins at the second number of pages, errors at the third.
        writeFileSync(file, `0 0 ${limits.trim().split(/\s+/)[2] ?? ''}`);
        const before = stack.passed()['memory'] ?? 0;
        await c.pingPong(20, 30_000);
        assert.ok((stack.passed()['memory'] ?? 0) > before, JSON.stringify(stack.passed()));
      } finally {
        writeFileSync(file, limits);
      }
      // The kernel forgets pressure when memory is next charged.
      await c.pingPong(20, 30_000);
      await c.promote(stack);
      await redirects(c, pair);
    });
  });

  describe('5: a limit on memory', () => {
    let memory: MemoryLimit;

    /** A promoted pair whose sockets are in a memory cgroup of their own. */
    async function limited(context: Mocha.Context): Promise<{ c: Connection; pair: PairRecord }> {
      memory = new MemoryLimit(`slipstream-test-${String(process.pid)}`);
      if (memory.skipped !== undefined) skip(context, memory.skipped);
      sandbox.undo(() => memory.remove());
      return promoted({ sockopts: ['TCP_NODELAY 1'], memory });
    }

    it('a reader whose memory cgroup is short gets its messages over TCP, whose senders wait', async function () {
      const { c, pair } = await limited(this);
      assert.ok(memory.narrow());
      const filled = await c.client.run('fill 2 4096 64M');
      assert.ok(filled.ok, JSON.stringify(filled));
      assert.ok((stack.passed()['memory'] ?? 0) > 0, JSON.stringify(stack.passed()));
      await c.server.do(`recvall 2 ${String(filled.bytes)}`);
      assert.equal((await c.inState(stack, 'observed')).demotion, 'memory');
      // Nor does it come back before there is room.
      await c.driveUntil(stack, 'refused', ({ refusal }) => refusal === 'memory');
      memory.widen();
      await c.promote(stack);
      assert.equal(stack.datapath.pairs.control(pair.slot).state, 'inserted');
    });
  });

  describe('6: peer identity', () => {
    it('does not trust an address that holds another socket', async () => {
      const { c, pair } = await promoted();
      const other = await Connection.open(sandbox);
      await other.pingPong(1, 10);
      const stranger = stack.pairOn(other.port)!;
      const table = openTable();
      const real = table.records.getBig(pair.slot, table.field('socket[1]'));
      table.records.set(
        pair.slot,
        table.field('socket[1]'),
        table.records.getBig(stranger.slot, table.field('socket[1]')),
      );
      await passes(pair, 'peer', () => c.client.do('sendall 2 100'));
      // An address where nothing is: the fault is handled.
      table.records.set(pair.slot, table.field('socket[1]'), 0xffff_8000_0000_1000n);
      await passes(pair, 'peer', () => c.client.do('sendall 2 100'));
      table.records.set(pair.slot, table.field('socket[1]'), real);
      await c.server.do('recvall 2 200');
      await redirects(c, pair);
    });

    it('reports nothing of an address that holds another socket', async () => {
      const { c, pair } = await promoted();
      const other = await Connection.open(sandbox);
      await other.pingPong(1, 10);
      const stranger = stack.pairOn(other.port)!;
      const { datapath } = stack;
      const table = openTable();
      const field = table.field('socket[1]');
      const drained = () => datapath.pairs.drained(pair.slot, SERVER, datapath.runPromote());
      const real = table.records.getBig(pair.slot, field);
      assert.equal(drained(), datapath.pairs.redirectedBytes(pair.slot, CLIENT));
      for (const address of [table.records.getBig(stranger.slot, field), 0xffff_8000_0000_1000n]) {
        table.records.set(pair.slot, field, address);
        assert.equal(drained(), undefined);
      }
      table.records.set(pair.slot, field, real);
      await redirects(c, pair);
    });

    it('does not touch a slot of another generation', async () => {
      const { c, pair } = await promoted();
      const table = openTable();
      const control = table.field('control');
      const word = table.records.get(pair.slot, control);
      await stack.controller.stop();
      table.records.set(pair.slot, control, word + 0x100);
      await passes(pair, 'state', () => c.client.do('sendall 2 100'));
      table.records.set(pair.slot, control, word);
      await c.server.do('recvall 2 100');
    });
  });

  describe('7: fail open', () => {
    it('uses TCP when the peer has left the sockmap', async () => {
      const { c, pair } = await promoted();
      assert.ok(stack.datapath.evict(pair.slot, SERVER));
      await passes(pair, 'lost', () => c.client.do('sendall 2 100'));
      await c.server.do('recvall 2 100');
    });

    it('uses TCP for a socket that has lost its storage', async () => {
      stack = new Stack(sandbox);
      const { near, far, fd } = await ownConnection();
      const { slot } = await eventually('promotion', () => {
        near.write('ping');
        return stack.records('inserted')[0];
      });
      await eventually('redirection', () => {
        near.write('ping');
        return stack.datapath.pairs.redirectedMessages(slot, CLIENT) > 0;
      });
      const endpoints = BpfMap.open(join(sandbox.pinDir, 'endpoints'));
      const key = Buffer.alloc(4);
      key.writeInt32LE(fd);
      assert.ok(endpoints.delete(key));
      endpoints.close();
      const before = stack.passed()['untracked'] ?? 0;
      const answered = once(near, 'data');
      near.write('ping');
      await answered;
      assert.ok((stack.passed()['untracked'] ?? 0) > before);
      near.destroy();
      far.close();
    });

    /** A connection of this process to itself, both ends in the sandbox; the server echoes. */
    async function ownConnection(): Promise<{ near: Socket; far: Server; fd: number }> {
      const home = /^0::(.*)$/m.exec(readFileSync('/proc/self/cgroup', 'utf8'))?.[1] ?? '/';
      // A socket belongs to the cgroup that its maker was in.
      writeFileSync(join(sandbox.cgroup, 'cgroup.procs'), String(process.pid));
      try {
        const far = createServer((socket) => socket.pipe(socket)).listen(0, '127.0.0.1');
        await once(far, 'listening');
        const near = createConnection((far.address() as AddressInfo).port, '127.0.0.1');
        near.setNoDelay(true).on('data', () => undefined);
        await once(near, 'connect');
        const { fd } = (near as unknown as { _handle: { fd: number } })._handle;
        return { near, far, fd };
      } finally {
        writeFileSync(join(cgroupRoot(), home, 'cgroup.procs'), String(process.pid));
      }
    }
  });
});

/** Bytes that the kernel holds for both sockets of a connection, queues and reserves (ss(8), skmem). */
function socketMemory(port: number): number {
  const listing = execFileSync('ss', ['-tmnH', `( sport = :${String(port)} or dport = :${String(port)} )`], {
    encoding: 'utf8',
  });
  let bytes = 0;
  for (const [, received, reserved, queued] of listing.matchAll(/skmem:\(r(\d+),.*?,f(\d+),w(\d+),/g)) {
    // What is reserved may be less than nothing, and ss(8) knows no sign.
    bytes += Number(received) + (Number(reserved) | 0) + Number(queued);
  }
  return bytes;
}
