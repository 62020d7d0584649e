/** The networks between two ends of one host. */
import { existsSync } from 'node:fs';

import type { ConnectionOptions } from '../support/endpoint.js';
import type { Sandbox } from '../support/sandbox.js';
import { Engine, PORT, PUBLISHED } from './engine.js';
import { type Filter, FILTERS, must, publishPort, translateSource, whyNotFilter } from './filter.js';
import {
  addLink,
  BridgedHost,
  CLIENT,
  type Device,
  HOST_TO_CLIENT,
  HOST_TO_SERVER,
  inside,
  ip,
  joinByVeth,
  makeContainerHost,
  SERVER,
  setUp,
  sysctl,
  TO_SERVER,
} from './network.js';

/** What an end knows of the addresses; ports that are not named are the connection's own. */
export interface Seen {
  address: string;
  remoteAddress: string;
  port?: number;
  remotePort?: number;
}

/** How to connect two ends, and what there is to see of it. */
export interface Route extends ConnectionOptions {
  client: NonNullable<ConnectionOptions['client']>;
  server: NonNullable<ConnectionOptions['server']>;
  /** An interface that the payload crosses on TCP. */
  crosses: Device;
  /** As the client and as the server see it. */
  ends: readonly [Seen, Seen];
}

export interface Topology {
  name: string;
  /** Why it can't be made here, if so. */
  missing?(sandbox: Sandbox): string | undefined;
  /** One route, or several that are there at once. */
  make(sandbox: Sandbox): Route[];
}

/** Both ends see the same addresses. */
function direct(client: string, server: string): [Seen, Seen] {
  return [
    { address: client, remoteAddress: server },
    { address: server, remoteAddress: client },
  ];
}

/** Two namespaces joined by a veth pair. */
function overVeth(
  sandbox: Sandbox,
  addresses: readonly [string, string],
  options: Partial<Route> = {},
  place = '',
): Route {
  const [client, server] = addresses;
  const netns = [sandbox.makeNetns(`client${place}`), sandbox.makeNetns(`server${place}`)] as const;
  const prefix = client.includes(':') ? 64 : 24;
  joinByVeth(
    { netns: netns[0], device: 'eth0', addresses: [`${client}/${String(prefix)}`] },
    { netns: netns[1], device: 'eth0', addresses: [`${server}/${String(prefix)}`] },
  );
  return {
    address: server,
    client: { netns: netns[0] },
    server: { netns: netns[1] },
    crosses: { netns: netns[1], device: 'eth0' },
    ends: direct(client, server),
    ...options,
  };
}

function inOneNamespace(name: string, address: string): Topology {
  return {
    name,
    make(sandbox): Route[] {
      const netns = sandbox.makeNetns('only');
      const ends = direct(address, address);
      return [{ address, client: { netns }, server: { netns }, crosses: { netns, device: 'lo' }, ends }];
    },
  };
}

function overBridge(name: string, family: 4 | 6, listen?: string): Topology {
  return {
    name,
    make(sandbox): Route[] {
      const host = new BridgedHost(sandbox);
      const [client, server] = [host.plug('client'), host.plug('server')];
      const ends = family === 4 ? direct(client.address, server.address) : direct(client.address6, server.address6);
      return [
        {
          address: ends[1].address,
          ...(listen !== undefined && { listen }),
          client: { netns: client.netns },
          server: { netns: server.netns },
          crosses: { netns: host.netns, device: server.port },
          ends,
        },
      ];
    },
  };
}

/** The host routes between the subnets of two containers, and hides who connects to a published port. */
const ROUTED_CLIENTS = [
  { who: 'host', name: 'from the host itself', address: HOST_TO_SERVER, connect: HOST_TO_SERVER },
  { who: 'client', name: 'from another container', address: CLIENT, connect: HOST_TO_CLIENT },
  { who: 'server', name: 'from the same container, there and back', address: SERVER, connect: HOST_TO_SERVER },
] as const;

function publishedWith(filter: Filter, { who, name, address, connect }: (typeof ROUTED_CLIENTS)[number]): Topology {
  return {
    name: `a published port (DNAT and MASQUERADE by ${filter}) ${name}`,
    missing: () => whyNotFilter(filter),
    make(sandbox): Route[] {
      const namespaces = makeContainerHost(sandbox);
      must(publishPort(namespaces.host, PUBLISHED, { address: SERVER, port: PORT }, filter));
      return [
        {
          listen: SERVER,
          port: PORT,
          address: connect,
          connectPort: PUBLISHED,
          client: { netns: namespaces[who] },
          server: { netns: namespaces.server },
          crosses: { netns: namespaces.host, device: TO_SERVER },
          ends: [
            { address, remoteAddress: connect, remotePort: PUBLISHED },
            { address: SERVER, port: PORT, remoteAddress: HOST_TO_SERVER },
          ],
        },
      ];
    },
  };
}

