/** Connection tracking on the route of an accelerated pair must not take it for idle. */
import assert from 'node:assert/strict';

import { Connection } from './support/endpoint.js';
import { needsRoot, Sandbox, skip } from './support/sandbox.js';
import { Stack } from './support/stack.js';
import { dropForwarded, publishPort } from './topology/filter.js';
import {
  type ContainerHost,
  HOST_TO_CLIENT,
  makeContainerHost,
  SERVER,
  sysctl,
  trackedConnections,
} from './topology/network.js';

/** Of established connections without traffic, seconds. */
const TIMEOUT = 2;

describe('keepalive', function () {
  this.timeout(60_000);
  let sandbox: Sandbox;
  let host: ContainerHost;
  let stack: Stack;
  let c: Connection;

  before(function () {
    needsRoot(this);
  });

  beforeEach(() => {
    sandbox = new Sandbox('keepalive');
  });

  afterEach(() => sandbox.dispose());

  /** A promoted pair through a published port whose translation is forgotten when idle for TIMEOUT. */
  async function start(context: Mocha.Context, keepalive: number): Promise<void> {
    host = makeContainerHost(sandbox);
    const problem = publishPort(host.host, 8080, { address: SERVER, port: 80 });
    if (problem !== undefined) skip(context, problem);
    stack = new Stack(sandbox, { keepalive });
    c = await Connection.open(sandbox, {
      listen: SERVER,
      port: 80,
      address: HOST_TO_CLIENT,
      connectPort: 8080,
      client: { netns: host.client },
      server: { netns: host.server },
    });
    sysctl(host.host, 'net.netfilter.nf_conntrack_tcp_timeout_established', TIMEOUT);
    // A packet in mid-stream must not make the entry anew.
    sysctl(host.host, 'net.netfilter.nf_conntrack_tcp_loose', 0);
    await c.promote(stack);
    assert.equal(trackedConnections(host.host, 8080), 1, 'connection tracking does not see the route');
  }

  /** Traffic for some time; returns how many messages were redirected. */
  async function talk(seconds: number, until: () => boolean = () => false): Promise<number> {
    const before = stack.redirected().messages;
    const end = Date.now() + seconds * 1000;
    while (Date.now() < end && !until()) await c.pingPong(200, 64);
    return stack.redirected().messages - before;
  }

  it('the translation of a pair that only talks directly stays', async function () {
    await start(this, 500);
    const redirected = await talk(3 * TIMEOUT);
    const passed = stack.passed()['keepalive'] ?? 0;
    assert.ok(redirected > 100 * passed && passed >= 2 * 3 * TIMEOUT, `${String(passed)} of ${String(redirected)}`);
    assert.equal(trackedConnections(host.host, 8080), 1, 'the entry is gone');
    // And what goes over TCP still arrives.
    const [pair] = stack.records('inserted');
    assert.ok(pair);
    for (const side of [0, 1] as const) stack.datapath.pairs.hold(pair.slot, side, true);
    await c.pingPong(20, 1000);
  });

  it('a firewall rule that is added later takes hold', async function () {
    await start(this, 200);
    const problem = dropForwarded(host.host);
    if (problem !== undefined) skip(this, problem);
    const deadline = Date.now() + 10_000;
    for (let through = true; through;) {
      assert.ok(Date.now() < deadline, 'messages still get through');
      const [answer] = await Promise.all([
        c.client.run('ask 2 20 64 timeout=500'),
        c.server.run('echo 2 20 64 timeout=500'),
      ]);
      through = answer.ok;
    }
    const before = stack.redirected().messages;
    await c.client.run('send 2 10');
    assert.equal(stack.redirected().messages, before, 'a message went around the rule');
  });

  it('without it the translation is forgotten: the test can see', async function () {
    await start(this, 0);
    const gone = (): boolean => trackedConnections(host.host, 8080) === 0;
    assert.ok((await talk(5 * TIMEOUT, gone)) > 0);
    assert.ok(gone(), 'the entry outlived its timeout');
  });
});
