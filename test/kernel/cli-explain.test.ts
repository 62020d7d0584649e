/** `explain` and `pairs` on real connections: each kind of answer, and the schemas of their output. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { explainTarget } from '../../controller/cli/actions/explain.js';
import type { ExplainResult, Explanation } from '../../controller/explain/explain.js';
import { parseTarget } from '../../controller/explain/target.js';
import type { PairRow } from '../../controller/view/pairs.js';
import { parseOutput } from '../cli/schema.js';
import { Daemon, run, stateDir } from './support/daemon.js';
import { Connection } from './support/endpoint.js';
import { Python } from './support/python.js';
import { needsRoot, OBJECT_FILE, Sandbox, skip } from './support/sandbox.js';
import { dropSyn, publishPort } from './topology/filter.js';
import { type ContainerHost, HOST_TO_CLIENT, makeContainerHost, SERVER, sysctl } from './topology/network.js';

const POLICY = 'version: 1\ndefaults: { promoteAfter: 2 }\n';

describe('explain', function () {
  this.timeout(60_000);
  let sandbox: Sandbox;
  let daemon: Daemon;
  let file: string;
  let host: ContainerHost;

  before(async function () {
    needsRoot(this);
    sandbox = new Sandbox('explain');
    file = join(sandbox.dir, 'policy.yaml');
    writeFileSync(file, POLICY);
    daemon = await Daemon.start(sandbox, ['--policy', file]);
  });

  after(() => sandbox.dispose());

  const places = (): string[] => ['--pin-dir', sandbox.pinDir, '--state-dir', stateDir(sandbox)];

  /** As the command does it, without the time that a process takes to start. */
  function explain(target: string | number, policy?: string): ExplainResult {
    const args = { 'pin-dir': sandbox.pinDir, 'state-dir': stateDir(sandbox), policy };
    const result = explainTarget(parseTarget(String(target)), args, OBJECT_FILE);
    return parseOutput('explain', JSON.stringify(result)) as ExplainResult;
  }

  /** The only connection, beside listeners. */
  function theOne(target: string | number, policy?: string): Explanation {
    const { connections } = explain(target, policy);
    const [one, ...others] = connections.filter(({ kind }) => kind !== 'listener');
    assert.ok(one, `nothing for ${String(target)}`);
    assert.deepEqual(others, []);
    return one;
  }

  async function pairs(...options: string[]): Promise<PairRow[]> {
    const { code, stdout, stderr } = await run(sandbox, ['pairs', '--json', '--pin-dir', sandbox.pinDir, ...options]);
    assert.deepEqual([code, stderr], [0, '']);
    return parseOutput('pairs', stdout) as PairRow[];
  }

  /** Exchanges messages until a counter has grown. */
  async function until(c: Connection, metric: string, labels = ''): Promise<void> {
    const before = await daemon.metric(metric, labels);
    for (let round = 0; (await daemon.metric(metric, labels)) === before; round++) {
      assert.ok(round < 500, `${metric}{${labels}} does not grow`);
      await c.pingPong(20, 64);
    }
  }

  /** Exchanges messages until both directions redirect: one may for a moment wait for an acknowledgement. */
  async function promoted(c: Connection): Promise<void> {
    await until(c, 'slipstream_redirected_messages_total');
    for (let round = 0; theOne(`pid:${String(c.server.child.pid)}`).verdict !== 'accelerated'; round++) {
      assert.ok(round < 500, 'one direction stays on TCP');
      await c.pingPong(20, 64);
    }
  }
  const refused = (c: Connection, reason: string): Promise<void> =>
    until(c, 'slipstream_refusals_total', `reason="${reason}"`);

  /** Takes the datapath down, makes a connection, and loads it again. */
  async function olderThanDatapath(open: () => Promise<Connection>): Promise<Connection> {
    assert.equal(await daemon.stop(), 0);
    assert.equal((await run(sandbox, ['down', '--pin-dir', sandbox.pinDir])).code, 0);
    const c = await open();
    writeFileSync(file, POLICY);
    daemon = await Daemon.start(sandbox, ['--policy', file]);
    await c.pingPong(20, 64);
    return c;
  }

  it('an accelerated pair, by port, address, process and pair', async () => {
    const c = await Connection.open(sandbox);
    await promoted(c);
    const [listed] = await pairs('--port', String(c.port));
    assert.ok(listed);
    for (const target of [
      c.port,
      c.clientPort,
      `port:${String(c.port)}`,
      `127.0.0.1:${String(c.port)}`,
      `pid:${String(c.client.child.pid)}`,
      listed.id,
    ]) {
      const found = theOne(target);
      assert.equal(found.verdict, 'accelerated', `${String(target)}: ${JSON.stringify(found)}`);
      assert.equal(found.pair?.id, listed.id);
      assert.ok((found.client?.sends?.redirectedMessages ?? 0) > 0 && (found.server?.sends?.redirectedBytes ?? 0) > 0);
      assert.deepEqual(found.client?.reads?.evidence, ['nonblocking']);
      assert.deepEqual(
        [found.client.pid, found.client.program, found.client.cgroup, found.client.policy],
        [c.client.child.pid, 'endpoint', sandbox.cgroupPath, { rule: 'defaults', action: 'accelerate' }],
      );
      assert.equal(found.translated, false);
    }
    const json = await run(sandbox, ['explain', String(c.port), '--json', ...places()]);
    assert.deepEqual([json.code, json.stderr], [0, '']);
    assert.equal((parseOutput('explain', json.stdout) as ExplainResult).connections[0]?.verdict, 'accelerated');
    const { stdout } = await run(sandbox, ['explain', String(c.port), ...places()]);
    assert.match(stdout, /^pair \d+\.\d+: endpoint\(\d+\) 127\.0\.0\.1:\d+ > endpoint\(\d+\) 127\.0\.0\.1:\d+\n/);
    assert.match(stdout, /\n {2}because +Both directions redirect/);
    assert.match(stdout, /\npolicy: \S+policy\.yaml \([0-9a-f]{12}\)\n/);
  });

  it('a rule of the policy, also of one that was reloaded, and of another file', async () => {
    const late = sandbox.makeCgroup('quiet');
    const rule = `rules: [{ name: keep quiet, cgroup: ${sandbox.cgroupPath}/quiet, action: tcp }]\n`;
    writeFileSync(file, POLICY + rule);
    await daemon.child.until(({ stderr }) => (stderr.includes('policy reloaded') ? true : undefined));
    const c = await Connection.open(sandbox, { server: { cgroup: late } });
    await refused(c, 'policy');
    const found = theOne(c.port);
    assert.deepEqual([found.verdict, found.decidedBy, found.name], ['refused', 'policy', 'keep quiet']);
    assert.match(found.because, /The policy's rule 'keep quiet' says action: tcp/);
    assert.deepEqual(
      [found.client?.policy, found.server?.policy],
      [
        { rule: 'defaults', action: 'accelerate' },
        { rule: 'keep quiet', action: 'tcp' },
      ],
    );
    // What the file says now is not what is in force.
    writeFileSync(file, 'version: 1\nrules: 3\n');
    await daemon.child.until(({ stderr }) => (stderr.includes('stays in force') ? true : undefined));
    assert.equal(theOne(c.port).name, 'keep quiet');
    // Nor is what another file would say.
    const other = join(sandbox.dir, 'other.yaml');
    writeFileSync(other, `version: 1\nrules: [{ name: other, ports: [${String(c.port)}], action: observe }]\n`);
    const { server } = theOne(c.port, other);
    assert.deepEqual(server?.policy, { rule: 'other', action: 'observe' });
    writeFileSync(file, POLICY);
    await c.close();
  });

  it('a reader that blocks', async () => {
    const c = await Connection.open(sandbox, { blocking: true });
    await refused(c, 'blocking');
    const found = theOne(c.port);
    assert.deepEqual([found.verdict, found.decidedBy, found.name], ['refused', 'reader', 'blocking']);
    assert.match(found.because, /endpoint\(\d+\) receives blocking/);
    assert.match(found.change ?? '', /blockingReaders: true/);
  });

  it('a young pair, without and with a controller', async () => {
    const c = await Connection.open(sandbox);
    const found = theOne(c.port);
    assert.deepEqual([found.verdict, found.pair?.state], ['watched', 'observed']);
    assert.match(found.because, /Nothing was received/);
    assert.equal(await daemon.stop(), 0);
    const alone = explain(c.port);
    assert.equal(alone.controllerRunning, false);
    assert.match(alone.connections[0]?.because ?? '', /no controller runs/);
    assert.notEqual(alone.policy, null, 'pairs live on under the last policy');
    daemon = await Daemon.start(sandbox, ['--policy', file]);
  });

  it('an end outside the attached cgroup', async () => {
    const outside = sandbox.makeCgroup('outside', 'beside');
    const c = await Connection.open(sandbox, { client: { cgroup: outside } });
    await c.pingPong(20, 64);
    const found = theOne(c.port);
    assert.deepEqual([found.kind, found.verdict], ['connection', 'outside']);
    assert.match(
      found.because,
      new RegExp(`endpoint\\(${String(c.client.child.pid)}\\) is in the cgroup \\S+-outside,`),
    );
    assert.deepEqual([found.client?.pid, found.server?.pid], [c.client.child.pid, c.server.child.pid]);
  });

  it('a connection that is older than the datapath', async () => {
    const c = await olderThanDatapath(() => Connection.open(sandbox));
    const found = theOne(c.port);
    assert.deepEqual([found.kind, found.verdict, found.decidedBy], ['connection', 'older', 'datapath']);
    assert.match(found.because, /Most likely it was established before the datapath was loaded/);
    assert.deepEqual([found.client?.port, found.server?.port], [c.clientPort, c.port]);
  });

  it('a connection that was not recognized although its programs are young', async () => {
    const netns = sandbox.makeNetns('cookies');
    // Every handshake is answered by a SYN cookie, so no request socket has its numbers.
    sysctl(netns, 'net.ipv4.tcp_syncookies', 2);
    const c = await Connection.open(sandbox, { client: { netns }, server: { netns } });
    await c.pingPong(20, 64);
    const found = theOne(c.port);
    assert.deepEqual([found.kind, found.verdict], ['connection', 'missed']);
    assert.match(found.because, /although endpoint\(\d+\) was started after the datapath was loaded/);
  });

  it('both ends of a translated connection, paired or not', async function () {
    host = makeContainerHost(sandbox);
    const problem = publishPort(host.host, 8080, { address: SERVER, port: 9090 });
    if (problem !== undefined) skip(this, problem);
    const open = (): Promise<Connection> =>
      Connection.open(sandbox, {
        address: HOST_TO_CLIENT,
        listen: SERVER,
        port: 9090,
        connectPort: 8080,
        client: { netns: host.client },
        server: { netns: host.server },
      });
    const c = await open();
    await promoted(c);
    const found = theOne(`pid:${String(c.server.child.pid)}`);
    assert.deepEqual([found.kind, found.verdict, found.translated], ['pair', 'accelerated', true]);
    assert.deepEqual([found.client?.remotePort, found.server?.port], [8080, 9090]);
    await c.close();
    // The same connection, too old for the table: only connection tracking leads from one end to the other.
    const old = await olderThanDatapath(open);
    const unpaired = theOne(`pid:${String(old.client.child.pid)}`);
    assert.deepEqual([unpaired.verdict, unpaired.translated], ['older', true], JSON.stringify(unpaired));
    assert.deepEqual([unpaired.client?.pid, unpaired.server?.pid], [old.client.child.pid, old.server.child.pid]);
  });

  it('a listener, a connection that nobody answers, nothing at all', async function () {
    const server = new Python(sandbox, { netns: host.server });
    const port = await server.run<number>(`(s := socket.create_server(('${SERVER}', 0))).getsockname()[1]`);
    const { connections } = explain(port);
    assert.deepEqual(
      connections.map(({ kind, verdict, because }) => [kind, verdict, because.replace(/\(\d+\)/, '')]),
      [
        [
          'listener',
          'listener',
          "python3 listens here. For its end of a connection the policy's defaults say accelerate.",
        ],
      ],
    );
    const problem = dropSyn(host.server);
    if (problem !== undefined) skip(this, problem);
    const asking = new Python(sandbox, { netns: host.client });
    await asking.run(`r = socket.socket(); r.setblocking(False); r.connect_ex(('${SERVER}', ${String(port)}))`);
    const found = theOne(port);
    assert.deepEqual([found.verdict, found.name], ['closing', 'syn-sent']);
    const none = await run(sandbox, ['explain', `port:${String(port === 9 ? 10 : 9)}`, ...places()]);
    assert.deepEqual([none.code, none.stdout], [1, '']);
    assert.match(
      none.stderr,
      /^slipstream-bpf: nothing on this host uses port 9: no connection and no listener[^\n]+\n$/,
    );
    const gone = await run(sandbox, ['explain', '7.4711', ...places()]);
    assert.deepEqual([gone.code, gone.stdout], [1, '']);
    assert.match(gone.stderr, /there is no pair 7\.4711 any more/);
  });

  it('pairs: filters, order, columns', async () => {
    const inner = sandbox.makeCgroup('inner');
    const first = await Connection.open(sandbox);
    const second = await Connection.open(sandbox, { client: { cgroup: inner } });
    await promoted(second);
    const port = ({ server }: PairRow): number => server.port;
    const ours = async (...options: string[]): Promise<number[]> =>
      (await pairs(...options)).map(port).filter((number) => number === first.port || number === second.port);
    assert.deepEqual((await pairs('--port', String(second.clientPort))).map(port), [second.port]);
    assert.deepEqual(await ours('--cgroup', `${sandbox.cgroupPath}/inn*`), [second.port]);
    assert.deepEqual(await ours('--cgroup', sandbox.cgroupPath, '--sort', 'age'), [first.port, second.port]);
    assert.deepEqual(await ours('--state', 'inserted', '--sort', 'redirected'), [second.port]);
    const table = await run(sandbox, [
      ...['pairs', '--pin-dir', sandbox.pinDir, '--columns', 'state,pair', '--no-header', '--port', String(first.port)],
    ]);
    assert.match(table.stdout, /^observed +\d+\.\d+\n$/);
  });
});
