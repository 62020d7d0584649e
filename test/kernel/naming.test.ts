/** Rules by unit, container and pod, for cgroups that do not exist yet when the policy is read. */
import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import type { EndRow, PairRow } from '../../controller/view/pairs.js';
import { Container, whyNoContainers } from './support/container.js';
import { Daemon, run } from './support/daemon.js';
import { Connection, type ConnectionOptions } from './support/endpoint.js';
import { needsRoot, Sandbox, skip } from './support/sandbox.js';

const [A, B, C] = ['3f2a1b4c5d6e', 'd6701ec289c5', '0a1b2c3d4e5f'].map((start) => start.padEnd(64, '9')) as [
  string,
  string,
  string,
];
const UID = '1858680e-b044-4fd5-9dd4-f137e30e2180';
const OTHER_UID = '12fdc709-933e-41d0-917f-cd84de9afa94';

const POLICY = `version: 1
defaults: { action: tcp, promoteAfter: 2, blockingReaders: true }
rules:
  - { name: never, container: ${C}, action: tcp }
  - { name: unit, unit: redis, action: accelerate }
  - { name: container, container: ${A.slice(0, 12)}, action: accelerate }
  - { name: pod, pod: ${UID}, action: accelerate }
`;

const podSlice = (uid: string): string =>
  `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${uid.replaceAll('-', '_')}.slice`;

describe('rules by unit, container and pod', function () {
  this.timeout(120_000);
  let sandbox: Sandbox;
  let daemon: Daemon;

  before(async function () {
    needsRoot(this);
    sandbox = new Sandbox('naming');
    const file = join(sandbox.dir, 'policy.yaml');
    writeFileSync(file, POLICY);
    daemon = await Daemon.start(sandbox, ['--policy', file]);
  });

  after(() => sandbox.dispose());

  /** A cgroup below the sandbox's, made with those above it; goes with the sandbox. */
  function makeCgroup(path: string): string {
    const dir = join(sandbox.cgroup, path);
    mkdirSync(dir, { recursive: true });
    return dir;
  }

  const inCgroups = (client: string, server = client): ConnectionOptions => ({
    client: { cgroup: makeCgroup(client) },
    server: { cgroup: makeCgroup(server) },
  });

  async function rowOf(connection: Connection): Promise<PairRow> {
    const { stdout } = await run(sandbox, ['pairs', '--json', '--pin-dir', sandbox.pinDir]);
    const row = (JSON.parse(stdout) as PairRow[]).find(({ server }) => server.port === connection.port);
    assert.ok(row, stdout);
    return row;
  }

  const redirected = (): Promise<number> => daemon.metric('slipstream_redirected_messages_total');
  const refused = (): Promise<number> => daemon.metric('slipstream_refusals_total', 'reason="policy"');

  /** Exchanges messages until one of the two counters rises; returns the pair as `pairs` then shows it. */
  async function decided(options: ConnectionOptions): Promise<{ row: PairRow; redirected: number }> {
    const before = { redirected: await redirected(), refused: await refused() };
    const connection = await Connection.open(sandbox, options);
    const deadline = Date.now() + 20_000;
    do {
      assert.ok(Date.now() < deadline, 'neither redirected nor refused within 20 s');
      await connection.pingPong(8, 64);
    } while ((await redirected()) === before.redirected && (await refused()) === before.refused);
    await connection.pingPong(20, 64);
    const row = await rowOf(connection);
    await connection.close();
    return { row, redirected: (await redirected()) - before.redirected };
  }

  async function accelerates(options: ConnectionOptions): Promise<PairRow> {
    const { row, redirected } = await decided(options);
    assert.equal(row.state, 'inserted');
    assert.equal(row.reason, null);
    assert.ok(redirected >= 40, `${String(redirected)} messages redirected`);
    return row;
  }

  async function leavesOnTcp(options: ConnectionOptions): Promise<PairRow> {
    const { row, redirected } = await decided(options);
    assert.deepEqual([row.reason, row.promotions, redirected], ['policy', 0, 0]);
    return row;
  }

  const named = ({ unit, container, pod }: EndRow): unknown[] => [unit, container, pod];

  it('a unit, and not one with a longer name', async () => {
    const { client, server } = await accelerates(inCgroups('system.slice/redis.service', 'a/redis.service/sub'));
    for (const end of [client, server]) assert.deepEqual(named(end), ['redis.service', null, null]);
    assert.equal(server.cgroup, `${sandbox.cgroupPath}/a/redis.service/sub`);
    const other = await leavesOnTcp(inCgroups('system.slice/redis-2.service'));
    assert.deepEqual(named(other.client), ['redis-2.service', null, null]);
  });

  it('a container by the start of its id, and no other', async () => {
    const { client, server } = await accelerates(inCgroups(`system.slice/docker-${A}.scope/init`, `docker/${A}`));
    const container = { id: A, engine: 'docker' };
    assert.deepEqual(named(client), [`docker-${A}.scope`, container, null]);
    assert.deepEqual(named(server), [null, container, null]);
    await leavesOnTcp(inCgroups(`system.slice/docker-${B}.scope`));
    // An id is known by its first 12 digits, not by fewer.
    await leavesOnTcp(inCgroups(`docker/${A.slice(0, 11)}${'8'.repeat(53)}`));
  });

  it('a pod with each of its containers but one, and no other pod', async () => {
    const { client } = await accelerates(
      inCgroups(`${podSlice(UID)}/cri-containerd-${B}.scope`, `kubepods/burstable/pod${UID}/${B}`),
    );
    const pod = { uid: UID, qos: 'burstable' };
    assert.deepEqual(named(client), [`cri-containerd-${B}.scope`, { id: B, engine: 'containerd' }, pod]);
    const never = await leavesOnTcp(inCgroups(`${podSlice(UID)}/cri-containerd-${C}.scope`));
    assert.deepEqual(never.client.pod, pod);
    await leavesOnTcp(inCgroups(`${podSlice(OTHER_UID)}/cri-containerd-${B}.scope`));
  });

  it('a container with all that runs in containers within it', async () => {
    const node = `docker/${A}/kubelet.slice/kubelet-${podSlice(OTHER_UID).split('/').at(-1) ?? ''}`;
    const { client } = await accelerates(inCgroups(`${node}/cri-containerd-${B}.scope`));
    assert.deepEqual([client.container?.id, client.pod?.uid], [B, OTHER_UID]);
  });

  it('both ends, of which the stricter decides', async () => {
    await leavesOnTcp(inCgroups('system.slice/redis.service', 'system.slice/web.service'));
  });

  it('a container that an OCI runtime has started', async function () {
    const why = whyNoContainers();
    if (why !== undefined) skip(this, why);
    const cgroup = join(sandbox.cgroup, 'machine.slice', `libpod-${A}.scope`);
    const server = { container: new Container(sandbox, 'named', { cgroup, netns: null }) };
    const row = await accelerates({ ...inCgroups('system.slice/redis.service'), server });
    assert.deepEqual(row.server.container, { id: A, engine: 'podman' });
  });

  it('are short in the list for people', async () => {
    const connection = await Connection.open(
      sandbox,
      inCgroups('system.slice/redis.service', `${podSlice(UID)}/cri-containerd-${B}.scope`),
    );
    const { stdout } = await run(sandbox, ['pairs', '--pin-dir', sandbox.pinDir]);
    assert.match(stdout, / redis\.service > pod:1858680e\/d6701ec289c5$/m);
    await connection.close();
  });

  it('without a reload', async () => {
    assert.equal(await daemon.metric('slipstream_policy_reloads_total'), 0);
    assert.equal(await daemon.stop(), 0);
  });
});
