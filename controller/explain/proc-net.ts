/** What proc_net(5) says of TCP, parsed. Pure. */
import { formatAddress } from '../datapath/pair-table.js';

/** One end of a connection, or a listener. */
export interface Address {
  readonly address: string;
  readonly port: number;
}

/** As include/net/tcp_states.h numbers them. */
const STATES = [
  'unknown',
  'established',
  'syn-sent',
  'syn-recv',
  'fin-wait-1',
  'fin-wait-2',
  'time-wait',
  'close',
  'close-wait',
  'last-ack',
  'listen',
  'closing',
  'syn-recv',
] as const;
export type SocketState = (typeof STATES)[number];

export interface HostSocket {
  readonly netns: number;
  readonly state: SocketState;
  readonly local: Address;
  readonly remote: Address;
  /** 0 for one that no process holds. */
  readonly inode: number;
}

/** Sockets of /proc/PID/net/tcp or tcp6. @param netns whose they are */
export function parseTcp(text: string, netns: number): HostSocket[] {
  return text.split('\n').flatMap((line) => parseTcpLine(line, netns) ?? []);
}

/** Undefined for the headings, and what is no line at all. */
export function parseTcpLine(line: string, netns: number): HostSocket | undefined {
  const fields = line.trim().split(/\s+/);
  const [, local = '', remote = '', state = ''] = fields;
  if (!local.includes(':') || !remote.includes(':')) return undefined;
  return {
    netns,
    state: STATES[parseInt(state, 16)] ?? 'unknown',
    local: parseAddress(local),
    remote: parseAddress(remote),
    inode: Number(fields[9] ?? 0),
  };
}

/** `0100007F:0016`: 32-bit words in the machine's order, then the port. IPv4-mapped addresses come out as IPv4. */
function parseAddress(text: string): Address {
  const [words = '', port = ''] = text.split(':');
  const bytes = Buffer.from((words.match(/.{8}/g) ?? []).map(swapped).join(''), 'hex');
  const mapped = bytes.length === 4 ? Buffer.concat([Buffer.from('00000000000000000000ffff', 'hex'), bytes]) : bytes;
  return { address: formatAddress(mapped), port: parseInt(port, 16) };
}

/** Every machine that this runs on is little-endian. */
function swapped(word: string): string {
  return (word.match(/../g) ?? []).reverse().join('');
}

/** What the client connected to and what became of it. */
export interface Translation {
  readonly original: Flow;
  /** As the answers travel. */
  readonly reply: Flow;
}

export interface Flow {
  readonly from: Address;
  readonly to: Address;
}

/** TCP entries of /proc/PID/net/nf_conntrack that change an address or port. */
export function parseConntrack(text: string): Translation[] {
  const translations: Translation[] = [];
  for (const line of text.split('\n')) {
    if (!/\btcp\b/.test(line)) continue;
    const [original, reply] = [...line.matchAll(/src=(\S+) dst=(\S+) sport=(\d+) dport=(\d+)/g)].map(
      ([, source = '', target = '', sourcePort = '', targetPort = '']): Flow => ({
        from: { address: plainAddress(source), port: Number(sourcePort) },
        to: { address: plainAddress(target), port: Number(targetPort) },
      }),
    );
    if (original === undefined || reply === undefined) continue;
    if (!same(original.from, reply.to) || !same(original.to, reply.from)) translations.push({ original, reply });
  }
  return translations;
}

export function same(a: Address, b: Address): boolean {
  return a.port === b.port && a.address === b.address;
}

/** IPv6 as RFC 5952 writes it: conntrack writes every group in full. */
function plainAddress(text: string): string {
  return text.includes(':') ? new URL(`http://[${text}]/`).hostname.slice(1, -1) : text;
}

/** Addresses of a network namespace, from fib_trie and if_inet6. */
export function parseLocalAddresses(fibTrie: string, inet6: string): string[] {
  const found = new Set<string>();
  let candidate = '';
  for (const line of fibTrie.split('\n')) {
    candidate = /\|-- (\S+)/.exec(line)?.[1] ?? candidate;
    if (line.includes('/32 host LOCAL')) found.add(candidate);
  }
  for (const line of inet6.split('\n')) {
    const hex = /^([0-9a-f]{32}) /.exec(line)?.[1];
    if (hex !== undefined) found.add(formatAddress(Buffer.from(hex, 'hex')));
  }
  return [...found];
}
