/** Connections that were there before the datapath: which become pairs, which must not, and what that does to others. */
import assert from 'node:assert/strict';
import { join } from 'node:path';

import { attachedPrograms, BpfMap, BpfObject } from '../../addon/index.js';
import { adoptRound, type Round } from '../../controller/adopt/adopt.js';
import { matchSockets } from '../../controller/adopt/match.js';
import { ADOPTION_OPTION, AdoptProgram, type Answer, type Order } from '../../controller/adopt/program.js';
import { Layout, Records } from '../../controller/datapath/layout.js';
import { type Descriptor, establishedInodes, findDescriptors } from '../../controller/explain/host.js';
import { ADOPT_OBJECT, borrower } from './support/adopting.js';
import { Daemon } from './support/daemon.js';
import { Connection } from './support/endpoint.js';
import { registerFaults, resolveFault } from './support/locked-socket.js';
import { assertEnds, Pairing } from './support/pairing.js';
import { Python } from './support/python.js';
import { needsRoot, OBJECT_FILE, ROOT, Sandbox, skip } from './support/sandbox.js';
import { eventually, Stack, type StackOptions } from './support/stack.js';
import { checkRoutes, leaveOnTcp, open, type Subject } from './topology/checks.js';
import { sysctl } from './topology/network.js';
import { TOPOLOGIES } from './topology/topologies.js';