function nat66(filter: Filter): Topology {
  return {
    name: `a published port over IPv6 (NAT66 by ${filter})`,
    missing: () => whyNotFilter(filter),
    make(sandbox): Route[] {
      const host = new BridgedHost(sandbox);
      const [client, server] = [host.plug('client'), host.plug('server')];
      must(publishPort(host.netns, PUBLISHED, { address: server.address6, port: PORT }, filter));
      return [
        {
          listen: server.address6,
          port: PORT,
          address: host.address6,
          connectPort: PUBLISHED,
          client: { netns: client.netns },
          server: { netns: server.netns },
          crosses: { netns: host.netns, device: server.port },
          ends: [
            { address: client.address6, remoteAddress: host.address6, remotePort: PUBLISHED },
            { address: server.address6, port: PORT, remoteAddress: host.address6 },
          ],
        },
      ];
    },
  };
}

/** client - 10.76.1.0/24 - first - 10.76.2.0/24 - second - 10.76.3.0/24 - server; each publishes a port of the next. */
function twoNats(sandbox: Sandbox): Route[] {
  const [client, first, second, server] = ['client', 'first', 'second', 'server'].map((name) =>
    sandbox.makeNetns(name),
  ) as [string, string, string, string];
  for (const [subnet, [left, right]] of [
    [client, first],
    [first, second],
    [second, server],
  ].entries() as ArrayIterator<[number, [string, string]]>) {
    joinByVeth(
      { netns: left, device: 'right', addresses: [`10.76.${String(subnet + 1)}.1/24`] },
      { netns: right, device: 'left', addresses: [`10.76.${String(subnet + 1)}.2/24`] },
    );
  }
  for (const netns of [first, second]) sysctl(netns, 'net.ipv4.ip_forward', 1);
  must(publishPort(first, PUBLISHED, { address: '10.76.2.2', port: 9090 }));
  must(publishPort(second, 9090, { address: '10.76.3.2', port: PORT }));
  return [
    {
      listen: '10.76.3.2',
      port: PORT,
      address: '10.76.1.2',
      connectPort: PUBLISHED,
      client: { netns: client },
      server: { netns: server },
      crosses: { netns: second, device: 'left' },
      ends: [
        { address: '10.76.1.1', remoteAddress: '10.76.1.2', remotePort: PUBLISHED },
        { address: '10.76.3.2', port: PORT, remoteAddress: '10.76.3.1' },
      ],
    },
  ];
}

/** The server sees the client under an address of the host that has nothing to do with the route. */
function otherSource(sandbox: Sandbox): Route[] {
  const source = '10.79.0.1';
  const { host, client, server } = makeContainerHost(sandbox);
  ip(host, 'address', 'add', `${source}/32`, 'dev', 'lo');
  must(translateSource(host, { address: SERVER, port: PORT }, source));
  return [
    {
      address: SERVER,
      port: PORT,
      client: { netns: client },
      server: { netns: server },
      crosses: { netns: host, device: TO_SERVER },
      ends: [
        { address: CLIENT, remoteAddress: SERVER },
        { address: SERVER, remoteAddress: source },
      ],
    },
  ];
}

/** Virtual interfaces on one that the host has; nothing of the host's own stack is on the way. */
function onParent(name: string, ...type: string[]): Topology {
  const addresses = ['10.76.4.1', '10.76.4.2'] as const;
  return {
    name,
    missing: (sandbox) => {
      const netns = sandbox.makeNetns('try');
      return addLink(netns, 'parent', 'type', 'bridge') ?? addLink(netns, 'child', 'link', 'parent', 'type', ...type);
    },
    make(sandbox): Route[] {
      const host = sandbox.makeNetns('host');
      // A parent needs a carrier: what its other end is plugged into does not matter.
      joinByVeth({ netns: host, device: 'parent', addresses: [] }, { netns: host, device: 'switch', addresses: [] });
      const [client, server] = ['client', 'server'].map((end, index) => {
        const netns = sandbox.makeNetns(end);
        must(addLink(host, end, 'link', 'parent', 'type', ...type));
        ip(host, 'link', 'set', end, 'netns', netns, 'name', 'eth0');
        setUp({ netns, device: 'eth0', addresses: [`${addresses[index] ?? ''}/24`] });
        return { netns };
      }) as [{ netns: string }, { netns: string }];
      return [
        {
          address: addresses[1],
          client,
          server,
          crosses: { ...server, device: 'eth0' },
          ends: direct(...addresses),
        },
      ];
    },
  };
}

