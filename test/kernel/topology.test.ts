/**
 * Which networks a connection may cross between its two ends. In each it is found,
 * its ends are named rightly, and a policy for the cgroup of either end decides whether its
 * payload is redirected, all of it, or crosses the network, all of it.
 */
import assert from 'node:assert/strict';

import type { PairRow } from '../../controller/view/pairs.js';
import { run } from './support/daemon.js';
import { Connection, Endpoint } from './support/endpoint.js';
import { needsRoot, Sandbox, skip } from './support/sandbox.js';
import { Stack } from './support/stack.js';
import { assertRow, checkRoutes, leaveOnTcp, open, pathOf, type Subject } from './topology/checks.js';
import { Engine } from './topology/engine.js';
import { clusterAddress, FILTERS, whyNotFilter } from './topology/filter.js';
import { BridgedHost } from './topology/network.js';
import { CONTAINERS, TOPOLOGIES } from './topology/topologies.js';

describe('topologies', function () {
  this.timeout(60_000);
  let sandbox: Sandbox;

  before(function () {
    needsRoot(this);
  });

  beforeEach(() => {
    sandbox = new Sandbox('topology');
  });

  afterEach(() => sandbox.dispose());

  for (const topology of TOPOLOGIES) {
    it(topology.name, async function () {
      const reason = topology.missing?.(sandbox);
      if (reason !== undefined) skip(this, reason);
      const routes = topology.make(sandbox);
      const stack = new Stack(sandbox, { policy: leaveOnTcp(`${sandbox.cgroupPath}/client*`) });
      const subjects: Subject[] = [];
      for (const [index, route] of routes.entries()) subjects.push(await open(sandbox, route, `-${String(index)}`));
      await checkRoutes(stack, subjects);
    });
  }

  it('containers of runc: `pairs --json` names both ends', async function () {
    const [, published] = CONTAINERS;
    const reason = Engine.missing();
    if (reason !== undefined) skip(this, reason);
    const [route] = published.make(sandbox);
    assert.ok(route);
    const stack = new Stack(sandbox);
    const subject = await open(sandbox, route);
    await subject.connection.promote(stack);
    const { code, stdout, stderr } = await run(sandbox, ['pairs', '--json', '--pin-dir', sandbox.pinDir]);
    assert.equal(code, 0, stderr);
    const [row, ...others] = JSON.parse(stdout) as PairRow[];
    assert.ok(row);
    assert.deepEqual(others, []);
    assertRow(subject, row);
    assert.deepEqual([row.state, row.toServer.path, row.toClient.path], ['inserted', 'direct', 'direct']);
  });

  for (const filter of FILTERS) {
    it(`a service with two backends (kube-proxy by ${filter}), from a pod and from its node`, async function () {
      const reason = whyNotFilter(filter);
      if (reason !== undefined) skip(this, reason);
      const stack = new Stack(sandbox, { policy: leaveOnTcp(`${sandbox.cgroupPath}/client*`) });
      const host = new BridgedHost(sandbox);
      const service = { address: '10.96.0.10', port: 80 };
      const pod = host.plug('pod');
      const backends = ['a', 'b'].map((name) => {
        const { address, ...plugged } = host.plug(name);
        return { ...plugged, address, device: plugged.port, port: 8080, cgroup: sandbox.makeCgroup(`server-${name}`) };
      });
      const [a, b] = backends;
      assert.ok(a && b);
      host.reaches(service.address);
      assert.equal(clusterAddress(host.netns, service, [a, b], host.network, filter), undefined);
      const subjects: Subject[] = [];
      for (const [who, from] of [
        ['pod', pod],
        ['node', host],
      ] as const) {
        const cgroup = sandbox.makeCgroup(`client-${who}`);
        const servers = new Map(backends.map((backend) => [new Endpoint(sandbox, backend), backend]));
        for (const [server, { address, port }] of servers) await server.do(`listen 1 ${address} ${String(port)}`);
        // Chance decides. That one is left out 64 times does not happen.
        for (let tries = 0; servers.size > 0; tries++) {
          assert.ok(tries < 64, `${String(servers.size)} of the backends are never chosen`);
          const client = new Endpoint(sandbox, { netns: from.netns, cgroup });
          const connected = await client.run(`connect 2 ${service.address} ${String(service.port)}`);
          // The other backend no longer listens once it has its connection.
          if (connected.errno === 'ECONNREFUSED') continue;
          assert.ok(connected.ok, JSON.stringify(connected));
          const server = await firstWaiting([...servers.keys()]);
          const seenPort = (await server.do('accept 1 2')).port ?? 0;
          await server.do('close 1');
          for (const end of [client, server]) await end.do('nonblock 2 1');
          const { address, port, ...backend } = servers.get(server)!;
          servers.delete(server);
          subjects.push({
            connection: new Connection(client, server, { port, clientPort: connected.port ?? 0, seenPort }),
            cgroups: [pathOf(cgroup), pathOf(backend.cgroup)],
            crosses: { netns: host.netns, device: backend.device },
            ends: [
              { address: from.address, remoteAddress: service.address, remotePort: service.port },
              { address, remoteAddress: from.address },
            ],
          });
        }
      }
      await checkRoutes(stack, subjects);
    });
  }
});

/** The first of some servers that somebody has connected to. */
async function firstWaiting(servers: Endpoint[]): Promise<Endpoint> {
  for (;;) {
    for (const server of servers) {
      const { revents } = await server.do('poll 1 POLLIN 0');
      if (revents?.length) return server;
    }
  }
}
