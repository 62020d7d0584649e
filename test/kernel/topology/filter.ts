/** Packet filters and address translation of a network namespace, in the words of each tool. */
import { execFileSync } from 'node:child_process';

import { firstLine, inside } from './network.js';

/** The tools: iptables over nftables, iptables with its own modules, nftables. */
export const FILTERS = ['iptables-nft', 'iptables-legacy', 'nft'] as const;
/** `iptables` is whichever of the two the machine prefers. */
export type Filter = (typeof FILTERS)[number] | 'iptables';

/** An address and a port of TCP. */
export interface Service {
  address: string;
  port: number;
}

interface Rules {
  family: 4 | 6;
  /** Arguments of one iptables command each. */
  iptables: string[];
  /** The body of a table. */
  nftables: string;
}

/** Throws the reason why something can't be done. */
export function must(problem: string | undefined): void {
  if (problem !== undefined) throw new Error(problem);
}

/** Why a tool can't be used, if so. */
export function whyNotFilter(filter: Filter): string | undefined {
  try {
    execFileSync(filter, ['--version'], { stdio: 'pipe' });
    return undefined;
  } catch (error) {
    return `${filter} does not run: ${firstLine(error)}`;
  }
}

/** Name of the tests' own table of nftables. */
const TABLE = 'slipstream_test';

/** Installs rules, without a tool's name with iptables, or with nft where that fails. Returns why it can't be done, if so. */
function install(netns: string, rules: Rules, filter?: Filter): string | undefined {
  const problems: string[] = [];
  for (const tool of filter === undefined ? (['iptables', 'nft'] as const) : [filter]) {
    try {
      if (tool === 'nft') inside(netns, 'nft', `table ${nftFamily(rules)} ${TABLE} { ${rules.nftables}\n}`);
      else for (const rule of rules.iptables) inside(netns, commandOf(tool, rules), ...rule.split(' '));
      return undefined;
    } catch (error) {
      problems.push(`${tool}: ${firstLine((error as { stderr?: string }).stderr ?? error)}`);
    }
  }
  return `no packet filter works here: ${problems.join('; ')}`;
}

const nftFamily = ({ family }: Pick<Rules, 'family'>): string => (family === 6 ? 'ip6' : 'ip');

const commandOf = (tool: Filter, { family }: Pick<Rules, 'family'>): string =>
  family === 6 ? tool.replace(/^ip/, 'ip6') : tool;

const familyOf = ({ address }: Pick<Service, 'address'>): 4 | 6 => (address.includes(':') ? 6 : 4);

const written = ({ address, port }: Service): string =>
  `${address.includes(':') ? `[${address}]` : address}:${String(port)}`;

/**
 * Publishes a port of another machine on every address of this one, for its own
 * programs too, and hides who connects. Returns the reason if that can't be done.
 */
export function publishPort(netns: string, port: number, to: Service, filter?: Filter): string | undefined {
  const family = familyOf(to);
  const match = `-p tcp --dport ${String(port)} -j DNAT --to-destination ${written(to)}`;
  const rule = `tcp dport ${String(port)} dnat to ${written(to)}`;
  return install(
    netns,
    {
      family,
      iptables: [
        `-t nat -A PREROUTING ${match}`,
        `-t nat -A OUTPUT ${match}`,
        `-t nat -A POSTROUTING -p tcp -d ${to.address} --dport ${String(to.port)} -j MASQUERADE`,
      ],
      nftables: `
      chain in { type nat hook prerouting priority -100; ${rule}; }
      chain own { type nat hook output priority -100; ${rule}; }
      chain out { type nat hook postrouting priority 100; ${nftFamily({ family })} daddr ${to.address} tcp dport ${String(to.port)} masquerade; }`,
    },
    filter,
  );
}

/**
 * The same as container engines do it: the server sees who connects, unless that is
 * the container itself. Answers inside one bridge are translated only with bridge-nf-call-iptables.
 */
export function publishFromBridge(netns: string, port: number, to: Service, filter?: Filter): string | undefined {
  const match = `-p tcp -m addrtype --dst-type LOCAL --dport ${String(port)} -j DNAT --to-destination ${written(to)}`;
  const rule = `fib daddr type local tcp dport ${String(port)} dnat to ${written(to)}`;
  return install(
    netns,
    {
      family: 4,
      iptables: [
        `-t nat -A PREROUTING ${match}`,
        `-t nat -A OUTPUT ${match}`,
        `-t nat -A POSTROUTING -p tcp -s ${to.address} -d ${to.address} --dport ${String(to.port)} -j MASQUERADE`,
      ],
      nftables: `
      chain in { type nat hook prerouting priority -100; ${rule}; }
      chain own { type nat hook output priority -100; ${rule}; }
      chain out { type nat hook postrouting priority 100; ip saddr ${to.address} ip daddr ${to.address} tcp dport ${String(to.port)} masquerade; }`,
    },
    filter,
  );
}

