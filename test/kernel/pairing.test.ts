/**
 * Connections that something between the ends, an unusual handshake or a reused port could make look like another one: each
 * is paired rightly or not at all, and counted.
 */
import assert from 'node:assert/strict';

import type { PairRecord } from '../../controller/datapath/pair-table.js';
import { Endpoint } from './support/endpoint.js';
import { assertEnds, type Exchange, Pairing } from './support/pairing.js';
import { Python } from './support/python.js';
import { needsRoot, Sandbox, skip } from './support/sandbox.js';
import { Stack, type StackOptions } from './support/stack.js';
import { allowSyn, dropSyn, inside, sysctl } from './topology/network.js';

describe('pairing', function () {
  this.timeout(60_000);
  let sandbox: Sandbox;
  let stack: Stack;
  let pairing: Pairing;

  before(function () {
    needsRoot(this);
  });

  beforeEach(() => {
    sandbox = new Sandbox('pairing');
  });

  afterEach(() => sandbox.dispose());

  function start(options: StackOptions = {}): void {
    stack = new Stack(sandbox, options);
    pairing = new Pairing(sandbox, stack);
  }

  describe('with something between the ends', () => {
    it('a proxy makes two pairs', async () => {
      start();
      const server = new Endpoint(sandbox);
      const client = new Endpoint(sandbox);
      const serverPort = (await server.do('listen 1 127.0.0.1 0')).port ?? 0;
      const proxy = sandbox.spawn(process.execPath, [
        '-e',
        `const net = require('node:net');
         const proxy = net.createServer((near) => {
           const far = net.connect(${String(serverPort)}, '127.0.0.1');
           near.setNoDelay(true).pipe(far.setNoDelay(true)).pipe(near);
         }).listen(0, '127.0.0.1', () => console.log(proxy.address().port));`,
      ]);
      const proxyPort = Number(await proxy.until(({ lines }) => lines[0]));
      const clientPort = (await client.do(`connect 2 127.0.0.1 ${String(proxyPort)}`)).port ?? 0;
      const proxyClientPort = (await server.do('accept 1 2')).port ?? 0;
      for (const end of [client, server]) await end.do('nonblock 2 1');
      const exchange: Exchange = async (count, size) => {
        const echo = await server.background('echo', `echo 2 ${String(count)} ${String(size)}`);
        await client.do(`ask 2 ${String(count)} ${String(size)}`);
        const answer = await echo.answer;
        assert.ok(answer.ok, JSON.stringify(answer));
      };
      const near = (): PairRecord | undefined => stack.pairOn(proxyPort);
      const far = (): PairRecord | undefined => stack.pairOn(serverPort);
      // One may redirect long before the other.
      await pairing.accelerated(near, exchange);
      assertEnds(
        await pairing.accelerated(far, exchange),
        { port: proxyClientPort, remotePort: serverPort, pid: proxy.pid },
        { port: serverPort, remotePort: proxyClientPort, pid: server.child.pid },
      );
      assertEnds(
        await pairing.accelerated(near, exchange),
        { port: clientPort, remotePort: proxyPort, pid: client.child.pid },
        { port: proxyPort, remotePort: clientPort, pid: proxy.pid },
      );
      assert.equal(stack.datapath.counters().pairs, 2);
    });
  });

  describe('unusual handshakes', () => {
    it('TCP Fast Open: left to TCP when the first segment carries data, paired when it does not', async () => {
      start();
      const netns = sandbox.makeNetns('fastopen');
      sysctl(netns, 'net.ipv4.tcp_fastopen', 3);
      const p = new Python(sandbox, { netns });
      const port = await p.run<number>('(listening := listener(TCP_FASTOPEN=16)) and port(listening)');
      await p.run(`
def fast_open():
    c = socket.socket()
    c.sendto(b'hello', socket.MSG_FASTOPEN, listening.getsockname())
    s = listening.accept()[0]
    assert receive(s, 5) == b'hello'
    return c, s`);
      // The first asks for a cookie: an ordinary handshake.
      await p.run('a, b = fast_open()');
      assertEnds(await pairing.acceleratedBetween(p, 'a', 'b'), {}, { port });
      assert.deepEqual(pairing.unpaired(), {});
      await p.run('c, d = fast_open()');
      assert.equal(
        await p.run(`d.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[5] & 32`),
        32,
        'no data in the SYN',
      );
      await pairing.plain(p.exchange('c', 'd'));
      assert.deepEqual(pairing.unpaired(), { remote_client: 1, remote_server: 1 });
    });

    it('SYN cookies: the handshake is not remembered, the connection is left to TCP', async () => {
      start();
      const netns = sandbox.makeNetns('cookies');
      sysctl(netns, 'net.ipv4.tcp_syncookies', 2);
      const p = new Python(sandbox, { netns });
      await p.run('listening = listener(); c, s = connection(listening)');
      assert.match(inside(netns, 'nstat', '-asz', 'TcpExtSyncookiesRecv'), /SyncookiesRecv\s+1\b/);
      await pairing.plain(p.exchange('c', 's'));
      assert.deepEqual(pairing.unpaired(), { remote_client: 1, remote_server: 1 });
    });

    it('simultaneous open', async function () {
      start();
      const netns = sandbox.makeNetns('crossing');
      const problem = dropSyn(netns);
      if (problem !== undefined) skip(this, problem);
      const p = new Python(sandbox, { netns });
      await p.run(`
a, b = socket.socket(), socket.socket()
for s, own, peer in (a, 4001, 4002), (b, 4002, 4001):
    s.bind((HOME, own))
    s.setblocking(False)
    s.connect_ex((HOME, peer))`);
      allowSyn(netns);
      // The second attempt of either finds the other in SYN_SENT.
      await p.run(`
for s in a, b:
    assert select.select([], [s], [], 10)[1] and s.getpeername()
    s.setblocking(True)`);
      await pairing.plain(p.exchange('a', 'b'));
      // Whose segment came first decides which end counts as the one that connected.
      const { remote_client = 0, remote_server = 0 } = pairing.unpaired();
      assert.equal(remote_client + remote_server, 2);
    });

    it('a connection of a socket to itself', async () => {
      start();
      const p = new Python(sandbox, { netns: sandbox.makeNetns('self') });
      await p.run(
        's = socket.socket(); s.bind((HOME, 4001)); s.connect((HOME, 4001)); s.setsockopt(6, socket.TCP_NODELAY, 1)',
      );
      await pairing.plain(p.exchange('s', 's'));
      assert.deepEqual(pairing.unpaired(), { remote_client: 1 });
    });
  });

  describe('MPTCP', () => {
    const MPTCP = 262;

    it('between two MPTCP sockets', async function () {
      start();
      const p = new Python(sandbox);
      await p.run(`l = listener(${String(MPTCP)})`).catch((error: unknown) => skip(this, `no MPTCP: ${String(error)}`));
      await p.run(`c = client(l, ${String(MPTCP)}); s = l.accept()[0]`);
      await pairing.plain(p.exchange('c', 's'));
      assert.deepEqual(pairing.unpaired(), { mptcp: 1, remote_client: 1 });
    });

    it('an MPTCP client of a TCP server', async function () {
      start();
      const p = new Python(sandbox);
      await p
        .run(`l = listener(); c = client(l, ${String(MPTCP)}); s = l.accept()[0]`)
        .catch((error: unknown) => skip(this, `no MPTCP: ${String(error)}`));
      await pairing.plain(p.exchange('c', 's'));
      assert.deepEqual(pairing.unpaired(), { mptcp: 1, remote_client: 1 });
    });

    it('a TCP client of an MPTCP server has a TCP socket at both ends', async function () {
      start();
      const p = new Python(sandbox);
      await p.run(`l = listener(${String(MPTCP)})`).catch((error: unknown) => skip(this, `no MPTCP: ${String(error)}`));
      await p.run('c, s = connection(l)');
      await pairing.acceleratedBetween(p, 'c', 's');
    });
  });
});
