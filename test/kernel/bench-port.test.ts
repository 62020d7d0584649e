/** `bench --port` on real connections: what moves, what does not, and that everything is as before afterwards. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { explainTarget } from '../../controller/cli/actions/explain.js';
import type { CgroupNames } from '../../controller/datapath/cgroups.js';
import type { Datapath } from '../../controller/datapath/datapath.js';
import { type PairRecord } from '../../controller/datapath/pair-table.js';
import { LEASE } from '../../controller/decisions/measurement.js';
import { parseTarget } from '../../controller/explain/target.js';
import { Lease } from '../../controller/measure/lease.js';
import { measurePort, type PortBenchResult } from '../../controller/measure/measure.js';
import { toRow } from '../../controller/view/pairs.js';
import { openDatapath } from '../../controller/view/reader.js';
import { datapathStatus } from '../../controller/view/status.js';
import { parseOutput } from '../cli/schema.js';
import { Daemon, PROGRAM, run, stateDir } from './support/daemon.js';
import { type Child, needsRoot, OBJECT_FILE, program, Sandbox } from './support/sandbox.js';
import { eventually } from './support/stack.js';

/** Verified requests and answers on some connections, level-triggered. */
const TRAFFIC = ['--connections', '6', '--seconds', '300', '--max-message', '16K', '--pingpong-share', '100'];
/** Verified conversations by edge-triggered epoll; connections come and go. */
const EDGES = ['--blocking-share', '0', '--short-share', '0', '--idle-timeout', '5'];

const sum = (of: (side: 0 | 1) => number): number => of(0) + of(1);
const redirectedBy = ({ directions }: PairRecord): number => sum((side) => directions[side].redirectedMessages);
const receivedBy = ({ ends }: PairRecord): number => sum((side) => ends[side].receivedBytes);

