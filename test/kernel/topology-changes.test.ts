/**
 * Networks that change under a connection, and containers that are killed. What a
 * redirected connection then does is compared with a plain one in the same place.
 */
import assert from 'node:assert/strict';

import { SIDES } from '../../controller/datapath/pair-table.js';
import type { Container } from './support/container.js';
import { Connection, Endpoint } from './support/endpoint.js';
import { needsRoot, Sandbox, skip } from './support/sandbox.js';
import { eventually, Stack } from './support/stack.js';
import { open, redirectsAll, rowOf, type Subject } from './topology/checks.js';
import { Engine, PORT, PUBLISHED } from './topology/engine.js';
import { unpublishPorts } from './topology/filter.js';
import { type Cable, inside, ip, type Plugged, sysctl } from './topology/network.js';

type Role = 'client' | 'server';
/** Of bytes that TCP carries. */
type Fate = 'arrive' | 'wait' | 'reset';

const other = (role: Role): Role => (role === 'client' ? 'server' : 'client');

describe('containers', function () {
  this.timeout(60_000);
  let sandbox: Sandbox;

  before(function () {
    needsRoot(this);
    const reason = Engine.missing();
    if (reason !== undefined) skip(this, reason);
  });

  beforeEach(() => {
    sandbox = new Sandbox('changes');
  });

  afterEach(() => sandbox.dispose());

  describe('whose network changes', () => {
    let engine: Engine;
    let client: Plugged;
    let server: Plugged;
    let stack: Stack;
    /** Between two containers, through a published port. */
    let redirected: Subject;
    /** Beside it, between programs outside the attached cgroup. */
    let plain: Connection;

    async function start(keepalive = 0): Promise<void> {
      engine = new Engine(sandbox);
      client = engine.host.plug('client');
      server = engine.host.plug('server');
      engine.publish(server.address);
      engine.publish(server.address, PUBLISHED + 1, PORT + 1);
      stack = new Stack(sandbox, { keepalive });
      redirected = await open(sandbox, {
        address: engine.host.address,
        connectPort: PUBLISHED,
        listen: server.address,
        port: PORT,
        client: { container: engine.container('client', client.netns) },
        server: { container: engine.container('server', server.netns) },
        crosses: { netns: engine.host.netns, device: server.port },
        ends: [
          { address: client.address, remoteAddress: engine.host.address, remotePort: PUBLISHED },
          { address: server.address, remoteAddress: client.address },
        ],
      });
      const cgroup = sandbox.makeCgroup('plain', 'beside');
      plain = await Connection.open(sandbox, {
        address: engine.host.address,
        connectPort: PUBLISHED + 1,
        listen: server.address,
        port: PORT + 1,
        client: { netns: client.netns, cgroup },
        server: { netns: server.netns, cgroup },
      });
      await redirected.connection.promote(stack);
      // An acknowledgement that is still to come would be a packet like any other.
      for (const { client: one, server: two } of [redirected.connection, plain]) {
        for (const end of [one, two]) await end.do('settle 2');
      }
    }

    /** Puts messages on TCP, or lets them be redirected again. */
    function hold(held: boolean): void {
      const pair = redirected.connection.pairIn(stack);
      if (pair === undefined) return; // a reset ends it
      for (const side of SIDES) stack.datapath.pairs.hold(pair.slot, side, held);
    }

    /** Sends bytes over TCP and sees what becomes of them. */
    async function sends(connection: Connection, sender: Role, fate: Fate): Promise<void> {
      const [from, to] = [connection[sender], connection[other(sender)]];
      assert.equal((await from.do('send 2 1000')).returned, 1000);
      if (fate === 'arrive') {
        await to.do('recvall 2 1000');
      } else if (fate === 'wait') {
        assert.deepEqual((await to.do('poll 2 POLLIN 300')).revents, [], `from the ${sender}`);
        assert.deepEqual((await from.do('poll 2 POLLOUT 0')).revents, ['POLLOUT'], `at the ${sender}`);
      } else {
        await from.do('poll 2 POLLIN 5000');
        assert.equal((await from.run('recv 2 1000')).errno, 'ECONNRESET', `at the ${sender}`);
      }
    }

    const containerAddress = (): string => `${server.address}/24`;

    /** What is done, what undoes it, who sends over TCP in between, and what becomes of that. */
    interface Change {
      name: string;
      change: () => void;
      undo?: () => void;
      sends: Partial<Record<Role, Fate>>;
    }
    const forget = (): void => {
      inside(engine.host.netns, 'conntrack', '-F');
    };
    const changes: Change[] = [
      {
        name: 'the address is replaced',
        change() {
          ip(server.netns, 'address', 'delete', containerAddress(), 'dev', 'eth0');
          ip(server.netns, 'address', 'add', '10.78.1.99/24', 'dev', 'eth0');
        },
        undo() {
          ip(server.netns, 'address', 'add', containerAddress(), 'dev', 'eth0');
          engine.host.route(server);
        },
        sends: { client: 'wait', server: 'wait' },
      },
      {
        name: 'the interface goes down',
        change() {
          ip(server.netns, 'link', 'set', 'eth0', 'down');
        },
        undo() {
          engine.host.start(server);
        },
        sends: { client: 'wait', server: 'wait' },
      },
      {
        name: 'it is disconnected from its network',
        change() {
          engine.host.disconnect(server);
        },
        undo() {
          engine.host.connect(server);
        },
        sends: { client: 'wait', server: 'wait' },
      },
      {
        name: 'its port is no longer published',
        change() {
          unpublishPorts(engine.host.netns);
        },
        sends: { client: 'arrive', server: 'arrive' },
      },
      {
        // Its bytes are translated anew.
        name: 'connection tracking forgets it, and the client sends first',
        change: forget,
        sends: { client: 'arrive', server: 'arrive' },
      },
      {
        // Its bytes reach the client from an address that it does not know.
        name: 'connection tracking forgets it, and the server sends first',
        change: forget,
        sends: { server: 'reset', client: 'reset' },
      },
      {
        name: 'connection tracking forgets it, and its port is no longer published',
        change() {
          unpublishPorts(engine.host.netns);
          forget();
        },
        sends: { client: 'reset' },
      },
    ];

    for (const { name, change, undo, sends: fates } of changes) {
      it(`${name}: redirected bytes go on, what TCP carries is as without us`, async () => {
        await start();
        const { connection } = redirected;
        change();
        await redirectsAll(stack, redirected);
        hold(true);
        const messages = stack.redirected().messages;
        for (const [sender, fate] of Object.entries(fates) as [Role, Fate][]) {
          await Promise.all([connection, plain].map((each) => sends(each, sender, fate)));
        }
        hold(false);
        const waiting = Object.entries(fates).filter(([, fate]) => fate === 'wait') as [Role, Fate][];
        // What follows may not overtake.
        for (const [sender] of waiting) {
          await Promise.all([connection, plain].map((each) => each[sender].do('send 2 500')));
        }
        assert.equal(stack.redirected().messages, messages, 'a message overtook what waits');
        undo?.();
        for (const [sender] of waiting) {
          await Promise.all([connection, plain].map((each) => each[other(sender)].do('recvall 2 1500')));
        }
        if (Object.values(fates).includes('reset')) {
          await Promise.all([connection, plain].map((each) => each.close()));
          await eventually('the slot is free', () => stack.records().length === 0);
          return;
        }
        await plain.pingPong(10, 1000);
        await connection.promote(stack);
        await redirectsAll(stack, redirected);
      });
    }

    it('with the regular TCP message a cut network stops the connection, until it is back', async () => {
      await start(200);
      const { connection } = redirected;
      engine.host.disconnect(server);
      const before = stack.redirected().messages;
      const deadline = Date.now() + 10_000;
      for (let through = true; through;) {
        assert.ok(Date.now() < deadline, 'messages still get through');
        const answers = await Promise.all([
          connection.client.run('ask 2 100 64 timeout=500'),
          connection.server.run('echo 2 100 64 timeout=500'),
        ]);
        through = answers.every(({ ok }) => ok);
      }
      const after = stack.redirected().messages;
      assert.ok(after > before, 'nothing was redirected after the cut');
      engine.host.connect(server);
      const streams = async (role: Role): Promise<{ sent: number; received: number }> =>
        (await connection[role].do('state 2'))['stream'] as { sent: number; received: number };
      const [ofClient, ofServer] = [await streams('client'), await streams('server')];
      const missing = [ofClient.sent - ofServer.received, ofServer.sent - ofClient.received] as const;
      assert.ok(missing[0] + missing[1] > 0, 'nothing was on its way');
      await connection.server.do(`recvall 2 ${String(missing[0])}`);
      await connection.client.do(`recvall 2 ${String(missing[1])}`);
      await connection.promote(stack);
      await connection.pingPong(100, 1000);
      assert.ok(rowOf(stack, redirected).toServer.redirectedMessages > 100);
    });
  });

  describe('of which one is killed: the other sees what it would see on TCP', () => {
    interface Case {
      name: string;
      victim: Role;
      /** Its network namespace outlives it, as that of a pod does. */
      stays?: boolean;
      /** Whether it has sent what the other has not read when it is killed. */
      sent?: boolean;
      /** Whether it has not read what the other has sent. */
      unread?: boolean;
      /** Its network is cut before. */
      cut?: boolean;
    }

    const cases: Case[] = [
      { name: 'the server, and its network namespace goes with it', victim: 'server' },
      { name: 'the client, and its network namespace goes with it', victim: 'client' },
      { name: 'the server, and its network namespace stays', victim: 'server', stays: true },
      { name: 'the server, of whose bytes some have not been read', victim: 'server', stays: true, sent: true },
      { name: 'the server, after its network was cut', victim: 'server', cut: true },
    ];

    /** Connects two containers, kills one and returns what the other sees. */
    async function run({ victim: role, stays, sent, unread, cut }: Case, stack?: Stack): Promise<object[]> {
      const name = stack === undefined ? 'plain' : 'redirected';
      const engine = new Engine(sandbox, name);
      const { host } = engine;
      /** Runs an endpoint in a namespace of its own, and plugs that in. */
      const start = async (which: Role): Promise<{ container: Container; endpoint: Endpoint; cable: Cable }> => {
        const outside = stack === undefined ? { cgroup: `${sandbox.cgroup}-${which}` } : {};
        const named = which === role && stays === true ? host.plug(which) : undefined;
        const container = engine.container(`${name}-${which}`, named?.netns, outside);
        const endpoint = new Endpoint(sandbox, { container });
        await endpoint.do('pid');
        const cable =
          named ??
          host.plugProcess(endpoint.pid, ({ netns }) => {
            // What is left of a killed program gives up soon.
            sysctl(netns, 'net.ipv4.tcp_orphan_retries', 1);
          });
        return { container, endpoint, cable };
      };
      const ends = { client: await start('client'), server: await start('server') };
      engine.publish(ends.server.cable.address);
      const connection = await Connection.between(ends.client.endpoint, ends.server.endpoint, {
        address: host.address,
        connectPort: PUBLISHED,
        listen: '0.0.0.0',
        port: PORT,
      });
      if (stack === undefined) await connection.pingPong(20, 1000);
      else await connection.promote(stack);
      const victim = ends[role];
      const survivor = ends[other(role)].endpoint;
      const messages = stack?.redirected().messages ?? 0;
      if (sent === true) await victim.endpoint.do('sendall 2 5000 chunk=1000');
      if (unread === true) await survivor.do('sendall 2 5000 chunk=1000');
      if (stack !== undefined && (sent ?? unread) === true) {
        assert.equal(stack.redirected().messages - messages, 5);
      }
      if (cut === true) host.disconnect(victim.cable);
      victim.container.kill('SIGKILL');
      await victim.endpoint.child.exited();
      if (stays !== true) await eventually('the namespace is gone', () => !host.hasPort(victim.cable));
      const seen = await aftermath(survivor);
      await survivor.do('setsockopt 2 SO_LINGER 0');
      await survivor.do('close 2');
      return seen;
    }

    /** What a program sees of a peer that was killed. */
    async function aftermath(survivor: Endpoint): Promise<object[]> {
      const seen: object[] = [];
      for (const command of [
        'poll 2 POLLIN 500',
        'drain 2',
        'poll 2 POLLIN|POLLOUT|POLLRDHUP 0',
        'send 2 100 MSG_NOSIGNAL',
        // A reset may follow.
        'poll 2 POLLERR|POLLHUP 500',
        'send 2 100 MSG_NOSIGNAL',
        'recv 2 100',
      ]) {
        let answer = await survivor.run(command);
        // The engine's signals are no part of what is seen.
        while (answer.errno === 'EINTR') answer = await survivor.run(command);
        const { returned, errno, bytes, eof, revents } = answer;
        seen.push({ command, returned, errno, bytes, eof, revents });
      }
      return seen;
    }

    /** What the other sees on TCP, and with a redirected connection. */
    async function both(each: Case): Promise<[object[], object[]]> {
      const stack = new Stack(sandbox);
      const onTcp = await run(each);
      assert.equal(stack.datapath.counters().pairs, 0);
      const redirected = await run(each, stack);
      assert.ok(stack.redirected().messages > 0);
      await eventually('the slot is free', () => stack.records().length === 0);
      assert.equal(stack.datapath.counters().releaseFailed, 0);
      return [onTcp, redirected];
    }

    for (const each of cases) {
      it(each.name, async () => {
        const [onTcp, redirected] = await both(each);
        assert.deepEqual(redirected, onTcp);
      });
    }

    it('the server, which has not read all: the end of the stream instead of a reset, as docs/guarantees.md says', async () => {
      const [onTcp, redirected] = await both({ name: '', victim: 'server', stays: true, unread: true });
      const received = onTcp.map((seen) => ('errno' in seen ? seen.errno : undefined)).find(Boolean);
      assert.equal(received, 'ECONNRESET');
      assert.equal((redirected[1] as { eof?: boolean }).eof, true, JSON.stringify(redirected));
    });
  });
});
