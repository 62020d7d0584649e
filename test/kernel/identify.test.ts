/**
 * Which connections are paired, with whom, and which are left alone. Wherever a
 * pair is expected, its record, its promotion, the bytes redirected each way and
 * the data itself are checked.
 */
import assert from 'node:assert/strict';

import { SIDES } from '../../controller/datapath/pair-table.js';
import { Connection, Endpoint } from './support/endpoint.js';
import { assertEnds, Pairing } from './support/pairing.js';
import { Python } from './support/python.js';
import { needsRoot, Sandbox, skip } from './support/sandbox.js';
import { eventually, Stack, type StackOptions } from './support/stack.js';
import { inside, sysctl } from './topology/network.js';

describe('identify', function () {
  this.timeout(60_000);
  let sandbox: Sandbox;
  let stack: Stack;
  let pairing: Pairing;

  before(function () {
    needsRoot(this);
  });

  beforeEach(() => {
    sandbox = new Sandbox('identify');
  });

  afterEach(() => sandbox.dispose());

  function start(options: StackOptions = {}): void {
    stack = new Stack(sandbox, options);
    pairing = new Pairing(sandbox, stack);
  }

  describe('on loopback', () => {
    const here = { address: '127.0.0.1', remoteAddress: '127.0.0.1', family: 4 } as const;
    for (const [what, options, end] of [
      ['IPv4', {}, here],
      ['IPv6', { address: '::1' }, { address: '::1', remoteAddress: '::1', family: 6 }],
      ['an IPv4 client of an IPv6 listener', { listen: '::' }, here],
      ['a v4-mapped client of an IPv4 listener', { address: '::ffff:127.0.0.1', listen: '127.0.0.1' }, here],
      ['a v4-mapped client of an IPv6 listener', { address: '::ffff:127.0.0.1', listen: '::' }, here],
      [
        'another loopback address',
        { address: '127.7.7.7', listen: '0.0.0.0', bind: { address: '127.8.8.8', port: 0 } },
        undefined,
      ],
    ] as const) {
      it(what, async () => {
        start();
        await pairing.checked(
          options,
          end ?? { address: '127.8.8.8', remoteAddress: '127.7.7.7' },
          end ?? { address: '127.7.7.7', remoteAddress: '127.8.8.8' },
        );
      });
    }

    it('several connections at once, each with its own peer', async () => {
      start();
      const count = 8;
      const server = new Endpoint(sandbox);
      const port = (await server.do('listen 1 127.0.0.1 0')).port ?? 0;
      const clients = Array.from({ length: count }, () => new Endpoint(sandbox));
      const byPort = new Map<number, Endpoint>();
      await Promise.all(
        clients.map(async (client) =>
          byPort.set((await client.do(`connect 2 127.0.0.1 ${String(port)}`)).port ?? 0, client),
        ),
      );
      assert.equal(byPort.size, count);
      // The order of acceptance is not that of connecting: each end's port says who is who.
      const ends: { handle: number; client: Endpoint; clientPort: number }[] = [];
      for (let handle = 10; handle < 10 + count; handle++) {
        const clientPort = (await server.do(`accept 1 ${String(handle)}`)).port ?? 0;
        const client = byPort.get(clientPort);
        assert.ok(client, `nobody connected from port ${String(clientPort)}`);
        await client.do(`key 2 ${String(2 * clientPort)} ${String(2 * clientPort + 1)}`);
        await client.do('nonblock 2 1');
        await server.do(`nonblock ${String(handle)} 1`);
        await server.do(`key ${String(handle)} ${String(2 * clientPort + 1)} ${String(2 * clientPort)}`);
        ends.push({ handle, client, clientPort });
      }
      const pairs = await Promise.all(
        ends.map(async ({ handle, client, clientPort }) => {
          const pair = await pairing.accelerated(
            () => stack.records().find(({ ends: [end] }) => end.port === clientPort),
            async (messages, size) => {
              const echo = await server.background(
                `echo${String(handle)}`,
                `echo ${String(handle)} ${String(messages)} ${String(size)}`,
              );
              await client.do(`ask 2 ${String(messages)} ${String(size)}`);
              const answer = await echo.answer;
              assert.ok(answer.ok, JSON.stringify(answer));
            },
          );
          assertEnds(
            pair,
            { port: clientPort, remotePort: port, pid: client.child.pid },
            { port, remotePort: clientPort, pid: server.child.pid },
          );
          return pair;
        }),
      );
      assert.equal(new Set(pairs.map(({ slot }) => slot)).size, count);
      assert.equal(stack.datapath.counters().pairs, count);
    });

    it('a server that waits for data before it accepts (TCP_DEFER_ACCEPT)', async () => {
      start();
      const p = new Python(sandbox);
      await p.run('listening = listener(TCP_DEFER_ACCEPT=30); c = client(listening)');
      assert.equal(stack.datapath.pairs.tally().half, 1);
      await p.run('c.sendall(b"first"); s = listening.accept()[0]; assert receive(s, 5) == b"first"');
      await pairing.acceleratedBetween(p, 'c', 's');
      assert.deepEqual(pairing.unpaired(), {});
    });
  });

  describe('one end outside the attached cgroup', () => {
    for (const [side, reason] of [
      ['client', 'remote_client'],
      ['server', 'remote_server'],
    ] as const) {
      it(`the ${side}`, async () => {
        start();
        const c = await Connection.open(sandbox, { [side]: { cgroup: sandbox.makeCgroup('outside', 'beside') } });
        await pairing.plain((count, size) => c.pingPong(count, size));
        assert.deepEqual(pairing.unpaired(), { [reason]: 1 });
        assert.equal(stack.datapath.pairs.tally().free, 1024);
      });
    }
  });

  describe('the pair table', () => {
    it('full: further connections are left to TCP and counted', async () => {
      start({ maxPairs: 2 });
      const p = new Python(sandbox);
      const port = await p.run<number>('(l := listener()) and port(l)');
      await p.run('a, b = connection(l); c, d = connection(l); e, f = connection(l)');
      await pairing.plain(p.exchange('e', 'f'));
      assert.deepEqual(pairing.unpaired(), { table_full: 1, remote_client: 1 });
      await pairing.acceleratedBetween(p, 'a', 'b');
      await pairing.acceleratedBetween(p, 'c', 'd');
      await p.run('a.close(); b.close()');
      await eventually('a slot is free', () => stack.datapath.pairs.tally().free === 1);
      await p.run('a, b = connection(l)');
      assertEnds(await pairing.acceleratedBetween(p, 'a', 'b'), {}, { port });
      await pairing.acceleratedBetween(p, 'c', 'd');
    });

    it('a reader that takes the name of an excluded program is taken back', async () => {
      start();
      const p = new Python(sandbox);
      await p.run('l = listener(); a, b = connection(l)');
      const { slot } = await pairing.acceleratedBetween(p, 'a', 'b');
      // As execve(2) does: the same process under another name.
      await p.run("open('/proc/self/comm', 'w').write('haproxy')");
      await p.run('exchange(a, b, 600, 10)');
      await eventually('taken back', () => stack.datapath.pairs.control(slot).state === 'observed');
      const record = stack.datapath.pairs.read(slot);
      assert.deepEqual([record?.refusal, record?.demotion], ['program', 'program']);
      await pairing.plain(p.exchange('a', 'b'));
    });

    it('2000 connections one after the other give every slot back', async () => {
      start({ maxPairs: 4 });
      const p = new Python(sandbox);
      await p.run(`
l = listener()
def churn(count):
    for n in range(count):
        c, s = connection(l)
        exchange(c, s, 1, 10)
        first, last = (c, s) if n % 2 else (s, c)
        (reset if n % 5 == 0 else socket.socket.close)(first)
        last.close()`);
      await p.run('churn(2000)');
      await eventually('all slots are free', () => stack.datapath.pairs.tally().free === 4);
      const { pairs, unpaired } = stack.datapath.counters();
      // A socket may still be closing when the next connection comes.
      assert.equal(pairs + (unpaired['table_full'] ?? 0), 2000);
      assert.ok(pairs > 1000, `only ${String(pairs)} were paired`);
      for (let slot = 0; slot < 4; slot++) assert.ok(stack.datapath.pairs.control(slot).generation > 100);
      await pairing.nothingLeaked(4);
    });

    it('few slots are used in turns, each after 256 others', async () => {
      start({ maxPairs: 2000 });
      const p = new Python(sandbox);
      await p.run(`
l = listener()
for n in range(1500):
    c, s = connection(l)
    s.close()
    c.close()`);
      const { pairs } = stack.datapath;
      await eventually('all slots are free', () => pairs.tally().free === 2000);
      const { pairs: made } = stack.datapath.counters();
      assert.equal(made, 1500);
      const used = Array.from({ length: 2000 }, (_, slot) => pairs.control(slot).generation).filter((n) => n > 0);
      // A socket may still be closing when the next connection comes.
      assert.ok(used.length >= 257 && used.length < 300, `${String(used.length)} slots were used`);
      assert.equal(
        used.reduce((sum, generation) => sum + generation),
        made,
      );
      assert.ok(Math.max(...used) <= Math.ceil(made / 257), `a slot was used ${String(Math.max(...used))} times`);
    });

    it('promoted connections give their slots back however they end, and all their bytes are counted', async () => {
      start({ maxPairs: 2 });
      const p = new Python(sandbox);
      await p.run('l = listener()');
      let redirected = 0;
      for (let round = 0; round < 5; round++) {
        for (const end of [
          'c.close(); s.close()',
          's.close(); c.close()',
          'reset(c); s.close()',
          'reset(s); c.close()',
          'c.shutdown(1); s.shutdown(1); c.close(); s.close()',
          'disconnect(c); c.close(); s.close()',
          'disconnect(s); c.close(); s.close()',
          // With redirected bytes that nobody reads.
          'c.sendall(b"x" * 100); c.close(); s.close()',
          'c.sendall(b"x" * 100); s.close(); c.close()',
        ]) {
          await p.run('c, s = connection(l)');
          const { slot } = await pairing.acceleratedBetween(p, 'c', 's');
          const own = (): number =>
            SIDES.reduce<number>((sum, side) => sum + stack.datapath.pairs.redirectedBytes(slot, side), 0);
          redirected += own() + (end.includes('sendall') ? 100 : 0);
          await p.run(end);
          await eventually(`the slots are free after ${end}`, () => stack.datapath.pairs.tally().free === 2);
          assert.equal(stack.redirected().bytes, redirected, end);
        }
      }
      await pairing.nothingLeaked(2);
    });

    it('no memory for the storage of either socket leaks nothing', async function () {
      start({ maxPairs: 4 });
      const netns = sandbox.makeNetns('memory');
      const p = new Python(sandbox, { netns });
      await p.run('l = listener(TCP_DEFER_ACCEPT=30); m = listener()');
      // The storage is charged to the socket's option memory (bpf_sk_storage_charge).
      const limit = inside(netns, 'sysctl', '-n', '-e', 'net.core.optmem_max');
      if (limit === '') skip(this, 'net.core.optmem_max belongs to the whole machine on this kernel');
      for (const leave of ['reset(c)', 'c.close(); s.close()', 's.close(); c.close()']) {
        await p.run('c = client(l)');
        assert.equal(stack.datapath.pairs.tally().half, 1);
        sysctl(netns, 'net.core.optmem_max', 1);
        await p.run('c.sendall(b"first"); s = l.accept()[0]; assert receive(s, 5) == b"first"');
        await pairing.plain(p.exchange('c', 's'));
        await p.run(leave);
        await eventually(`the slot is free after ${leave}`, () => stack.datapath.pairs.tally().free === 4);
        sysctl(netns, 'net.core.optmem_max', limit.trim());
      }
      await pairing.nothingLeaked(4);
      sysctl(netns, 'net.core.optmem_max', 1);
      const before = pairing.unpaired();
      await p.run('c, s = connection(m)');
      await pairing.plain(p.exchange('c', 's'));
      assert.equal(stack.datapath.pairs.tally().free, 4);
      assert.deepEqual([before['storage'], pairing.unpaired()['storage']], [3, 4]);
      assert.equal(stack.datapath.counters().releaseFailed, 0);
    });

    it('nothing is paired while the datapath is being taken down', async () => {
      start();
      stack.datapath.settings.paused = true;
      const p = new Python(sandbox);
      await p.run('l = listener(); c, s = connection(l)');
      await pairing.plain(p.exchange('c', 's'));
      assert.deepEqual(pairing.unpaired(), { paused: 1, remote_client: 1 });
    });

    it('clients that leave before the server joins leak nothing', async () => {
      start({ maxPairs: 4 });
      const p = new Python(sandbox);
      await p.run('l = listener(TCP_DEFER_ACCEPT=30)');
      for (const leave of ['reset(c)', 'disconnect(c); c.close()', 'c.close(); l.accept()[0].close()']) {
        for (let n = 0; n < 10; n++) {
          await p.run('c = client(l)');
          assert.equal(stack.datapath.pairs.tally().half, 1);
          await p.run(leave);
          await eventually(`the slot is free after ${leave}`, () => stack.datapath.pairs.tally().free === 4);
        }
      }
      // The backlog holds one: the others stay half open until they leave, or there is room.
      await p.run(`
several = [client(l) for _ in range(3)]
l.listen(0)
for c in several: c.sendall(b'first')`);
      assert.deepEqual([stack.datapath.pairs.tally().half, stack.datapath.pairs.tally().observed], [2, 1]);
      await p.run('reset(several.pop())');
      await eventually('that slot is free', () => stack.datapath.pairs.tally().free === 2);
      await p.run('several[1].sendall(b"again"); s = l.accept()[0]; t = l.accept()[0]');
      await p.run('assert receive(s, 5) == b"first"; assert receive(t, 10) == b"firstagain"');
      await pairing.acceleratedBetween(p, 'several[0]', 's');
      await pairing.acceleratedBetween(p, 'several[1]', 't');
      await p.run('for x in *several, s, t: x.close()');
      // The listener goes while its clients wait.
      await p.run('l.listen(16); several = [client(l) for _ in range(4)]');
      assert.equal(stack.datapath.pairs.tally().half, 4);
      await p.run('l.close()');
      await p.run('for c in several: c.close()');
      await pairing.nothingLeaked(4);
    });

    it('clients that close or reset at once leak nothing', async () => {
      start({ maxPairs: 4 });
      const p = new Python(sandbox);
      await p.run('l = listener()');
      for (const leave of ['reset', 'disconnect', 'socket.socket.close']) {
        await p.run(`for _ in range(100): c = client(l); ${leave}(c); l.accept()[0].close()`);
      }
      // Never accepted: they end with their listener.
      await p.run('for n in range(20): c = client(l); (reset if n % 2 else socket.socket.close)(c)');
      await p.run('l.close()');
      await pairing.nothingLeaked(4);
    });

    it('a socket that disconnects (AF_UNSPEC) and connects again hears nothing of its former peer', async () => {
      start({ maxPairs: 4 });
      const p = new Python(sandbox);
      await p.run('l = listener(); c, s = connection(l)');
      const { slot } = await pairing.acceleratedBetween(p, 'c', 's');
      const before = stack.datapath.pairs.redirectedBytes(slot, 1);
      await p.run('s.sendall(b"of yesterday")');
      assert.equal(stack.datapath.pairs.redirectedBytes(slot, 1), before + 12, 'redirected and unread');
      await p.run('disconnect(c); s.close(); c.connect(l.getsockname()); s = l.accept()[0]');
      await p.exchange('c', 's')(10, 100);
      await pairing.acceleratedBetween(p, 'c', 's');
      await p.run('for x in c, s, l: x.close()');
      await pairing.nothingLeaked(4);
    });

    it('a socket that disconnects (AF_UNSPEC) and connects again is paired anew', async () => {
      start({ maxPairs: 4 });
      const p = new Python(sandbox);
      await p.run('l, m = listener(), listener(); c, s = connection(l)');
      for (let n = 0; n < 10; n++) {
        await pairing.acceleratedBetween(p, 'c', 's');
        await p.run(
          `disconnect(c); s.close(); of = (l, m)[${String(n % 2)}]; c.connect(of.getsockname()); s = of.accept()[0]`,
        );
        const pair = await pairing.acceleratedBetween(p, 'c', 's');
        assertEnds(pair, { remotePort: await p.run('port(of)') }, { port: await p.run('port(of)') });
        await eventually('the earlier slot is free', () => stack.datapath.pairs.tally().free === 3);
      }
      // Plain and quick, the peer not closed until the next connection stands.
      await p.run(`
for _ in range(100):
    old = s
    disconnect(c)
    c.connect(l.getsockname())
    s = l.accept()[0]
    old.close()
    exchange(c, s, 2, 100)`);
      await pairing.acceleratedBetween(p, 'c', 's');
      // The same socket as a server: its storage is of a pair long gone.
      await p.run('disconnect(c); s.close(); c.bind((HOME, 0)); c.listen(1); a, b = connection(c)');
      await pairing.acceleratedBetween(p, 'a', 'b');
      assert.deepEqual(pairing.unpaired(), {});
      await p.run('for x in a, b, c, l, m: x.close()');
      await pairing.nothingLeaked(4);
    });
  });
});
