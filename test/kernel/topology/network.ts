/** Network namespaces joined by veth pairs, with addresses, routes and packet filters of their own. */
import { execFileSync } from 'node:child_process';
import { statSync } from 'node:fs';

import type { Sandbox } from '../support/sandbox.js';

/** One end of a veth pair. */
export interface Interface {
  netns: string;
  device: string;
  /** With prefix lengths: 10.0.0.1/24. */
  addresses: string[];
}

/** Number of a network namespace as the kernel shows it; of the test's own without a name. */
export function netnsInode(name?: string): number {
  return statSync(name === undefined ? '/proc/self/ns/net' : `/run/netns/${name}`).ino;
}

/** Runs a command inside a network namespace and returns its output. */
export function inside(netns: string, command: string, ...args: string[]): string {
  return execFileSync('ip', ['netns', 'exec', netns, command, ...args], { encoding: 'utf8', stdio: 'pipe' });
}

/** Sets a sysctl of a network namespace, which goes with it. */
export function sysctl(netns: string, name: string, value: string | number): void {
  inside(netns, 'sysctl', '-q', '-w', `${name}=${String(value)}`);
}

/** Joins two namespaces; nothing appears in the test's own. */
export function joinByVeth(a: Interface, b: Interface): void {
  const ip = (...args: string[]): Buffer => execFileSync('ip', args);
  ip('link', 'add', a.device, 'netns', a.netns, 'type', 'veth', 'peer', 'name', b.device, 'netns', b.netns);
  for (const { netns, device, addresses } of [a, b]) {
    for (const address of addresses) {
      // Without nodad an IPv6 address can't be used for its first second or two.
      ip('-n', netns, 'address', 'add', address, 'dev', device, ...(address.includes(':') ? ['nodad'] : []));
    }
    ip('-n', netns, 'link', 'set', device, 'up');
  }
}

/** Bytes an interface has received and sent. */
export function interfaceBytes(netns: string, device: string): number {
  const json = execFileSync('ip', ['-n', netns, '-s', '-j', 'link', 'show', 'dev', device], { encoding: 'utf8' });
  const [link] = JSON.parse(json) as { stats64: { rx: { bytes: number }; tx: { bytes: number } } }[];
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
  execFileSync('ip', ['-n', server, 'route', 'add', 'default', 'via', HOST_TO_SERVER]);
  execFileSync('ip', ['-n', client, 'route', 'add', 'default', 'via', HOST_TO_CLIENT]);
  return { host, server, client };
}

/** Rules in the words of both tools. */
interface Rules {
  /** Arguments of one iptables command each. */
  iptables: string[];
  /** The body of a table. */
  nftables: string;
}

/** Installs rules with iptables, or with nft where that fails. Returns why neither works, if so. */
function install(netns: string, rules: Rules): string | undefined {
  const problems: string[] = [];
  const attempts = [
    (): void => {
      for (const rule of rules.iptables) inside(netns, 'iptables', ...rule.split(' '));
    },
    (): void => {
      inside(netns, 'nft', `table ip slipstream_test { ${rules.nftables} }`);
    },
  ];
  for (const attempt of attempts) {
    try {
      attempt();
      return undefined;
    } catch (error) {
      problems.push(String(error).split('\n').slice(0, 3).join(' '));
    }
  }
  return `no packet filter works here: ${problems.join('; ')}`;
}

/**
 * Publishes a port of another machine on every address of this one, for its own
 * programs too, and hides who connects. Returns the reason if that can't be done.
 */
export function publishPort(netns: string, port: number, to: { address: string; port: number }): string | undefined {
  const target = `${to.address}:${String(to.port)}`;
  const match = `-p tcp --dport ${String(port)} -j DNAT --to-destination ${target}`;
  const rule = `tcp dport ${String(port)} dnat to ${target}`;
  return install(netns, {
    iptables: [
      `-t nat -A PREROUTING ${match}`,
      `-t nat -A OUTPUT ${match}`,
      `-t nat -A POSTROUTING -p tcp -d ${to.address} --dport ${String(to.port)} -j MASQUERADE`,
    ],
    nftables: `
      chain in { type nat hook prerouting priority -100; ${rule}; }
      chain own { type nat hook output priority -100; ${rule}; }
      chain out { type nat hook postrouting priority 100; ip daddr ${to.address} tcp dport ${String(to.port)} masquerade; }`,
  });
}

/** Drops what asks for a connection until `allowSyn`. Returns the reason if that can't be done. */
export function dropSyn(netns: string): string | undefined {
  return install(netns, {
    iptables: ['-A INPUT -p tcp --syn -j DROP'],
    nftables: 'chain in { type filter hook input priority 0; tcp flags & (syn | ack) == syn drop; }',
  });
}

/** Drops all TCP that a namespace forwards. Returns the reason if that can't be done. */
export function dropForwarded(netns: string): string | undefined {
  return install(netns, {
    iptables: ['-I FORWARD -p tcp -j DROP'],
    nftables: 'chain through { type filter hook forward priority 0; meta l4proto tcp drop; }',
  });
}

/** Connections that the namespace's connection tracking knows to be established, by their server's port. */
export function trackedConnections(netns: string, port: number): number {
  const lines = inside(netns, 'conntrack', '-L', '-p', 'tcp', '--state', 'ESTABLISHED').split('\n');
  return lines.filter((line) => line.includes(`dport=${String(port)} `)).length;
}

export function allowSyn(netns: string): void {
  inside(netns, 'sh', '-c', 'iptables -D INPUT -p tcp --syn -j DROP || nft delete table ip slipstream_test');
}
