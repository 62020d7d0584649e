/** What may stand between two ends and read, answer or repeat their segments. */
import { inside, sysctl } from './network.js';

/** Packet filter rules of one tool. */
export type Rules = { iptables: readonly string[] } | { nftables: string };

/** Installs rules in a network namespace. Returns why that can't be done, if so. */
export function install(netns: string, rules: Rules): string | undefined {
  try {
    if ('nftables' in rules) inside(netns, 'nft', rules.nftables);
    else for (const rule of rules.iptables) inside(netns, 'iptables', ...rule.split(' '));
    return undefined;
  } catch (error) {
    const { stderr = '' } = error as { stderr?: string };
    return `the packet filter refuses: ${stderr.trim().split('\n')[0] ?? String(error)}`;
  }
}

/** Takes an iptables rule away again. */
export function remove(netns: string, rule: string): void {
  inside(netns, 'iptables', ...rule.replace(/-[AI] /, '-D ').split(' '));
}

/** Rules that let a namespace answer the SYN of forwarded connections to a port itself, before the server hears of them. */
export function synProxy(port: number): Record<'iptables' | 'nft', Rules> {
  const to = `-p tcp --dport ${String(port)}`;
  return {
    iptables: {
      iptables: [
        `-t raw -A PREROUTING ${to} --syn -j CT --notrack`,
        `-A FORWARD ${to} -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY --sack-perm --timestamp --wscale 7 --mss 1460`,
        '-A FORWARD -m conntrack --ctstate INVALID -j DROP',
      ],
    },
    nft: {
      nftables: `table ip slipstream_test {
        chain first { type filter hook prerouting priority raw; tcp dport ${String(port)} tcp flags syn notrack; }
        chain through {
          type filter hook forward priority filter;
          tcp dport ${String(port)} ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm
          ct state invalid drop
        }
      }`,
    },
  };
}

/** What a SYN proxy asks of connection tracking. */
export function prepareSynProxy(netns: string): void {
  sysctl(netns, 'net.netfilter.nf_conntrack_tcp_loose', 0);
}

/** How many clients a namespace's SYN proxy has let through. */
export function synProxied(netns: string): number {
  // One line a CPU, in hexadecimal; cookie_valid follows entries, syn_received, cookie_invalid.
  const lines = inside(netns, 'cat', '/proc/net/stat/synproxy').trim().split('\n').slice(1);
  return lines.reduce((sum, line) => sum + parseInt(line.trim().split(/\s+/)[3] ?? '0', 16), 0);
}

/** Rules that have the FTP helper read the control connections to a port. */
export function ftpHelper(port: number): Record<'iptables' | 'nft', Rules> {
  return {
    iptables: { iptables: [`-t raw -A PREROUTING -p tcp --dport ${String(port)} -j CT --helper ftp`] },
    nft: {
      nftables: `table ip slipstream_test {
        ct helper ftp { type "ftp" protocol tcp; }
        chain in { type filter hook prerouting priority filter; tcp dport ${String(port)} ct helper set "ftp"; }
      }`,
    },
  };
}
