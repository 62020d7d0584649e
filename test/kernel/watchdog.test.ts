/** Redirected data that nobody takes: reported, and its reader's program remembered. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import { LearnedPrograms } from '../../controller/policy/learned.js';
import type { PairRow } from '../../controller/view/pairs.js';
import { Daemon, run, stateDir } from './support/daemon.js';
import { Connection } from './support/endpoint.js';
import { needsRoot, Sandbox } from './support/sandbox.js';

const EAGER = ['--stall-after', '0.4', '--log-level', 'info'];

describe('watchdog', function () {
  this.timeout(60_000);
  let sandbox: Sandbox;

  before(function () {
    needsRoot(this);
  });

  beforeEach(() => {
    sandbox = new Sandbox('watchdog');
  });

  afterEach(() => sandbox.dispose());

  async function pairs(): Promise<PairRow[]> {
    const result = await run(sandbox, ['pairs', '--json', '--pin-dir', sandbox.pinDir]);
    return JSON.parse(result.stdout) as PairRow[];
  }

  async function pairOf(c: Connection): Promise<PairRow> {
    const row = (await pairs()).find(({ server }) => server.port === c.port);
    assert.ok(row, 'no pair');
    return row;
  }

  /** Talks until the daemon's count of something has reached a value. */
  async function talkUntil(c: Connection, reached: () => Promise<boolean>): Promise<void> {
    const deadline = Date.now() + 20_000;
    while (!(await reached())) {
      assert.ok(Date.now() < deadline, 'not within 20 s');
      await c.pingPong(50, 64);
    }
  }

  /** A connection through which the last messages went directly. */
  async function accelerated(daemon: Daemon): Promise<Connection> {
    const c = await Connection.open(sandbox, { sockopts: ['TCP_NODELAY 1'] });
    const before = await daemon.metric('slipstream_redirected_messages_total');
    await talkUntil(c, async () => (await daemon.metric('slipstream_redirected_messages_total')) > before + 100);
    return c;
  }

  const logged = (daemon: Daemon, text: string): Promise<true> =>
    daemon.child.until(({ stderr }) => stderr.includes(text) || undefined);

  const isRefused = (daemon: Daemon) => async (): Promise<boolean> =>
    (await daemon.metric('slipstream_refusals_total', 'reason="learned"')) > 0;

  it('a stalled reader is reported, and its program refused from then on', async () => {
    let daemon = await Daemon.start(sandbox, EAGER);
    const c = await accelerated(daemon);
    await c.client.do('sendall 2 100');
    await logged(daemon, 'a reader has stalled');
    assert.equal(await daemon.metric('slipstream_stalled_directions'), 1);
    assert.equal(await daemon.metric('slipstream_learned_programs'), 1);
    const row = await pairOf(c);
    assert.equal(row.reason, 'stalled');
    assert.ok((row.toServer.stalledSeconds ?? 0) >= 0.4 && row.toClient.stalledSeconds === null, JSON.stringify(row));
    const [known] = new LearnedPrograms(stateDir(sandbox)).list;
    assert.equal(known?.program, 'endpoint');
    assert.equal(known.cgroup, sandbox.cgroupPath);
    assert.equal(known.cause, 'stalled');

    // Nothing is lost, and the pair is taken back once it was read.
    await c.server.do('recvall 2 100');
    await talkUntil(c, async () => (await pairOf(c)).state === 'observed');
    const after = await pairOf(c);
    assert.deepEqual([after.reason, after.toServer.stalledSeconds], ['learned', null]);

    // The memory outlives the controller.
    await daemon.stop('SIGKILL');
    daemon = await Daemon.start(sandbox, EAGER);
    const next = await Connection.open(sandbox, { sockopts: ['TCP_NODELAY 1'] });
    const redirected = await daemon.metric('slipstream_redirected_messages_total');
    const refusals = await daemon.metric('slipstream_refusals_total', 'reason="learned"');
    await talkUntil(
      next,
      async () => (await daemon.metric('slipstream_refusals_total', 'reason="learned"')) > refusals,
    );
    assert.equal(await daemon.metric('slipstream_redirected_messages_total'), redirected);

    // Until somebody says otherwise.
    const listed = await run(sandbox, ['learned', '--state-dir', stateDir(sandbox)]);
    assert.match(listed.stdout, new RegExp(`endpoint +${sandbox.cgroupPath} +stalled`));
    const forgotten = await run(sandbox, ['learned', '--state-dir', stateDir(sandbox), '--forget', 'endpoint']);
    assert.equal(forgotten.stdout, 'forgot 1\n');
    await talkUntil(next, async () => (await daemon.metric('slipstream_redirected_messages_total')) > redirected);
    await next.close();
    await c.close();
    assert.equal(await daemon.stop(), 0);
  });

  it('a process that somebody stopped is reported and not remembered', async () => {
    const daemon = await Daemon.start(sandbox, EAGER);
    const c = await accelerated(daemon);
    c.server.child.signal('SIGSTOP');
    await stopped(c.server.child.pid);
    await c.client.do('sendall 2 100');
    await logged(daemon, 'a reader has stalled');
    assert.equal(await daemon.metric('slipstream_learned_programs'), 0);
    assert.ok(!existsSync(join(stateDir(sandbox), 'learned.json')));
    c.server.child.signal('SIGCONT');
    await c.server.do('recvall 2 100');
    await talkUntil(c, async () => (await daemon.metric('slipstream_stalled_directions')) === 0);
    assert.equal(await isRefused(daemon)(), false);
    await c.close();
    assert.equal(await daemon.stop(), 0);
  });

  it('a reader that the guard caught is remembered', async () => {
    const daemon = await Daemon.start(sandbox, [...EAGER.slice(2), '--stall-after', '1']);
    const c = await accelerated(daemon);
    await c.server.do('verify 2 0');
    await c.client.do('send 2 100');
    await c.server.do('setsockopt 2 SO_RCVLOWAT 2');
    await c.client.do('send 2 100');
    await c.server.do('setsockopt 2 SO_RCVLOWAT 1');
    assert.equal((await c.server.do('splice 2 100')).returned, 100);
    const deadline = Date.now() + 10_000;
    while ((await c.client.run('send 2 10')).ok) {
      assert.ok(Date.now() < deadline, 'the guard did not fire');
      await c.client.run('poll 2 POLLIN 50');
    }
    await logged(daemon, 'took TCP bytes before redirected ones');
    assert.ok((await daemon.metric('slipstream_dropped_messages_total')) > 0);
    assert.equal((await pairOf(c)).reason, 'overtaken');
    assert.equal(new LearnedPrograms(stateDir(sandbox)).list[0]?.program, 'endpoint');
    await c.close();
    assert.equal(await daemon.stop(), 0);
  });

  /** Waits until all of a process has stopped, for which there is no event but its parent's. */
  async function stopped(pid: number): Promise<void> {
    while (!/^State:\s*T/m.test(readFileSync(join('/proc', String(pid), 'status'), 'utf8'))) {
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
});