/** Gives what leaves for a machine another source address. Returns the reason if that can't be done. */
export function translateSource(netns: string, to: Service, source: string, filter?: Filter): string | undefined {
  return install(
    netns,
    {
      family: 4,
      iptables: [
        `-t nat -A POSTROUTING -p tcp -d ${to.address} --dport ${String(to.port)} -j SNAT --to-source ${source}`,
      ],
      nftables: `
      chain out { type nat hook postrouting priority 100; ip daddr ${to.address} tcp dport ${String(to.port)} snat to ${source}; }`,
    },
    filter,
  );
}

/**
 * An address that nobody has and that stands for one of two backends, by chance, as kube-proxy makes it.
 * Backends see who connects if it is one of `pods`. Returns the reason if that can't be done.
 */
export function clusterAddress(
  netns: string,
  service: Service,
  backends: readonly [Service, Service],
  pods: string,
  filter: Filter,
): string | undefined {
  const at = `-p tcp -d ${service.address} --dport ${String(service.port)}`;
  const nft = `ip daddr ${service.address} tcp dport ${String(service.port)}`;
  return install(
    netns,
    {
      family: 4,
      iptables: [
        ...['SERVICES', 'SERVICE', 'HIDE', 'BACKEND-0', 'BACKEND-1', 'OUT'].map((chain) => `-t nat -N ${chain}`),
        '-t nat -A PREROUTING -j SERVICES',
        '-t nat -A OUTPUT -j SERVICES',
        '-t nat -A POSTROUTING -j OUT',
        '-t nat -A HIDE -j MARK --or-mark 0x4000',
        `-t nat -A SERVICES ${at} -j SERVICE`,
        `-t nat -A SERVICE ${at} ! -s ${pods} -j HIDE`,
        '-t nat -A SERVICE -m statistic --mode random --probability 0.5 -j BACKEND-0',
        '-t nat -A SERVICE -j BACKEND-1',
        ...backends.flatMap((backend, index) => [
          `-t nat -A BACKEND-${String(index)} -s ${backend.address} -j HIDE`,
          `-t nat -A BACKEND-${String(index)} -p tcp -j DNAT --to-destination ${written(backend)}`,
        ]),
        '-t nat -A OUT -m mark ! --mark 0x4000/0x4000 -j RETURN',
        '-t nat -A OUT -j MASQUERADE --random-fully',
      ],
      nftables: `
      ${backends
        .map(
          (backend, index) => `chain backend${String(index)} {
        ip saddr ${backend.address} meta mark set mark or 0x4000
        meta l4proto tcp dnat to ${written(backend)}
      }`,
        )
        .join('\n')}
      chain service {
        ip saddr != ${pods} meta mark set mark or 0x4000
        numgen random mod 2 vmap { 0 : goto backend0, 1 : goto backend1 }
      }
      chain in { type nat hook prerouting priority -100; ${nft} goto service; }
      chain own { type nat hook output priority -100; ${nft} goto service; }
      chain out { type nat hook postrouting priority 100; meta mark and 0x4000 != 0 masquerade fully-random; }`,
    },
    filter,
  );
}

/** Publishes no port any more; connections that are known stay translated, as long as the table has other rules. */
export function unpublishPorts(netns: string): void {
  for (const [chain, name] of [
    ['PREROUTING', 'in'],
    ['OUTPUT', 'own'],
  ] as const) {
    inside(netns, 'sh', '-c', `iptables -t nat -F ${chain} || nft flush chain ip ${TABLE} ${name}`);
  }
}

/** Drops what asks for a connection until `allowSyn`. Returns the reason if that can't be done. */
export function dropSyn(netns: string): string | undefined {
  return install(netns, {
    family: 4,
    iptables: ['-A INPUT -p tcp --syn -j DROP'],
    nftables: 'chain in { type filter hook input priority 0; tcp flags & (syn | ack) == syn drop; }',
  });
}

export function allowSyn(netns: string): void {
  inside(netns, 'sh', '-c', `iptables -D INPUT -p tcp --syn -j DROP || nft delete table ip ${TABLE}`);
}

/** Drops all TCP that a namespace forwards. Returns the reason if that can't be done. */
export function dropForwarded(netns: string): string | undefined {
  return install(netns, {
    family: 4,
    iptables: ['-I FORWARD -p tcp -j DROP'],
    nftables: 'chain through { type filter hook forward priority 0; meta l4proto tcp drop; }',
  });
}
