/**
 * Sequence numbers that somebody chose: a pair is two sockets with the same two first numbers, so what can who chooses
 * his own, or repeats those of others, make of it?
 */
import assert from 'node:assert/strict';

import { assertEnds, Pairing } from './support/pairing.js';
import { Python } from './support/python.js';
import { needsRoot, Sandbox, skip } from './support/sandbox.js';
import { eventually, Stack, type StackOptions } from './support/stack.js';
import { sysctl } from './topology/network.js';

describe('sequence numbers that somebody chose', function () {
  this.timeout(60_000);
  let sandbox: Sandbox;
  let stack: Stack;
  let pairing: Pairing;

  before(function () {
    needsRoot(this);
  });

  beforeEach(() => {
    sandbox = new Sandbox('forged');
  });

  afterEach(() => sandbox.dispose());

  function start(options: StackOptions = {}): void {
    stack = new Stack(sandbox, options);
    pairing = new Pairing(sandbox, stack);
  }

  /** In a namespace where nothing but the sequence numbers has to be restored. */
  function simpleNetns(): string {
    const netns = sandbox.makeNetns('repair');
    for (const option of ['timestamps', 'window_scaling', 'sack']) sysctl(netns, `net.ipv4.tcp_${option}`, 0);
    return netns;
  }

  it('two sockets that never shook hands are not paired', async () => {
    start();
    const p = new Python(sandbox, { netns: simpleNetns() });
    await p.run(`
one, two = (HOME, 4001), (HOME, 4002)
a, b = restored(one, two, (1000, 2000)), restored(two, one, (2000, 1000))
end_repair(a), end_repair(b)`);
    await pairing.plain(p.exchange('a', 'b'));
    assert.deepEqual(pairing.unpaired(), { remote_server: 2 });
  });

  it("a handshake of others can't be claimed", async () => {
    start();
    const netns = simpleNetns();
    const inner = new Python(sandbox, { netns });
    const outer = new Python(sandbox, { netns, cgroup: sandbox.makeCgroup('outside', 'beside') });
    const port = await inner.run<number>('(listening := listener(TCP_DEFER_ACCEPT=30)) and port(listening)');
    // The handshake is known and its client is nobody's: the best moment for an impostor.
    await outer.run(`c = socket.create_connection((HOME, ${String(port)}))`);
    const numbers = await outer.run<number[]>('sequences(c)');
    await outer.run('end_repair(c, NO_PROBE)');
    await inner.run(`impostor = restored((HOME, 4001), (HOME, 4002), ${JSON.stringify(numbers)})`);
    assert.deepEqual(pairing.unpaired(), { repair: 1 });
    assert.equal(stack.datapath.pairs.tally().free, 1024);
    await outer.run('c.sendall(b"question")');
    await inner.run('s = listening.accept()[0]; assert receive(s, 8) == b"question"; s.sendall(b"answer")');
    await outer.run('assert receive(c, 6) == b"answer"');
    assert.deepEqual(pairing.unpaired(), { repair: 1, remote_client: 1 });
    assert.equal(stack.datapath.counters().pairs, 0);
  });

  it('a promoted client that is restored goes on over TCP', async () => {
    start({ maxPairs: 2 });
    const p = new Python(sandbox, { netns: simpleNetns() });
    await p.run('listening = listener(); c, s = connection(listening)');
    await pairing.acceleratedBetween(p, 'c', 's');
    await p.run('c = restore(c); end_repair(c)');
    await pairing.plain(p.exchange('c', 's'));
    assert.deepEqual(pairing.unpaired(), { remote_server: 1 });
    await p.run('c.close(); s.close(); listening.close()');
    await pairing.nothingLeaked(2);
  });

  it('a client restored before the server joined is not paired, though its slot has gone to others', async () => {
    start({ maxPairs: 1 });
    const p = new Python(sandbox, { netns: simpleNetns() });
    await p.run('listening = listener(TCP_DEFER_ACCEPT=30); c = client(listening)');
    assert.equal(stack.datapath.pairs.tally().half, 1);
    await p.run('c = restore(c); end_repair(c, NO_PROBE)');
    assert.equal(stack.datapath.pairs.tally().free, 1);
    await p.run('other = listener(); a, b = connection(other)');
    await p.run('c.sendall(b"first"); s = listening.accept()[0]; assert receive(s, 5) == b"first"');
    await pairing.plain(p.exchange('c', 's'));
    assert.deepEqual(pairing.unpaired(), { repair: 1, released: 1 });
    await pairing.acceleratedBetween(p, 'a', 'b');
    await p.run('for x in a, b, c, s, listening, other: x.close()');
    await pairing.nothingLeaked(1);
  });

  it('clients that chose the same first sequence number, at once', async () => {
    start();
    const p = new Python(sandbox, { netns: simpleNetns() });
    const port = await p.run<number>('(listening := listener(TCP_DEFER_ACCEPT=30)) and port(listening)');
    await p.run(`
clients = [beginning_with(77) for _ in range(8)]
for s in clients: s.connect(listening.getsockname())`);
    assert.equal(stack.datapath.pairs.tally().half, 8);
    // The servers join in the opposite order.
    await p.run(`
servers = []
for s in reversed(clients):
    s.sendall(b'first')
    servers.insert(0, listening.accept()[0])
    assert receive(servers[0], 5) == b'first'`);
    for (let n = 0; n < 8; n++) {
      const [client, server] = [`clients[${String(n)}]`, `servers[${String(n)}]`];
      assertEnds(await pairing.acceleratedBetween(p, client, server), {}, { port });
    }
    assert.deepEqual(pairing.unpaired(), {});
  });

  describe('by root of a container, who answers his own client', () => {
    /** Root of a user namespace with a network of its own: CAP_NET_ADMIN and CAP_NET_RAW count there only. */
    const CONTAINER = [
      ...['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups'],
      ...['unshare', '--user', '--map-root-user', '--net'],
    ];

    /** A container in which `forged(client, server)` makes an established client with these two first numbers. */
    async function container(context: Mocha.Context): Promise<Python> {
      const p = new Python(sandbox, {}, CONTAINER);
      await p.run('0').catch((error: unknown) => skip(context, `no user namespaces for users here: ${String(error)}`));
      await p.run(`
import subprocess
OWN, NOWHERE = '10.9.9.1', '10.9.9.9'
for words in 'link set lo up', f'address add {OWN}/32 dev lo', f'route add {NOWHERE}/32 dev lo':
    subprocess.run(['ip', *words.split()], check=True)
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)

def checksum(data):
    total = sum(struct.unpack(f'!{len(data) // 2}H', data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff

# SYN and ACK from nowhere, RFC 9293 section 3.1.
def syn_ack(to, client, server):
    ends = socket.inet_aton(NOWHERE), socket.inet_aton(OWN)
    tcp = struct.pack('!HHIIBBHHH', 80, to, server, (client + 1) & 0xffffffff, 5 << 4, 0x12, 65535, 0, 0)
    total = checksum(struct.pack('!4s4sBBH', *ends, 0, socket.IPPROTO_TCP, len(tcp)) + tcp)
    ip = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(tcp), 0, 0, 64, socket.IPPROTO_TCP, 0, *ends)
    raw.sendto(ip + tcp[:16] + struct.pack('!H', total) + tcp[18:], (OWN, 0))

held = []
def forged(client, server):
    s = beginning_with(client)
    s.setblocking(False)
    s.bind((OWN, 0))
    s.connect_ex((NOWHERE, 80))
    syn_ack(port(s), client, server)
    assert select.select([], [s], [], 10)[1] and s.getpeername() == (NOWHERE, 80)
    held.append(s)`);
      return p;
    }

    /** A handshake under way: its client is established, its server waits for data. */
    async function victim(): Promise<{ p: Python; client: number; server: number }> {
      const p = new Python(sandbox, { netns: simpleNetns() });
      await p.run('listening = listener(TCP_DEFER_ACCEPT=30); c = client(listening)');
      assert.equal(stack.datapath.pairs.tally().half, 1);
      const [client, server] = (await p.run<number[]>('sequences(c)')).map((next) => (next - 1) >>> 0) as [
        number,
        number,
      ];
      await p.run('end_repair(c, NO_PROBE)');
      return { p, client, server };
    }

    /** The victim's server joins. */
    async function join(p: Python): Promise<void> {
      await p.run('c.sendall(b"question"); s = listening.accept()[0]; assert receive(s, 8) == b"question"');
    }

    it('one of two right numbers claims nothing', async function () {
      start();
      const tenant = await container(this);
      const { p, client, server } = await victim();
      for (const [first, second] of [
        [client + 1, server],
        [client, server + 1],
        [server, client],
        // The same place in the table.
        [client ^ 1, server ^ 1],
        [client ^ 0x10000, server],
        [client, server ^ 0x10000],
      ] as const) {
        await tenant.run(`forged(${String(first >>> 0)}, ${String(second >>> 0)})`);
      }
      assert.deepEqual(pairing.unpaired(), { remote_server: 6 });
      await join(p);
      await pairing.acceleratedBetween(p, 'c', 's');
      assert.deepEqual(pairing.unpaired(), { remote_server: 6 });
    });

    it('both numbers, after the true client: neither is believed', async function () {
      start();
      const tenant = await container(this);
      const { p, client, server } = await victim();
      await tenant.run(`forged(${String(client)}, ${String(server)})`);
      assert.deepEqual(pairing.unpaired(), { repair: 1 });
      // Nor a third.
      await tenant.run(`forged(${String(client)}, ${String(server)})`);
      assert.deepEqual(pairing.unpaired(), { repair: 1, remote_server: 1 });
      await join(p);
      await pairing.plain(p.exchange('c', 's'));
      assert.deepEqual(pairing.unpaired(), { repair: 1, remote_server: 1, remote_client: 1 });
      await p.run('for x in c, s: x.close()');
      await tenant.run('for x in held: x.close()');
    });

    it('both numbers, after the server has joined: the pair is taken back to TCP for good', async function () {
      start();
      const tenant = await container(this);
      const { p, client, server } = await victim();
      await join(p);
      await pairing.acceleratedBetween(p, 'c', 's');
      await tenant.run(`forged(${String(client)}, ${String(server)})`);
      assert.deepEqual(pairing.unpaired(), { repair: 1 });
      const { pairs } = stack.datapath;
      await eventually('it is taken back', () => pairs.tally().observed === 1);
      const [[slot] = [-1]] = [...pairs.slots('observed')];
      assert.equal(pairs.read(slot)?.demotion, 'forged');
      await pairing.plain(p.exchange('c', 's'));
      assert.equal(pairs.read(slot)?.promotions, 1);
      await p.run('for x in c, s: x.close()');
      await tenant.run('for x in held: x.close()');
      await pairing.nothingLeaked(1024);
    });

    /**
     * The forger also holds the true SYN-ACK back and acknowledges it himself, so that the server joins his client.
     * He reads the packets of both, so plain TCP would be his as well; but no more than that shall be.
     */
    it('both numbers, before the true client: neither is believed once it comes', async function () {
      start();
      const tenant = await container(this);
      const p = new Python(sandbox, { netns: simpleNetns() });
      await p.run(`
import subprocess
nft = lambda words: subprocess.run(['nft', words], check=True)
nft('add table ip hold')
nft('add chain ip hold input { type filter hook input priority 0; }')
nft('add rule ip hold input tcp flags & (syn | ack) == (syn | ack) drop')
sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
sniffer.bind(('lo', 0))
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
listening = socket.socket()
listening.bind((HOME, 0))
listening.listen()
c = socket.socket()
c.setblocking(False)
c.connect_ex(listening.getsockname())
packet = b''
while len(packet) < 40 or packet[9] != socket.IPPROTO_TCP or packet[33] & 0x12 != 0x12:
    packet = sniffer.recv(2000)
server_port, client_port, server_next, client_next = struct.unpack('!HHII', packet[20:32])

def checksum(data):
    total = sum(struct.unpack(f'!{len(data) // 2}H', data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff

# A segment without data and options, RFC 9293 section 3.1.
def segment(source, destination, sequence, acknowledged, flags):
    home = socket.inet_aton(HOME)
    tcp = struct.pack('!HHIIBBHHH', source, destination, sequence, acknowledged, 5 << 4, flags, 65535, 0, 0)
    total = checksum(struct.pack('!4s4sBBH', home, home, 0, socket.IPPROTO_TCP, len(tcp)) + tcp)
    ip = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(tcp), 0, 0, 64, socket.IPPROTO_TCP, 0, home, home)
    raw.sendto(ip + tcp[:16] + struct.pack('!H', total) + tcp[18:], (HOME, 0))`);
      const [client, server] = await p.run<[number, number]>('[(client_next - 1) & 0xffffffff, server_next]');
      await tenant.run(`forged(${String(client)}, ${String(server)})`);
      await p.run(`
segment(client_port, server_port, client_next, (server_next + 1) & 0xffffffff, 0x10)
s = listening.accept()[0]`);
      const { pairs } = stack.datapath;
      assert.equal(pairs.tally().observed, 1, 'the wrong pair that this is about');
      await p.run(`
nft('delete table ip hold')
segment(server_port, client_port, server_next, client_next, 0x12)
assert select.select([], [c], [], 10)[1]
c.setblocking(True)`);
      assert.deepEqual(pairing.unpaired(), { repair: 1 });
      await pairing.plain(p.exchange('c', 's'));
      await pairing.plain(p.exchange('c', 's'));
      const [[slot] = [-1]] = [...pairs.slots('observed')];
      assert.equal(pairs.read(slot)?.promotions, 0);
      await p.run('for x in c, s, listening: x.close()');
      // By a reset: nobody would acknowledge its FIN.
      await tenant.run(`
held[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
held[0].close()`);
      await pairing.nothingLeaked(1024);
    });
  });
});