describe('adoption', function () {
  this.timeout(60_000);
  let sandbox: Sandbox;
  let stack: Stack;
  let pairing: Pairing;

  before(function () {
    needsRoot(this);
  });

  beforeEach(() => {
    sandbox = new Sandbox('adopt');
  });

  afterEach(() => sandbox.dispose());

  function start(options: StackOptions = {}): void {
    stack = new Stack(sandbox, options);
    pairing = new Pairing(sandbox, stack);
  }

  async function round(): Promise<Round> {
    return adoptRound({
      datapath: stack.datapath,
      objectFile: ADOPT_OBJECT,
      cgroupDir: sandbox.cgroup,
      borrower: borrower(),
    });
  }

  /** Rounds until so many are adopted in all: other processes may keep a round from settling. */
  async function adopted(count: number): Promise<void> {
    for (let rounds = 1; stack.datapath.controllerCounters.adoptedPairs < count; rounds++) {
      assert.ok(rounds <= 20, `${String(stack.datapath.controllerCounters.adoptedPairs)} of ${String(count)}`);
      await round();
    }
    assert.equal(stack.datapath.controllerCounters.adoptedPairs, count);
  }

  /** The first round that finds a pair that it can't adopt: until it is acknowledged, data keeps one from being found. */
  async function restlessRound(): Promise<Round> {
    for (let rounds = 1; ; rounds++) {
      const result = await round();
      if (result.restless > 0) return result;
      assert.ok(rounds < 20, 'nothing is found');
    }
  }

  /** Nothing becomes a pair, though a connection beside it does in the same round. */
  async function adoptsOthersOnly(p: Python): Promise<void> {
    assert.equal(stack.datapath.controllerCounters.adoptedPairs, 1, 'the connection that shows that rounds work');
    assert.equal(stack.records().length, 1);
    await pairing.plain(p.exchange('c', 's'));
  }

  /** A connection of a process of its own that is adopted in any case. */
  async function canary(): Promise<Connection> {
    return Connection.open(sandbox);
  }

  it('an idle connection becomes a pair like any other', async () => {
    const p = new Python(sandbox);
    await p.run('listening = listener(); c, s = connection(listening); exchange(c, s, 3, 1000)');
    start({ maxPairs: 8 });
    await pairing.plain(p.exchange('c', 's'));
    await adopted(1);
    const [before] = stack.records('observed');
    assert.ok(before?.adopted);
    assert.deepEqual(
      before.ends.map(({ receivedBytes }) => receivedBytes),
      [33_000, 33_000],
      'what was received before counts',
    );
    const pair = await pairing.acceleratedBetween(p, 'c', 's');
    assertEnds(pair, { netns: before.ends[0].netns }, { netns: before.ends[1].netns });
    // A second round has nothing to do.
    assert.deepEqual(await round(), { adopted: 0, restless: 0, busy: new Set(), obstacle: undefined });
    await p.run('c.close(); s.close(); listening.close()');
    await pairing.nothingLeaked(8);
  });

  it('the sequence numbers of its handshake are found again', async () => {
    const p = new Python(sandbox, { netns: simpleNetns() });
    await p.run('listening = listener(); c, s = connection(listening)');
    const [client = 0, server = 0] = await p.run<number[]>('sequences(c)');
    await p.run('end_repair(c, NO_PROBE); exchange(c, s, 5, 777)');
    start();
    await adopted(1);
    const [[slot] = [-1]] = [...stack.datapath.pairs.slots('observed')];
    assert.equal(stack.datapath.pairs.key(slot), (BigInt((server - 1) >>> 0) << 32n) | BigInt((client - 1) >>> 0));
  });

  describe('over every network', () => {
    // One of each kind: how the ends find each other over all of them is in topology.test.ts.
    const chosen = TOPOLOGIES.filter(({ name }) =>
      /IPv4 client|own namespace|by nft|two translations|two places|runc: through/.test(name),
    );
    for (const topology of chosen) {
      it(topology.name, async function () {
        const reason = topology.missing?.(sandbox);
        if (reason !== undefined) skip(this, reason);
        const subjects: Subject[] = [];
        for (const [index, route] of topology.make(sandbox).entries()) {
          subjects.push(await open(sandbox, route, `-${String(index)}`));
        }
        start({ policy: leaveOnTcp(`${sandbox.cgroupPath}/client*`) });
        await adopted(subjects.length);
        await checkRoutes(stack, subjects);
      });
    }
  });

  it('two hundred at once, each with its true peer', async () => {
    const p = new Python(sandbox);
    await p.run(`
listening = listener()
ends = [connection(listening) for _ in range(200)]
for number, (c, s) in enumerate(ends): exchange(c, s, 2, number + 1)`);
    start();
    await adopted(200);
    const cookies = await p.run<[string, string][]>('[[cookie(c), cookie(s)] for c, s in ends]');
    // So that each end has a holder.
    await p.run('for c, s in ends: exchange(c, s, 1, 10)');
    const paired = stack.records().map((pair) => pairing.cookies(pair).join(' '));
    assert.deepEqual(paired.sort(), cookies.map((pair) => pair.join(' ')).sort());
  });

  describe('waits', () => {
    it('for what is unread', async () => {
      const p = new Python(sandbox);
      await p.run(
        'listening = listener(); c, s = connection(listening); exchange(c, s, 2, 100); c.sendall(b"question")',
      );
      start();
      await adopted(0);
      assert.deepEqual(await round(), { adopted: 0, restless: 0, busy: new Set(), obstacle: undefined });
      await p.run('assert receive(s, 8) == b"question"; exchange(c, s, 1, 100)');
      await adopted(1);
      await pairing.acceleratedBetween(p, 'c', 's');
    });

    it('for a receive that has begun and waits for the rest (MSG_WAITALL)', async () => {
      const p = new Python(sandbox);
      await p.run('listening = listener(); c, s = connection(listening); exchange(c, s, 2, 100)');
      await p.run(`
import fcntl, termios, threading
unread = lambda s: struct.unpack('i', fcntl.ioctl(s, termios.FIONREAD, bytes(4)))[0]
got = []
reader = threading.Thread(target=lambda: got.append(s.recv(100, socket.MSG_WAITALL)))
reader.start()
c.sendall(bytes(10))
while open(f'/proc/self/task/{reader.native_id}/syscall').read().split()[0] == 'running' or unread(s): pass`);
      start();
      await adopted(0);
      assert.equal((await restlessRound()).restless, 1);
      assert.equal(stack.datapath.controllerCounters.adoptedPairs, 0);
      await p.run('c.sendall(bytes(90)); reader.join(); assert len(got[0]) == 100');
      await adopted(1);
      const port = await p.run<number>('port(s)');
      assert.equal(stack.pairOn(port)?.ends[1].receivedBytes, 300, 'the part is counted once');
      // Seen after the fact, and known from then on.
      await pairing.plain(p.exchange('c', 's'));
      await eventually('refused', () => stack.pairOn(port)?.refusal === 'reader');
    });

    it('for a receive that sleeps between the lock and its count', async () => {
      const p = new Python(sandbox);
      await p.run('listening = listener(); c, s = connection(listening); exchange(c, s, 3, 100)');
      // The kernel writes how much more there is (TCP_INQ) when it has let go of the socket, to a page that is not there.
      await registerFaults(p);
      await p.run(`
class Iovec(ctypes.Structure): _fields_ = [('base', ctypes.c_void_p), ('length', ctypes.c_size_t)]
class Message(ctypes.Structure): _fields_ = [('name', ctypes.c_void_p), ('name_length', ctypes.c_uint32),
    ('parts', ctypes.c_void_p), ('part_count', ctypes.c_size_t), ('control', ctypes.c_void_p),
    ('control_length', ctypes.c_size_t), ('flags', ctypes.c_int)]
TCP_INQ = 36
buffer = ctypes.create_string_buffer(4096)
part = Iovec(ctypes.addressof(buffer), 4096)
message = Message(None, 0, ctypes.addressof(part), 1, address, mmap.PAGESIZE, 0)
got = []
s.setsockopt(socket.IPPROTO_TCP, TCP_INQ, 1)
c.sendall(bytes(1000))
reader = threading.Thread(target=lambda: got.append(libc.recvmsg(s.fileno(), ctypes.byref(message), socket.MSG_DONTWAIT)))
reader.daemon = True
reader.start()
faulted()`);
      await canary();
      start();
      await adopted(1);
      await adoptsOthersOnly(p);
      await p.run('s.setsockopt(socket.IPPROTO_TCP, TCP_INQ, 0)');
      assert.equal((await restlessRound()).restless, 1, 'it sleeps');
      assert.equal(stack.datapath.controllerCounters.adoptedPairs, 1);
      await resolveFault(p);
      await p.run('reader.join(); assert got == [1000], got');
      await adopted(2);
      await pairing.acceleratedBetween(p, 'c', 's');
    });

    it('for a thread that is busy in the kernel, with the sockets of its process only', async () => {
      const p = new Python(sandbox);
      await p.run(`
import threading
listening = listener(); c, s = connection(listening); exchange(c, s, 3, 100)
zero, null = os.open('/dev/zero', os.O_RDONLY), bytearray(1 << 28)
busy = True
def work():
    while busy: os.readv(zero, [null] * 512)
worker = threading.Thread(target=work); worker.start()`);
      await canary();
      start();
      // It reads 128 GiB a call.
      const { restless, busy } = await restlessRound();
      assert.deepEqual({ restless, busy: [...busy] }, { restless: 1, busy: [p.pid] });
      await adopted(1);
      await p.run('busy = False');
    });

    it('for traffic between the count and its proof, and goes on with the same slot', async () => {
      const p = new Python(sandbox);
      await p.run('listening = listener(); c, s = connection(listening); exchange(c, s, 2, 100)');
      start();
      const [client, server] = await tie(p);
      assert.deepEqual([client.answer, server.answer], ['done', 'done']);
      assert.equal(stack.datapath.pairs.tally().joining, 1);
      // Nobody takes it for a pair meanwhile.
      await pairing.plain(p.exchange('c', 's'));
      assert.equal(stack.datapath.pairs.tally().joining, 1);
      await adopted(1);
      assert.equal(stack.records().length, 1);
      await pairing.acceleratedBetween(p, 'c', 's');
    });

    it("for a count that is TCP's: a receive from before, counted afterwards, is found", async () => {
      const p = new Python(sandbox);
      await p.run('listening = listener(); c, s = connection(listening); exchange(c, s, 2, 100)');
      start();
      const [client] = await tie(p);
      const slot = client.socket?.slot?.slot ?? -1;
      const [looked] = await ask(p, ['c']);
      assert.equal(looked?.counted, looked?.socket?.received);
      const layout = new Layout(BpfObject.open(OBJECT_FILE));
      const map = BpfMap.open(join(sandbox.pinDir, 'pairs'));
      new Records(map.mmap(), layout.size('pair')).add(slot, layout.field('pair', 'reader[0].received_bytes'), 100);
      map.close();
      const [after] = await ask(p, ['c']);
      assert.equal(after?.counted, (looked?.counted ?? 0) + 100);
      // The next round takes the count anew.
      await adopted(1);
      await pairing.acceleratedBetween(p, 'c', 's');
    });
  });

  it('traffic that never pauses is never harmed', async () => {
    const c = await Connection.open(sandbox);
    await c.pingPong(10, 100);
    start();
    const test = { over: false };
    const traffic = (async () => {
      while (!test.over) await c.pingPong(200, 300);
    })();
    for (let rounds = 0; rounds < 5; rounds++) await round();
    test.over = true;
    await traffic;
    await adopted(1);
    await pairing.accelerated(
      () => c.pairIn(stack),
      (count, size) => c.pingPong(count, size),
    );
  });

  describe('does not touch', () => {
    it('a connection whose other end is outside the cgroup', async () => {
      const inner = new Python(sandbox);
      const outer = new Python(sandbox, { cgroup: sandbox.makeCgroup('outside', 'beside') });
      const port = await outer.run<number>('(listening := listener()) and port(listening)');
      await inner.run(`c = socket.create_connection((HOME, ${String(port)}))`);
      await outer.run('s = listening.accept()[0]');
      await canary();
      start();
      await adopted(1);
      assert.equal(stack.records().length, 1);
      const { redirected } = { redirected: stack.redirected() };
      await outer.run('s.sendall(b"hello")');
      await inner.run('assert receive(c, 5) == b"hello"');
      assert.deepEqual(stack.redirected(), redirected);
    });

    it('one that was restored from a checkpoint', async () => {
      const p = new Python(sandbox, { netns: simpleNetns() });
      await p.run(
        'listening = listener(); c, s = connection(listening); exchange(c, s, 3, 100); c = restore(c); end_repair(c)',
      );
      await canary();
      start();
      await adopted(1);
      await adoptsOthersOnly(p);
    });

    it('two clients with the numbers of one', async () => {
      const netns = simpleNetns();
      const p = new Python(sandbox, { netns });
      await p.run('listening = listener(); c, s = connection(listening)');
      const numbers = await p.run<number[]>('sequences(c)');
      await p.run('end_repair(c, NO_PROBE)');
      const other = new Python(sandbox, { netns: simpleNetns('other') });
      await other.run(
        `forged = restored((HOME, 4001), (HOME, 4002), ${JSON.stringify(numbers)}); end_repair(forged, NO_PROBE)`,
      );
      await canary();
      start();
      await adopted(1);
      await adoptsOthersOnly(p);
      await other.run('forged.close()');
      await round();
      await adopted(2);
      await pairing.acceleratedBetween(p, 'c', 's');
    });

    it('Multipath TCP', async function () {
      const p = new Python(sandbox);
      await p
        .run('listening = listener(protocol=262); c = client(listening, 262); s = listening.accept()[0]')
        .catch((error: unknown) => skip(this, `no Multipath TCP: ${String(error)}`));
      await canary();
      start();
      await adopted(1);
      await adoptsOthersOnly(p);
    });

    for (const [name, option] of [
      ['how much more there is (TCP_INQ)', 'socket.IPPROTO_TCP, 36'],
      ['when it came (SO_TIMESTAMP)', 'socket.SOL_SOCKET, 29'],
      ['when it came (SO_TIMESTAMPING)', 'socket.SOL_SOCKET, 37'],
    ] as const) {
      it(`one whose receives also say ${name}`, async () => {
        const p = new Python(sandbox);
        await p.run('listening = listener(); c, s = connection(listening); exchange(c, s, 3, 100)');
        await p.run(`s.setsockopt(${option}, ${name.includes('TIMESTAMPING') ? '0x18' : '1'})`);
        await canary();
        start();
        await adopted(1);
        await adoptsOthersOnly(p);
      });
    }

    it('what programs of others have made of an option meanwhile', async () => {
      const cgroup = sandbox.makeCgroup('container');
      const rewriting = BpfObject.open(join(ROOT, 'build', 'fixtures', 'rewrite.bpf.o'));
      sandbox.undo(() => {
        rewriting.close();
      });
      rewriting.load();
      const link = rewriting.program('rewrite').attachCgroup(cgroup);
      sandbox.undo(() => {
        link.close();
      });
      const p = new Python(sandbox, { cgroup });
      await p.run('listening = listener(); c, s = connection(listening); options = socket.IPPROTO_IP');
      const rewritten = `
c.setsockopt(options, socket.IP_TTL, 7)
assert c.getsockopt(options, socket.IP_TTL) == 42
c.setsockopt(options, socket.IP_TOS, 8)
assert c.getsockopt(options, socket.IP_TOS) == 0`;
      await p.run(rewritten);
      start();
      const [program] = await openProgram(p, []);
      await p.run(rewritten);
      program.close();
    });

    it('the options that others set meanwhile', async () => {
      const p = new Python(sandbox);
      await p.run('listening = listener(); c, s = connection(listening)');
      start();
      const [program] = await openProgram(p, []);
      await p.run(`
for size in 4, 64, 4096, 8192, 65536:
    value = struct.pack('i', 7 + size % 90) + bytes(size - 4)
    c.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, value)
    assert c.getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == 7 + size % 90
c.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b'reno')
assert c.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).startswith(b'reno')
for value in b'', bytes(4), bytes(16), bytes(64):
    try:
        c.setsockopt(socket.IPPROTO_TCP, ${String(ADOPTION_OPTION)}, value)
        assert False, 'somebody else was answered'
    except OSError as error:
        assert error.errno in (${String(22)}, ${String(92)}), error`);
      assert.equal(stack.records().length, 0);
      program.close();
    });
  });

  describe('gives its slot back', () => {
    it('when the client closes before the server has joined', async () => {
      const p = new Python(sandbox);
      await p.run('listening = listener(); c, s = connection(listening)');
      start({ maxPairs: 4 });
      const [client] = await tie(p, ['ADOPT_CLIENT']);
      assert.equal(client.answer, 'done');
      assert.equal(stack.datapath.pairs.tally().half, 1);
      await p.run('reset(c)');
      await p.run('s.close(); listening.close()');
      await pairing.nothingLeaked(4);
    });

    it('when both close before the proof', async () => {
      const p = new Python(sandbox);
      await p.run('listening = listener(); c, s = connection(listening)');
      start({ maxPairs: 4 });
      await tie(p);
      await p.run('c.close(); s.close(); listening.close()');
      await pairing.nothingLeaked(4);
    });

    it('or has none to give, and says so', async () => {
      const p = new Python(sandbox);
      await p.run('listening = listener(); ends = [connection(listening) for _ in range(3)]');
      start({ maxPairs: 2 });
      for (let rounds = 0; stack.datapath.controllerCounters.adoptedPairs < 2; rounds++) {
        assert.ok(rounds < 10);
        assert.equal((await round()).obstacle, 'table_full');
      }
    });
  });

  it('`up --adopt` does it, says so, counts it, and leaves nothing', async () => {
    const c = await Connection.open(sandbox);
    await c.pingPong(10, 100);
    const daemon = await Daemon.start(sandbox, ['--adopt', '--detach-on-exit']);
    const deadline = Date.now() + 30_000;
    while ((await daemon.metric('slipstream_adopted_pairs_total')) < 1)
      assert.ok(Date.now() < deadline, 'never adopted');
    assert.equal(await daemon.metric('slipstream_pairs_total'), 1);
    for (let rounds = 0; (await daemon.metric('slipstream_redirected_messages_total')) < 10; rounds++) {
      assert.ok(rounds < 200, 'never redirected');
      await c.pingPong(40, 64);
    }
    await eventually('the round is over', () => attachedPrograms(sandbox.cgroup, 'setsockopt').length === 0);
    assert.equal(await daemon.stop(), 0);
    for (const type of ['sock_ops', 'setsockopt'] as const)
      assert.deepEqual(attachedPrograms(sandbox.cgroup, type), []);
    await c.pingPong(100, 300);
  });

  it('without it, a connection from before stays as it is', async () => {
    const c = await Connection.open(sandbox);
    const daemon = await Daemon.start(sandbox);
    await c.pingPong(400, 64);
    assert.equal(await daemon.metric('slipstream_pairs_total'), 0);
    await daemon.stop();
  });

  /** In a namespace where nothing but the sequence numbers has to be restored. */
  function simpleNetns(name = 'repair'): string {
    const netns = sandbox.makeNetns(name);
    for (const option of ['timestamps', 'window_scaling', 'sack']) sysctl(netns, `net.ipv4.tcp_${option}`, 0);
    return netns;
  }

  /** The program, and where to find these sockets of a process. */
  async function openProgram(p: Python, sockets: readonly string[]): Promise<[AdoptProgram, Descriptor[]]> {
    const all = await findDescriptors(await establishedInodes());
    const inodes = await p.run<number[]>(`[os.fstat(s.fileno()).st_ino for s in [${sockets.join(', ')}]]`);
    const wanted = inodes.map((inode) => all.find((one) => one.inode === inode) ?? assert.fail('no such socket'));
    const capacity = Math.max(1, wanted.length);
    return [new AdoptProgram(stack.datapath, ADOPT_OBJECT, sandbox.cgroup, capacity, borrower()), wanted];
  }

  async function ask(p: Python, sockets: readonly string[]): Promise<Answer[]> {
    const [program, wanted] = await openProgram(p, sockets);
    const answers = await program.ask(wanted);
    program.close();
    return answers;
  }

  /** The first half of a round, for the sockets `c` and `s`. */
  async function tie(
    p: Python,
    orders: readonly Order['order'][] = ['ADOPT_CLIENT', 'ADOPT_SERVER'],
  ): Promise<[Answer, Answer]> {
    const [program, [c, s]] = await openProgram(p, ['c', 's']);
    assert.ok(c && s);
    const seen = (await program.ask([c, s])).flatMap(({ socket }) => socket ?? []);
    const [match] = matchSockets(seen);
    assert.ok(match);
    const base = { key: match.key, slot: 0, control: 0 };
    const numbers = ({ sequence, expected }: typeof match.client) => ({ sequence, expected });
    const [client] = await program.ask([{ ...c, order: { ...base, ...numbers(match.client), order: 'ADOPT_CLIENT' } }]);
    assert.ok(client);
    const slot = client.socket?.slot;
    const [server] = orders.includes('ADOPT_SERVER')
      ? await program.ask([
          { ...s, order: { ...base, ...numbers(match.server), ...slot, key: match.key, order: 'ADOPT_SERVER' } },
        ])
      : [client];
    assert.ok(server);
    program.close();
    return [client, server];
  }
});