describe('bench --port', function () {
  this.timeout(60_000);
  let sandbox: Sandbox;
  let daemon: Daemon;
  let datapath: Datapath;
  let cgroups: CgroupNames;
  let traffic: Child;
  let edges: { server: Child; client: Child };
  /** Of the traffic, and of the conversations by edges. */
  let port: number;
  let edgePort: number;

  before(async function () {
    needsRoot(this);
    sandbox = new Sandbox('bench-port');
    writeFileSync(
      join(sandbox.dir, 'policy.yaml'),
      'version: 1\ndefaults: { promoteAfter: 2, blockingReaders: true }\n',
    );
    await startDaemon();
    traffic = sandbox.spawn(program('traffic'), TRAFFIC);
    // The test may wait for the only connections that there are.
    port = (await eventually('traffic', () => records().find(({ control }) => control.state === 'inserted'))).ends[1]
      .port;
    const server = sandbox.spawn(program('soak'), ['--server', '--id', '1', ...EDGES]);
    edgePort = (await server.event<{ port: number }>('listening')).port;
    const client = sandbox.spawn(program('soak'), ['--id', '2', '--threads', '4', ...EDGES]);
    client.write(`target 1 127.0.0.1 ${String(edgePort)}`);
    edges = { server, client };
    await allPromoted();
  });

  after(async () => {
    await sandbox.dispose();
  });

  async function startDaemon(): Promise<void> {
    daemon = await Daemon.start(sandbox, ['--policy', join(sandbox.dir, 'policy.yaml'), '--log-level', 'info']);
    ({ datapath, cgroups } = openDatapath(sandbox.pinDir, OBJECT_FILE));
    const opened = datapath;
    sandbox.undo(() => {
      opened.close();
    });
  }

  function records(of?: number): PairRecord[] {
    const { pairs } = datapath;
    return [...pairs.slots('observed', 'candidate', 'approved', 'inserted', 'draining', 'leaving')].flatMap(
      ([slot, control]) => (of === undefined || pairs.hasPort(slot, of) ? (pairs.read(slot, control) ?? []) : []),
    );
  }

  /** Every connection of the traffic, and one of the others, of which some are streams. They end before the traffic. */
  async function allPromoted(others = true): Promise<void> {
    await eventually('all are promoted', () => {
      const own = records(port);
      const isDirect = ({ control, directions }: PairRecord): boolean =>
        control.state === 'inserted' && directions.every(({ path }) => path === 'direct');
      return own.length === 6 && own.every(isDirect) && (!others || records(edgePort).some(isDirect));
    });
  }

  const onTcp = (of: number): Promise<true> =>
    eventually(`port ${String(of)} is on TCP`, () => {
      const states = records(of).filter(({ demotion }) => demotion === 'measured');
      return states.length > 0 && records(of).every(({ control }) => control.state === 'observed');
    });

  const bench = (...args: string[]): string[] => ['bench', '--pin-dir', sandbox.pinDir, '--port', ...args];

  /** The command, in its first window on TCP. */
  async function measuring(): Promise<Child> {
    const child = sandbox.spawn(PROGRAM, [...bench(String(port)), '--seconds', '600'], { cgroup: null });
    await Promise.race([onTcp(port), child.until(() => undefined)]);
    return child;
  }

  /** As the command does it, without the time that a process takes to start. */
  const measure = (of: number): Promise<PortBenchResult> =>
    measurePort(datapath, sandbox.pinDir, of, 600, new AbortController().signal);

  /** When each pair of the traffic was promoted. */
  function promotedAt(): string[] {
    return records(port).map(
      ({ slot, insertedNs, promotions }) => `${String(slot)} ${String(insertedNs)} ${String(promotions)}`,
    );
  }

  const logged = (text: string, times = 1): Promise<true> =>
    daemon.child.until(({ stderr }) => stderr.split(text).length > times || undefined);

  it('compares: nothing is redirected in the windows on TCP, and nothing else than this port is touched', async () => {
    const seen = { tcp: 0, direct: 0 };
    let last = new Map<string, PairRecord>();
    const others = new Map<string, bigint>();
    const watching = setInterval(() => {
      const now = new Map(records(port).map((record) => [String(record.slot), record]));
      for (const [id, record] of now) {
        const before = last.get(id);
        if (before?.control.state !== record.control.state || before.insertedNs !== record.insertedNs) continue;
        const redirected = redirectedBy(record) - redirectedBy(before);
        if (record.control.state === 'inserted') seen.direct += redirected;
        if (record.control.state !== 'observed') continue;
        assert.equal(redirected, 0, 'redirected while it was on TCP');
        seen.tcp += receivedBy(record) - receivedBy(before);
      }
      last = now;
      for (const { slot, control, demotion } of records(edgePort)) {
        others.set(`${String(slot)}.${String(control.generation)} ${demotion}`, 0n);
      }
    }, 5);
    const promotions = records(port).map((record) => record.promotions);
    const { code, stdout, stderr } = await run(sandbox, [...bench(String(port)), '--seconds', '1.5', '--json']).finally(
      () => {
        clearInterval(watching);
      },
    );
    assert.deepEqual([code, stderr], [0, '']);
    const result = parseOutput('bench-port', stdout) as PortBenchResult;
    assert.deepEqual([result.port, result.windows, result.pairs], [port, 6, 6]);
    assert.deepEqual(result.programs, [{ program: 'traffic', pid: traffic.pid }]);
    assert.ok(result.redirected > 0.9, `${String(result.redirected)} of the messages were redirected`);
    assert.ok(result.tcp.bytesPerSecond > 0 && result.slipstream.bytesPerSecond > 0 && result.ratio.bytes.median > 0);
    assert.ok(seen.tcp > 10_000, `${String(seen.tcp)} bytes were seen on TCP`);
    assert.ok(seen.direct > 100, `${String(seen.direct)} messages were seen redirected`);
    assert.ok(![...others.keys()].some((key) => key.endsWith('measured')), [...others.keys()].join());
    // As before, at the moment when the command ends: also what later promotions are judged by.
    for (const record of records(port)) {
      assert.deepEqual([record.control.state, record.demotion, record.refusal], ['inserted', 'none', 'none']);
    }
    assert.deepEqual(
      records(port).map((record) => record.promotions),
      promotions,
    );
    assert.equal(datapath.settings.measurement, 0n);
    await logged('bench measures the pairs of a port');
    await logged('bench measures no longer');
    assert.equal(await daemon.metric('slipstream_refusals_total', 'reason="learned"'), 0);
  });

  it('edge-triggered readers lose no edge, however often they change over, and others stay where they are', async () => {
    await allPromoted();
    const before = promotedAt();
    const lease = Lease.take(datapath.settings, { port: edgePort, path: 'tcp' });
    try {
      for (let round = 0; round < 8; round++) {
        lease.use('tcp');
        await onTcp(edgePort);
        lease.use('direct');
        await eventually('back', () =>
          records(edgePort).some(({ control, demotion }) => control.state === 'inserted' && demotion !== 'measured'),
        );
      }
    } finally {
      lease.release();
    }
    assert.deepEqual(promotedAt(), before);
    await logged('bench measures no longer', 2);
  });

  it('is told by status, explain and pairs, and only one runs at a time', async () => {
    await allPromoted();
    const lease = Lease.take(datapath.settings, { port, path: 'tcp' });
    try {
      await onTcp(port);
      const status = datapathStatus(datapath, cgroups, true);
      assert.deepEqual(status.measurement, { port, path: 'tcp' });
      const places = { 'pin-dir': sandbox.pinDir, 'state-dir': stateDir(sandbox), policy: undefined };
      const { connections } = explainTarget(parseTarget(String(port)), places, OBJECT_FILE);
      const told = connections.filter(({ kind }) => kind === 'pair');
      assert.deepEqual(
        told.map(({ verdict, name }) => [verdict, name].join(' ')),
        Array(6).fill('pending measured'),
      );
      for (const record of records(port)) assert.equal(toRow(record, cgroups, 0n).reason, 'measured');
      for (const other of [port, edgePort]) {
        await assert.rejects(measure(other), /^UserError: another "bench --port" measures .* of port \d+ /);
      }
    } finally {
      lease.release();
    }
    await allPromoted();
  });

  it('killed in a window on TCP, it leaves nothing on TCP', async () => {
    await allPromoted();
    const child = await measuring();
    child.signal('SIGKILL');
    await child.exited();
    await eventually(
      'all are promoted again',
      () => records(port).every(({ control }) => control.state === 'inserted'),
      LEASE + 5000,
    );
    await eventually('the request is gone', () => datapath.settings.measurement === 0n);
    assert.ok(records(port).every(({ demotion }) => demotion === 'none'));
  });

  it('interrupted in a window on TCP, it ends when everything is back', async () => {
    await allPromoted();
    const child = await measuring();
    child.signal('SIGINT');
    assert.equal(await child.exited(), 1);
    assert.equal(child.stderr, 'slipstream-bpf: the measurement was not finished: it was interrupted\n');
    assert.ok(records(port).every(({ control }) => control.state === 'inserted'));
  });

  it('refuses a port without promoted connections, and says who knows why', async () => {
    await assert.rejects(
      measure(9),
      /^UserError: no promoted connection has port 9 .*"slipstream-bpf explain 9" says why$/,
    );
    assert.equal(datapath.settings.measurement, 0n);
  });

  // Before the controller ends, without which nobody wakes a reader.
  it('no edge was lost through all of this', async () => {
    for (const child of [edges.client, edges.server]) {
      // They report once a second.
      const { noWakeup, bytes } = await child.event<{ noWakeup: number; bytes: number }>('stats', child.lines.length);
      assert.equal(noWakeup, 0);
      assert.ok(bytes > 100_000, `only ${String(bytes)} bytes`);
      const others = child.lines.filter((line) => !/"event":"(listening|stats)"/.test(line));
      assert.deepEqual(others, []);
    }
    for (const child of [edges.client, edges.server]) {
      child.signal('SIGKILL');
      await child.exited();
    }
  });

  it('a controller that ends in a window on TCP leaves the pairs promoted, and the command says that there is none', async () => {
    await allPromoted(false);
    const refused = assert.rejects(measure(port), /^UserError: no controller runs .*"slipstream-bpf up"$/);
    await onTcp(port);
    assert.equal(await daemon.stop(), 0);
    assert.ok(
      records(port).every(({ control }) => control.state === 'inserted'),
      'as before',
    );
    await refused;
  });

  it('and through all of this every byte arrived, in order', async () => {
    traffic.signal('SIGTERM');
    assert.equal((await traffic.event<{ mismatches: number }>('interrupted')).mismatches, 0);
    assert.equal(await traffic.exited(), 0);
  });
});
