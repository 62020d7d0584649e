/**
 * Connection tracking helpers, which read and rewrite what a connection says: FTP through NAT and a firewall that lets
 * only announced connections through. The kernel's own helper is at work.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';

import type { PairRecord } from '../../controller/datapath/pair-table.js';
import { assertEnds, isDirect } from './support/pairing.js';
import { Python } from './support/python.js';
import { needsRoot, Sandbox, skip } from './support/sandbox.js';
import { EAGER, eventually, Stack } from './support/stack.js';
import { ftpHelper, install, remove, type Rules } from './topology/middleboxes.js';
import { CLIENT, type ContainerHost, makeContainerHost, TO_SERVER } from './topology/network.js';

/** Addresses of the server's network, longer than the client's when written down. */
const SERVER = '192.168.177.2';
const HOST = '192.168.177.1';
const OVERRIDE = `${EAGER}rules: [{ name: control, ports: [21], action: accelerate }]\n`;

describe('connection tracking helpers', function () {
  this.timeout(60_000);
  let sandbox: Sandbox;
  let stack: Stack;

  let client: Python;
  let server: Python;
  let host: ContainerHost;

  before(function () {
    needsRoot(this);
  });

  beforeEach(() => {
    sandbox = new Sandbox('helper');
  });

  afterEach(() => sandbox.dispose());

  /** A client `c` and a server `s` with a control connection; the host between them translates and drops what nobody announced. */
  async function connect(
    context: Mocha.Context,
    policy: string,
    helper: Rules = ftpHelper(21).iptables,
  ): Promise<void> {
    host = makeContainerHost(sandbox);
    for (const [netns, device, address] of [
      [host.host, TO_SERVER, HOST],
      [host.server, 'eth0', SERVER],
    ] as const) {
      execFileSync('ip', ['-n', netns, 'address', 'add', `${address}/24`, 'dev', device]);
    }
    const rules: Rules = {
      iptables: [
        `-t nat -A POSTROUTING -s ${CLIENT} -d ${SERVER} -j MASQUERADE`,
        '-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT',
        '-A FORWARD -p tcp --dport 21 -j ACCEPT',
        '-P FORWARD DROP',
      ],
    };
    const problem = install(host.host, rules) ?? install(host.host, helper);
    if (problem !== undefined) skip(context, problem);
    stack = new Stack(sandbox, { policy });

    client = new Python(sandbox, { netns: host.client });
    server = new Python(sandbox, { netns: host.server });
    await server.run(`HOME = '${SERVER}'; listening = listener(at=21)`);
    await client.run(`HOME = '${CLIENT}'; c = socket.create_connection(('${SERVER}', 21))`);
    await server.run(`
import re
s = listening.accept()[0]
s.settimeout(10)
def line():
    data = b''
    while b'\\n' not in data:
        data += s.recv(4096)
    return data.decode()
def dial(address, number):
    global d
    d = socket.socket()
    d.settimeout(2)
    try:
        d.connect((address, number))
        return True
    except OSError:
        return False
def dial_back(numbers):
    *address, high, low = numbers
    return dial('.'.join(map(str, address)), high << 8 | low)`);
  }

  /** Commands and answers that have nothing in them to be rewritten. */
  async function chat(count: number): Promise<void> {
    for (let n = 0; n < count; n++) {
      await client.run(`c.sendall(b'NOOP ${'x'.repeat(n % 7)}\\r\\n')`);
      assert.equal(await server.run('line()'), `NOOP ${'x'.repeat(n % 7)}\r\n`);
      await server.run(`s.sendall(b'200 ${'y'.repeat(n % 5)}\\r\\n')`);
      await client.run(`assert receive(c, ${String(6 + (n % 5))}) == b'200 ${'y'.repeat(n % 5)}\\r\\n'`);
    }
  }

  const control = (): PairRecord | undefined => stack.pairOn(21);

  /** Active mode: the client announces where it listens. Returns the address the server read, and whether it got through. */
  async function active(): Promise<{ read: string; through: boolean }> {
    await client.run(`
data = listener()
high, low = divmod(port(data), 256)
c.sendall(b'PORT %s,%d,%d\\r\\n' % (HOME.replace('.', ',').encode(), high, low))`);
    const read = await server.run<string>('(command := line()).rsplit(",", 2)[0]');
    const through = await server.run<boolean>("dial_back([int(n) for n in re.findall(r'\\d+', command)])");
    return { read, through };
  }

  for (const [tool, helper] of Object.entries(ftpHelper(21))) {
    it(`FTP works through NAT and a firewall, with ${tool}`, async function () {
      await connect(this, EAGER, helper);
      await chat(20);
      // The helper reads the address in the command, writes the host's in its place and expects the connection.
      assert.deepEqual(await active(), { read: `PORT ${HOST.replaceAll('.', ',')}`, through: true });
      await client.run("t = data.accept()[0]; t.sendall(b'by PORT')");
      await server.run("assert receive(d, 7) == b'by PORT'");
      // RFC 2428.
      await client.run("c.sendall(b'EPRT |1|%s|%d|\\r\\n' % (HOME.encode(), port(data)))");
      assert.equal(await server.run('(command := line()).rsplit("|", 2)[0]'), `EPRT |1|${HOST}`);
      assert.equal(await server.run("dial(command.split('|')[2], int(command.split('|')[3]))"), true);
      await client.run("t = data.accept()[0]; t.sendall(b'by EPRT')");
      await server.run("assert receive(d, 7) == b'by EPRT'");
      // Passive mode: the server announces where it listens, and the firewall lets the client through.
      const port = await server.run<number>('(data := listener()) and port(data)');
      await client.run("c.sendall(b'PASV\\r\\n')");
      await server.run(`
assert line() == 'PASV\\r\\n'
s.sendall(b'227 Entering Passive Mode (%s,%d,%d)\\r\\n' % (HOME.replace('.', ',').encode(), *divmod(port(data), 256)))`);
      await client.run(`
while not c.recv(100).endswith(b'\\r\\n'): pass
t = socket.create_connection(('${SERVER}', ${String(port)}), 5)`);
      await server.run('d = data.accept()[0]');
      await client.run("t.sendall(b'by PASV')");
      await server.run("assert receive(d, 7) == b'by PASV'");

      const pair = await eventually('it is refused', () => (control()?.refusal === 'helper' ? control() : undefined));
      assert.equal(pair.promotions, 0);
      assertEnds(pair, { address: CLIENT, remotePort: 21 }, { port: 21, remoteAddress: HOST });
      assert.ok((stack.datapath.controllerCounters.refusals['helper'] ?? 0) > 0);
      assert.equal(stack.redirected().bytes, 0);
    });
  }

  describe('where the policy names the port', () => {
    /** Chats until both directions redirect. */
    async function promoted(): Promise<PairRecord> {
      const deadline = Date.now() + 10_000;
      for (;;) {
        await chat(4);
        const pair = control();
        if (pair !== undefined && isDirect(pair)) return pair;
        assert.ok(Date.now() < deadline, `not promoted: ${JSON.stringify(stack.passed())}`);
      }
    }

    it('the connection is redirected past the helper', async function () {
      await connect(this, OVERRIDE);
      await promoted();
      assert.deepEqual(await active(), { read: `PORT ${CLIENT.replaceAll('.', ',')}`, through: false });
    });

    it('what was rewritten on its way is never overtaken, and the rest stays on TCP', async function () {
      await connect(this, OVERRIDE);
      const { slot } = await promoted();
      const toServer = (): number => stack.datapath.pairs.redirectedBytes(slot, 0);
      // The command is longer when it arrives, by so many bytes.
      const longer = HOST.length - CLIENT.length;
      stack.datapath.pairs.hold(slot, 0, true);
      await client.run(`
data = listener()
c.sendall(b'PORT %s,%d,%d\\r\\n' % (HOME.replace('.', ',').encode(), *divmod(port(data), 256)))`);
      // So many more are lost on the way.
      const lose = `-I FORWARD -s ${CLIENT} -j DROP`;
      assert.equal(install(host.host, { iptables: [lose] }), undefined);
      await client.run(`c.sendall(b'<' * ${String(longer)})`);
      stack.datapath.pairs.hold(slot, 0, false);
      // What has arrived is taken: the server is where the client believes the end of the stream to be.
      assert.match(await server.run<string>('line()'), new RegExp(`^PORT ${HOST.replaceAll('.', ',')},`));
      const before = toServer();
      await client.run("c.sendall(b'>>')");
      remove(host.host, lose);
      assert.equal(await server.run(`receive(s, ${String(longer + 2)}).decode()`), `${'<'.repeat(longer)}>>`);
      const { order = 0 } = stack.passed();
      await chat(50);
      assert.equal(toServer(), before, 'nothing more is redirected to the server');
      assert.ok((stack.passed()['order'] ?? 0) >= order + 50);
    });
  });
});