/** Two hosts with a bridge each, and between them an overlay as flannel makes it: routes, neighbours and peers are set. */
function vxlan(sandbox: Sandbox): Route[] {
  const hosts = [1, 2].map((subnet) => {
    const host = new BridgedHost(sandbox, `host${String(subnet)}`, subnet);
    return {
      host,
      pod: host.plug('pod'),
      underlay: `10.76.5.${String(subnet)}`,
      mac: `02:00:00:00:00:0${String(subnet)}`,
    };
  });
  const [first, second] = hosts as [(typeof hosts)[number], (typeof hosts)[number]];
  joinByVeth(
    { netns: first.host.netns, device: 'eth0', addresses: [`${first.underlay}/24`] },
    { netns: second.host.netns, device: 'eth0', addresses: [`${second.underlay}/24`] },
  );
  for (const [here, there] of [
    [first, second],
    [second, first],
  ] as const) {
    const { netns } = here.host;
    ip(netns, 'link', 'add', 'overlay', 'address', here.mac, 'type', 'vxlan',
      'id', '1', 'local', here.underlay, 'dev', 'eth0', 'dstport', '8472', 'nolearning'); // prettier-ignore
    setUp({ netns, device: 'overlay', addresses: [] });
    inside(netns, 'bridge', 'fdb', 'append', there.mac, 'dev', 'overlay', 'dst', there.underlay);
    ip(netns, 'neighbour', 'add', there.host.address, 'lladdr', there.mac, 'dev', 'overlay', 'nud', 'permanent');
    ip(netns, 'route', 'add', there.host.network, 'via', there.host.address, 'dev', 'overlay', 'onlink');
  }
  return [
    {
      address: second.pod.address,
      client: { netns: first.pod.netns },
      server: { netns: second.pod.netns },
      crosses: { netns: second.host.netns, device: 'overlay' },
      ends: direct(first.pod.address, second.pod.address),
    },
  ];
}

/** A service's address that IPVS has, with NAT to one backend. */
const IPVS: Topology = {
  name: 'a service of IPVS',
  missing(sandbox) {
    const netns = sandbox.makeNetns('try');
    try {
      inside(netns, 'ipvsadm', '-L', '-n');
    } catch {
      return 'this kernel has no IPVS, or ipvsadm is not installed';
    }
    return existsSync('/proc/net/ip_vs') ? undefined : 'this kernel has no IPVS';
  },
  make(sandbox) {
    const { host, client, server } = makeContainerHost(sandbox);
    const service = `${HOST_TO_CLIENT}:${String(PUBLISHED)}`;
    inside(host, 'ipvsadm', '-A', '-t', service, '-s', 'rr');
    inside(host, 'ipvsadm', '-a', '-t', service, '-r', `${SERVER}:${String(PORT)}`, '-m');
    return [
      {
        listen: SERVER,
        port: PORT,
        address: HOST_TO_CLIENT,
        connectPort: PUBLISHED,
        client: { netns: client },
        server: { netns: server },
        crosses: { netns: host, device: TO_SERVER },
        ends: [
          { address: CLIENT, remoteAddress: HOST_TO_CLIENT, remotePort: PUBLISHED },
          { address: SERVER, port: PORT, remoteAddress: CLIENT },
        ],
      },
    ];
  },
};

/** The test's own namespace, where the machine's programs are, with one veth end added and taken away. */
const OWN_NAMESPACE: Topology = {
  name: "from the machine's own namespace to a container",
  missing() {
    return ip(undefined, 'address').includes(' 198.18.76.') ? 'this machine uses addresses of 198.18.76.0' : undefined;
  },
  make(sandbox) {
    // Addresses for tests of network devices (RFC 2544), which no route on the Internet has.
    const [client, server] = ['198.18.76.1', '198.18.76.2'];
    const netns = sandbox.makeNetns('server');
    const device = `slip${String(process.pid)}`;
    sandbox.undo(() => {
      ip(undefined, 'link', 'delete', device);
    });
    joinByVeth({ device, addresses: [`${client}/30`] }, { netns, device: 'eth0', addresses: [`${server}/30`] });
    return [
      {
        address: server,
        client: {},
        server: { netns },
        crosses: { netns, device: 'eth0' },
        ends: direct(client, server),
      },
    ];
  },
};

function containers(name: string, make: (engine: Engine) => Route): Topology {
  return {
    name: `containers of runc: ${name}`,
    missing: () => Engine.missing(),
    make: (sandbox) => [make(new Engine(sandbox))],
  };
}

