/** Network namespaces joined by veth pairs, with addresses, routes and packet filters of their own. */
import { execFileSync } from 'node:child_process';
import { statSync } from 'node:fs';

import type { Sandbox } from '../support/sandbox.js';

/** A network interface; without a namespace in the test's own. */
export interface Device {
  netns?: string;
  device: string;
}

/** One end of a veth pair. */
export interface Interface extends Device {
  /** With prefix lengths: 10.0.0.1/24. */
  addresses: string[];
}

/** Number of a named network namespace as the kernel shows it. */
export function netnsInode(name: string): number {
  return statSync(`/run/netns/${name}`).ino;
}

/** Runs a command inside a network namespace and returns its output. */
export function inside(netns: string, command: string, ...args: string[]): string {
  return execFileSync('ip', ['netns', 'exec', netns, command, ...args], { encoding: 'utf8', stdio: 'pipe' });
}

/** Runs ip(8) for a network namespace; without a name for the test's own. */
export function ip(netns: string | undefined, ...args: string[]): string {
  return execFileSync('ip', [...(netns === undefined ? [] : ['-n', netns]), ...args], {
    encoding: 'utf8',
    stdio: 'pipe',
  });
}

/** The same for several commands at once, one a line. */
function ipBatch(netns: string | undefined, lines: readonly string[]): void {
  const args = [...(netns === undefined ? [] : ['-n', netns]), '-batch', '-'];
  execFileSync('ip', args, { input: lines.map((line) => `${line}\n`).join(''), stdio: 'pipe' });
}

/** Sets a sysctl of a network namespace, which goes with it. */
export function sysctl(netns: string, name: string, value: string | number): void {
  inside(netns, 'sysctl', '-q', '-w', `${name}=${String(value)}`);
}

/** Joins two namespaces; nothing appears in a third. */
export function joinByVeth(a: Interface, b: Interface): void {
  const where = ({ netns }: Interface): string[] => (netns === undefined ? [] : ['netns', netns]);
  execFileSync('ip', ['link', 'add', a.device, ...where(a), 'type', 'veth', 'peer', 'name', b.device, ...where(b)]);
  for (const end of [a, b]) setUp(end);
  for (const end of [a, b]) {
    if (end.addresses.some((address) => address.includes(':'))) noticeCarrier(end);
  }
}

/** IPv6 waits until the kernel has noticed the carrier, for up to a second, unless somebody asks (`linkwatch_sync_dev`). */
function noticeCarrier({ netns, device }: Device): void {
  if (netns !== undefined) inside(netns, 'cat', `/sys/class/net/${device}/carrier`);
}

/** Gives an interface its addresses and starts it. */
export function setUp({ netns, device, addresses }: Interface): void {
  ipBatch(netns, [
    // Without nodad an IPv6 address can't be used for its first second or two.
    ...addresses.map((address) => `address add ${address} dev ${device}${address.includes(':') ? ' nodad' : ''}`),
    `link set ${device} up`,
  ]);
}

/** Makes an interface of a type that not every kernel has. Returns why it has not, if so. */
export function addLink(netns: string, device: string, ...type: string[]): string | undefined {
  try {
    ip(netns, 'link', 'add', device, ...type);
    return undefined;
  } catch (error) {
    return `no link "${type.join(' ')}" here: ${firstLine((error as { stderr?: string }).stderr ?? error)}`;
  }
}

export function firstLine(of: unknown): string {
  return String(of).split('\n')[0] ?? '';
}

/** Bytes an interface has received and sent. */
export function interfaceBytes({ netns, device }: Device): number {
  const [link] = JSON.parse(ip(netns, '-s', '-j', 'link', 'show', 'dev', device)) as {
    stats64: { rx: { bytes: number }; tx: { bytes: number } };
  }[];
  if (link === undefined) throw new Error(`no interface ${device}`);
  return link.stats64.rx.bytes + link.stats64.tx.bytes;
}

/** A host with a server's and a client's container, as a container engine lays them out. */
export interface ContainerHost {
  host: string;
  server: string;
  client: string;
}

export const HOST_TO_SERVER = '10.77.1.1';
export const HOST_TO_CLIENT = '10.77.2.1';
export const SERVER = '10.77.1.2';
export const CLIENT = '10.77.2.2';

/** The names of the host's interfaces. */
export const TO_SERVER = 'to-server';
export const TO_CLIENT = 'to-client';

/** Makes the three namespaces; the host routes between the other two. */
export function makeContainerHost(sandbox: Sandbox): ContainerHost {
  const host = sandbox.makeNetns('host');
  const server = sandbox.makeNetns('server');
  const client = sandbox.makeNetns('client');
  joinByVeth(
    { netns: host, device: TO_SERVER, addresses: [`${HOST_TO_SERVER}/24`] },
    { netns: server, device: 'eth0', addresses: [`${SERVER}/24`] },
  );
  joinByVeth(
    { netns: host, device: TO_CLIENT, addresses: [`${HOST_TO_CLIENT}/24`] },
    { netns: client, device: 'eth0', addresses: [`${CLIENT}/24`] },
  );
  sysctl(host, 'net.ipv4.ip_forward', 1);
  ip(server, 'route', 'add', 'default', 'via', HOST_TO_SERVER);
  ip(client, 'route', 'add', 'default', 'via', HOST_TO_CLIENT);
  return { host, server, client };
}

