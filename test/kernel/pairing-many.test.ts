/** A thousand connections at once, whose addresses and ports are the same in two places: none is paired crosswise. */
import assert from 'node:assert/strict';

import { isDirect, Pairing } from './support/pairing.js';
import { Python } from './support/python.js';
import { needsRoot, Sandbox, skip } from './support/sandbox.js';
import { Stack } from './support/stack.js';
import { publishPort } from './topology/filter.js';
import { CLIENT, HOST_TO_CLIENT, HOST_TO_SERVER, makeContainerHost, netnsInode, SERVER } from './topology/network.js';

/** So many of each of four kinds. */
const COUNT = 250;
/** The client's first port where nothing is translated, and where a published port is. */
const DIRECT = 20_000;
const TRANSLATED = 30_000;
const ROUNDS = 20;
const SIZE = 200;

/** What one end of a connection knows of it. */
interface Known {
  cookie: string;
  own: [string, number];
  peer: [string, number];
}

interface Place {
  name: string;
  client: Python;
  server: Python;
  netns: [number, number];
}

const DESCRIBE = `
def known():
    return {key: {'cookie': cookie(s), 'own': s.getsockname(), 'peer': s.getpeername()} for key, s in ends.items()}`;

describe('many connections at once', function () {
  this.timeout(120_000);
  let sandbox: Sandbox;
  /** For the names of the second place's namespaces. */
  let beside: Sandbox;

  before(function () {
    needsRoot(this);
  });

  beforeEach(() => {
    sandbox = new Sandbox('many');
    beside = new Sandbox('many');
  });

  afterEach(async () => {
    await sandbox.dispose();
    await beside.dispose();
  });

  /** Two hosts, each with a client's and a server's namespace, and a process in each of these. */
  function makePlaces(context: Mocha.Context): Place[] {
    return [sandbox, beside].map((of, index) => {
      const name = index === 0 ? 'a' : 'b';
      const { host, client, server } = makeContainerHost(of);
      const problem = publishPort(host, 8080, { address: SERVER, port: 80 });
      if (problem !== undefined) skip(context, problem);
      return {
        name,
        client: new Python(sandbox, { netns: client, cgroup: sandbox.makeCgroup(`client-${name}`) }),
        server: new Python(sandbox, { netns: server, cgroup: sandbox.makeCgroup(`server-${name}`) }),
        netns: [netnsInode(client), netnsInode(server)],
      };
    });
  }

  /** What the programs know of each connection and its two ends, by the client's cookie. */
  async function whoIsWho(places: readonly Place[]): Promise<Map<string, object>> {
    const known = new Map<string, object>();
    for (const { client, server, netns } of places) {
      const [own, theirs] = await Promise.all([
        client.run<Record<string, Known>>('known()'),
        server.run<Record<string, Known>>('known()'),
      ]);
      assert.deepEqual(Object.keys(theirs).sort(), Object.keys(own).sort());
      for (const [key, of] of Object.entries(own)) {
        const at = theirs[key]!;
        known.set(of.cookie, {
          client: { ...of, pid: client.pid, netns: netns[0] },
          server: { ...at, pid: server.pid, netns: netns[1] },
        });
        // The test makes what it says: the same addresses and ports in both places.
        const port = Number(key.slice(1));
        const [to, listening, from] =
          port >= TRANSLATED ? [[HOST_TO_CLIENT, 8080], 80, HOST_TO_SERVER] : [[SERVER, 81], 81, CLIENT];
        assert.deepEqual([of.own, of.peer, at.own, at.peer[0]], [[CLIENT, port], to, [SERVER, listening], from]);
      }
    }
    return known;
  }

  /** The same as the table says. */
  function inTheTable(pairing: Pairing): Map<string, object> {
    return new Map(
      pairing.stack.records('observed', 'candidate', 'approved', 'inserted').map((pair) => {
        const cookies = pairing.cookies(pair);
        const [client, server] = pair.ends.map(({ address, port, remoteAddress, remotePort, pid, netns }, side) => ({
          cookie: cookies[side],
          own: [address, port],
          peer: [remoteAddress, remotePort],
          pid,
          netns,
        }));
        return [cookies[0], { client, server }];
      }),
    );
  }

  it('1,000 in four namespaces with the same addresses and ports, half of them through NAT', async function () {
    const stack = new Stack(sandbox, { maxPairs: 2048 });
    const pairing = new Pairing(sandbox, stack);
    const places = makePlaces(this);
    const everywhere = (work: (place: Place) => Promise<unknown>): Promise<unknown> => Promise.all(places.map(work));

    // Each connection says who it is in its first bytes, which both ends then use in all they say.
    await everywhere(async ({ name, client, server }) => {
      await server.run(`HOME = '${SERVER}'; listeners = [listener(at=number, backlog=2048) for number in (80, 81)]${DESCRIBE}
def take(count):
    global ends
    ends = {}
    while len(ends) < count:
        for l in select.select(listeners, [], [], 10)[0]:
            s = l.accept()[0]
            ends[receive(s, 10).decode().strip()] = s`);
      const accepted = server.run(`take(${String(2 * COUNT)})`);
      await client.run(`${DESCRIBE}
ends = {}
# In turns, so that neighbours in time are of different kinds.
for n in range(${String(COUNT)}):
    for first, to in (${String(DIRECT)}, ('${SERVER}', 81)), (${String(TRANSLATED)}, ('${HOST_TO_CLIENT}', 8080)):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(('${CLIENT}', first + n))
        s.connect(to)
        s.setsockopt(6, socket.TCP_NODELAY, 1)
        key = f'${name}{first + n}'
        s.sendall(key.ljust(10).encode())
        ends[key] = s`);
      await accepted;
    });

    let round = 0;
    const converse = async (rounds: number): Promise<void> => {
      await everywhere(({ client, server }) =>
        Promise.all([
          client.run(`converse(ends, 'client', ${String(round)}, ${String(rounds)}, ${String(SIZE)})`),
          server.run(`converse(ends, 'server', ${String(round)}, ${String(rounds)}, ${String(SIZE)})`),
        ]),
      );
      round += rounds;
    };
    for (;;) {
      await converse(4);
      const direct = stack.records().filter(isDirect).length;
      if (direct === 4 * COUNT) break;
      assert.ok(round < 400, `only ${String(direct)} redirect`);
    }
    // All of them, all at the same time, both ways.
    const before = new Map(stack.records().map((pair) => [pair.slot, pair]));
    await converse(ROUNDS);
    const pairs = stack.records();
    for (const pair of pairs) {
      assert.deepEqual(
        pair.directions.map(
          ({ redirectedBytes }, side) =>
            redirectedBytes - (before.get(pair.slot)?.directions[side]?.redirectedBytes ?? NaN),
        ),
        [ROUNDS * SIZE, ROUNDS * SIZE],
      );
    }

    const found = inTheTable(pairing);
    assert.equal(found.size, 4 * COUNT);
    assert.deepEqual(found, await whoIsWho(places));
    assert.equal(stack.datapath.counters().pairs, 4 * COUNT);
    assert.deepEqual(pairing.unpaired(), {});
  });

  it('the same addresses and ports in handshakes that are all under way', async function () {
    const stack = new Stack(sandbox);
    const pairing = new Pairing(sandbox, stack);
    const places = makePlaces(this);
    const count = 40;
    for (const { server } of places) {
      await server.run(`HOME = '${SERVER}'; l = listener(at=81, TCP_DEFER_ACCEPT=30); ends = {}${DESCRIBE}`);
    }
    for (const { name, client } of places) {
      await client.run(`${DESCRIBE}
ends = {}
for n in range(${String(count)}):
    s = socket.socket()
    s.bind(('${CLIENT}', ${String(DIRECT)} + n))
    s.connect(('${SERVER}', 81))
    ends[f'${name}{${String(DIRECT)} + n}'] = s`);
    }
    assert.equal(stack.datapath.pairs.tally().half, 2 * count);
    // Their servers join with the first bytes: in one place in the order of the clients, in the other in the opposite one.
    for (const { name, client, server } of places) {
      await client.run(
        `for key in ${name === 'a' ? 'list(ends)' : 'reversed(ends)'}: ends[key].sendall(key.ljust(10).encode())`,
      );
      await server.run(
        `for _ in range(${String(count)}): s = l.accept()[0]; ends[receive(s, 10).decode().strip()] = s`,
      );
      await Promise.all([
        client.run("converse(ends, 'client', 0, 4, 50)"),
        server.run("converse(ends, 'server', 0, 4, 50)"),
      ]);
    }
    const wanted = await whoIsWho(places);
    const found = inTheTable(pairing);
    for (const [cookie, pair] of found) assert.deepEqual(pair, wanted.get(cookie));
    // Two of so many may have wanted one place in the table of handshakes.
    const { remote_client = 0, ...others } = pairing.unpaired();
    assert.deepEqual(others, {});
    assert.equal(found.size + remote_client, 2 * count);
    assert.ok(found.size > count, `only ${String(found.size)} were paired`);
  });
});