/** With bridge, veth and published port, as a container engine sets them up. */
export const CONTAINERS = [
  containers('over the bridge', (engine) => {
    const [client, server] = [engine.host.plug('client'), engine.host.plug('server')];
    return {
      address: server.address,
      client: { container: engine.container('client', client.netns) },
      server: { container: engine.container('server', server.netns) },
      crosses: { netns: engine.host.netns, device: server.port },
      ends: direct(client.address, server.address),
    };
  }),
  containers('through a published port, the server sees who connects', (engine) => {
    const [client, server] = [engine.host.plug('client'), engine.host.plug('server')];
    engine.publish(server.address);
    return {
      listen: '0.0.0.0',
      port: PORT,
      address: engine.host.address,
      connectPort: PUBLISHED,
      client: { container: engine.container('client', client.netns) },
      server: { container: engine.container('server', server.netns) },
      crosses: { netns: engine.host.netns, device: server.port },
      ends: [
        { address: client.address, remoteAddress: engine.host.address, remotePort: PUBLISHED },
        { address: server.address, port: PORT, remoteAddress: client.address },
      ],
    };
  }),
  containers('of one pod, through its own published port (hairpin)', (engine) => {
    const pod = engine.host.plug('pod');
    engine.publish(pod.address);
    return {
      listen: '0.0.0.0',
      port: PORT,
      address: engine.host.address,
      connectPort: PUBLISHED,
      client: { container: engine.container('client', pod.netns) },
      server: { container: engine.container('server', pod.netns) },
      crosses: { netns: engine.host.netns, device: pod.port },
      ends: [
        { address: pod.address, remoteAddress: engine.host.address, remotePort: PUBLISHED },
        { address: pod.address, port: PORT, remoteAddress: engine.host.address },
      ],
    };
  }),
  containers("from one in the host's network to one in its own", (engine) => {
    const server = engine.host.plug('server');
    return {
      address: server.address,
      client: { container: engine.container('client', engine.host.netns) },
      server: { container: engine.container('server', server.netns) },
      crosses: { netns: engine.host.netns, device: server.port },
      ends: direct(engine.host.address, server.address),
    };
  }),
] as const satisfies Topology[];

export const TOPOLOGIES: Topology[] = [
  inOneNamespace('loopback inside one namespace', '127.0.0.1'),
  inOneNamespace('loopback inside one namespace, IPv6', '::1'),
  { name: 'a veth pair', make: (sandbox) => [overVeth(sandbox, ['10.76.0.1', '10.76.0.2'])] },
  { name: 'a veth pair, IPv6', make: (sandbox) => [overVeth(sandbox, ['fd76::1', 'fd76::2'])] },
  overBridge('a bridge', 4),
  overBridge('a bridge, IPv6', 6),
  overBridge('a bridge, an IPv4 client of an IPv6 listener', 4, '::'),
  {
    name: 'from the host to a container',
    make(sandbox) {
      const { host, server } = makeContainerHost(sandbox);
      return [
        {
          address: SERVER,
          listen: '0.0.0.0',
          client: { netns: host },
          server: { netns: server },
          crosses: { netns: host, device: TO_SERVER },
          ends: direct(HOST_TO_SERVER, SERVER),
        },
      ];
    },
  },
  {
    name: 'from one container to another, which the host routes',
    make(sandbox) {
      const { host, client, server } = makeContainerHost(sandbox);
      return [
        {
          address: SERVER,
          client: { netns: client },
          server: { netns: server },
          crosses: { netns: host, device: TO_SERVER },
          ends: direct(CLIENT, SERVER),
        },
      ];
    },
  },
  OWN_NAMESPACE,
  ...FILTERS.flatMap((filter) => ROUTED_CLIENTS.map((client) => publishedWith(filter, client))),
  ...FILTERS.map(nat66),
  { name: 'two translations in a row', make: twoNats },
  { name: 'another source address (SNAT)', make: otherSource },
  onParent('macvlan', 'macvlan', 'mode', 'bridge'),
  onParent('ipvlan', 'ipvlan', 'mode', 'l2'),
  onParent('ipvlan, layer 3', 'ipvlan', 'mode', 'l3'),
  {
    name: 'an overlay network between two hosts (VXLAN)',
    missing: (sandbox) => addLink(sandbox.makeNetns('try'), 'x', 'type', 'vxlan', 'id', '1', 'dstport', '8472'),
    make: vxlan,
  },
  IPVS,
  {
    name: 'the same addresses and ports in two places at once',
    make: (sandbox) =>
      ['a', 'b'].map((place) =>
        overVeth(
          sandbox,
          ['10.76.0.1', '10.76.0.2'],
          { port: 5000, bind: { address: '10.76.0.1', port: 4000 } },
          place,
        ),
      ),
  },
  ...CONTAINERS,
];