/** What a bridge knows of something that is plugged in. */
export interface Cable {
  /** The host's end. */
  port: string;
  /** Stays when it is plugged in again, as engines see to it: neighbours need not ask anew. */
  mac: string;
  address: string;
  address6: string;
}

/** A namespace that is plugged in; its end is eth0. */
export interface Plugged extends Cable {
  netns: string;
}

/** A namespace that plays a host with a bridge, as container engines lay it out. */
export class BridgedHost {
  static readonly BRIDGE = 'bridge0';
  readonly netns: string;
  readonly address: string;
  readonly address6: string;
  readonly #sandbox: Sandbox;
  readonly #subnet: number;
  readonly #name: string;
  #last = 1;

  /** @param subnet 1..255; two hosts that route to each other need different ones */
  constructor(sandbox: Sandbox, name = 'host', subnet = 1) {
    this.#sandbox = sandbox;
    this.#subnet = subnet;
    this.#name = name;
    this.netns = this.#makeNetns(name);
    this.address = this.#address(1);
    this.address6 = this.#address6(1);
    // Else it has the lowest of its ports', and changes it when that goes.
    ip(this.netns, 'link', 'add', BridgedHost.BRIDGE, 'address', '02:00:00:00:01:01', 'type', 'bridge');
    setUp({
      netns: this.netns,
      device: BridgedHost.BRIDGE,
      addresses: [`${this.address}/24`, `${this.address6}/64`],
    });
    sysctl(this.netns, 'net.ipv4.ip_forward', 1);
    sysctl(this.netns, 'net.ipv6.conf.all.forwarding', 1);
  }

  /** The bridge's network. */
  get network(): string {
    return `${this.#address(0)}/24`;
  }

  /** Makes a namespace and plugs it in. */
  plug(name: string): Plugged {
    const machine = this.#machine(this.#makeNetns(`${this.#name}-${name}`));
    this.connect(machine);
    return machine;
  }

  /**
   * Plugs in the namespace of a process, which goes with that. It has a name only
   * while `prepare` runs.
   */
  plugProcess(pid: number, prepare: (machine: Plugged) => void = () => undefined): Cable {
    const machine = this.#machine(`${this.netns}-${String(pid)}`);
    execFileSync('ip', ['netns', 'attach', machine.netns, String(pid)]);
    try {
      this.connect(machine);
      prepare(machine);
    } finally {
      execFileSync('ip', ['netns', 'delete', machine.netns]);
    }
    return machine;
  }

  #machine(netns: string): Plugged {
    const last = ++this.#last;
    const [address, address6] = [this.#address(last), this.#address6(last)];
    return { netns, port: `port${String(last)}`, mac: `02:00:00:00:02:0${String(last)}`, address, address6 };
  }

  /** Whether a cable still leads there: it goes with the namespace at its other end. */
  hasPort({ port }: Cable): boolean {
    return ip(this.netns, '-br', 'link').includes(`${port}@`);
  }

  /** Gives a namespace the cable to the bridge, its addresses and routes; again after `disconnect`. */
  connect({ netns, port, mac, address, address6 }: Plugged): void {
    joinByVeth(
      { netns: this.netns, device: port, addresses: [] },
      { netns, device: 'eth0', addresses: [`${address}/24`, `${address6}/64`] },
    );
    ip(netns, 'link', 'set', 'eth0', 'address', mac);
    ipBatch(this.netns, [
      `link set ${port} master ${BridgedHost.BRIDGE}`,
      // What bridge-nf-call-iptables translates does not leave the bridge: back to where it came from, too.
      `link set ${port} type bridge_slave hairpin on`,
    ]);
    noticeCarrier({ netns: this.netns, device: BridgedHost.BRIDGE });
    this.route({ netns });
  }

  /** Starts an interface again that was taken down, which had cost it its IPv6 address and its routes. */
  start(machine: Plugged): void {
    setUp({ ...machine, device: 'eth0', addresses: [`${machine.address6}/64`] });
    noticeCarrier({ ...machine, device: 'eth0' });
    this.route(machine);
  }

  /** The default routes of what is plugged in. */
  route({ netns }: Pick<Plugged, 'netns'>): void {
    ipBatch(netns, [`route replace default via ${this.address}`, `route replace default via ${this.address6}`]);
  }

  /** Lets the host's own programs send to an address that the bridge does not have: a rule may know better. */
  reaches(address: string): void {
    ip(this.netns, 'route', 'add', address, 'dev', BridgedHost.BRIDGE);
  }

  /** Takes the cable away, with both its ends. */
  disconnect({ port }: Cable): void {
    ip(this.netns, 'link', 'delete', port);
  }

  /** One whose link-local addresses can be used at once. */
  #makeNetns(name: string): string {
    const netns = this.#sandbox.makeNetns(name);
    sysctl(netns, 'net.ipv6.conf.default.accept_dad', 0);
    return netns;
  }

  #address(host: number): string {
    return `10.78.${String(this.#subnet)}.${String(host)}`;
  }

  #address6(host: number): string {
    return `fd78:${String(this.#subnet)}::${String(host)}`;
  }
}

/** Connections that the namespace's connection tracking knows to be established, by their server's port. */
export function trackedConnections(netns: string, port: number): number {
  const lines = inside(netns, 'conntrack', '-L', '-p', 'tcp', '--state', 'ESTABLISHED').split('\n');
  return lines.filter((line) => line.includes(`dport=${String(port)} `)).length;
}
