/**
 * The TCP sockets of this host in every network namespace, and who holds them, from /proc. Sees what the processes of
 * this PID namespace see, and the namespaces that ip-netns(8) has names for.
 */
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';

import { type HostSocket, parseConntrack, parseLocalAddresses, parseTcp, type Translation } from './proc-net.js';

export interface HostView {
  readonly sockets: readonly HostSocket[];
  readonly translations: readonly Translation[];
  /** Every address that a namespace has for its own. */
  readonly addresses: ReadonlySet<string>;
  /** Namespaces that were looked at. */
  readonly namespaces: number;
  /** Whether translated addresses can be followed. */
  readonly tracked: boolean;
}

/** A process with a descriptor of a socket. */
export interface Holder {
  readonly pid: number;
  /** As in /proc/PID/comm. */
  readonly program: string;
  /** Path below the cgroup v2 root; null if it can't be told. */
  readonly cgroup: string | null;
  readonly ageSeconds: number;
}

/** Where a socket can be had. */
export interface Descriptor {
  readonly pid: number;
  readonly descriptor: number;
  readonly inode: number;
}

const NAMED = '/run/netns';
/** _SC_CLK_TCK of every Linux: USER_HZ. */
const TICKS_PER_SECOND = 100;

export function readHost(): HostView {
  const sockets: HostSocket[] = [];
  const translations: Translation[] = [];
  const addresses = new Set<string>();
  const namespaces = findNamespaces();
  let tracked = false;
  for (const [netns, read] of namespaces) {
    sockets.push(...parseTcp(read('tcp'), netns), ...parseTcp(read('tcp6'), netns));
    for (const address of parseLocalAddresses(read('fib_trie'), read('if_inet6'))) addresses.add(address);
    const conntrack = read('nf_conntrack');
    tracked ||= conntrack !== '';
    translations.push(...parseConntrack(conntrack));
  }
  return { sockets, translations, addresses, namespaces: namespaces.size, tracked };
}

/** Inodes of the established TCP sockets of all namespaces. */
export function establishedInodes(): Set<number> {
  const inodes = new Set<number>();
  for (const [netns, read] of findNamespaces()) {
    for (const { state, inode } of [...parseTcp(read('tcp'), netns), ...parseTcp(read('tcp6'), netns)]) {
      if (state === 'established' && inode !== 0) inodes.add(inode);
    }
  }
  return inodes;
}

/** One descriptor of each of these sockets; those that nobody holds are left out. Lets others have their turn meanwhile. */
export async function findDescriptors(inodes: ReadonlySet<number>): Promise<Descriptor[]> {
  const found = new Map<number, Descriptor>();
  for (const pid of processes()) {
    for (const name of list(`/proc/${pid}/fd`)) {
      const inode = socketInode(pid, name);
      if (!inodes.has(inode) || found.has(inode)) continue;
      found.set(inode, { pid: Number(pid), descriptor: Number(name), inode });
    }
    await setImmediate();
  }
  return [...found.values()];
}

/** Reads a file of /proc/net inside a namespace; '' if it can't be read. */
type ReadNet = (name: string) => string;

/** By their number as the kernel shows it. */
function findNamespaces(): Map<number, ReadNet> {
  const found = new Map<number, ReadNet>();
  for (const pid of processes()) {
    const netns = Number(/\d+/.exec(readLink(`/proc/${pid}/ns/net`))?.[0]);
    if (netns > 0 && !found.has(netns)) found.set(netns, (name) => readText(`/proc/${pid}/net/${name}`));
  }
  for (const name of list(NAMED)) {
    const path = join(NAMED, name);
    const netns = statSync(path, { throwIfNoEntry: false })?.ino ?? 0;
    if (netns > 0 && !found.has(netns)) found.set(netns, (file) => readInside(path, file));
  }
  return found;
}

/** Of a namespace without a process of its own: nsenter(1) is one for a moment. */
function readInside(path: string, name: string): string {
  try {
    return execFileSync('nsenter', [`--net=${path}`, 'cat', `/proc/self/net/${name}`], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
      maxBuffer: 2 ** 30,
    });
  } catch {
    return '';
  }
}

/** Who holds these sockets, by inode; those that nobody holds are left out. */
export function findHolders(inodes: ReadonlySet<number>): Map<number, Holder[]> {
  const found = new Map<number, Holder[]>();
  if (inodes.size === 0) return found;
  const uptime = Number(readText('/proc/uptime').split(' ', 1)[0]);
  for (const pid of processes()) {
    const held = new Set<number>();
    for (const descriptor of list(`/proc/${pid}/fd`)) {
      const inode = socketInode(pid, descriptor);
      if (inodes.has(inode)) held.add(inode);
    }
    if (held.size === 0) continue;
    const holder = describeProcess(Number(pid), uptime);
    for (const inode of held) found.set(inode, [...(found.get(inode) ?? []), holder]);
  }
  return found;
}

/** Inodes of the sockets that a process holds; undefined if there is no such process. */
export function socketsOf(pid: number): Set<number> | undefined {
  if (statSync(`/proc/${String(pid)}`, { throwIfNoEntry: false }) === undefined) return undefined;
  const names = list(`/proc/${String(pid)}/fd`).map((name) => readLink(`/proc/${String(pid)}/fd/${name}`));
  return new Set(names.flatMap((name) => /^socket:\[(\d+)\]$/.exec(name)?.[1] ?? []).map(Number));
}

/** NaN for what is no socket. */
function socketInode(pid: string, descriptor: string): number {
  return Number(/^socket:\[(\d+)\]$/.exec(readLink(`/proc/${pid}/fd/${descriptor}`))?.[1]);
}

function describeProcess(pid: number, uptime: number): Holder {
  // The name may hold blanks and brackets: fields are counted from the last one.
  const stat = readText(`/proc/${String(pid)}/stat`);
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return {
    pid,
    program: readText(`/proc/${String(pid)}/comm`).trimEnd(),
    cgroup: /^0::(.*)$/m.exec(readText(`/proc/${String(pid)}/cgroup`))?.[1] ?? null,
    ageSeconds: uptime - Number(fields[19] ?? 0) / TICKS_PER_SECOND,
  };
}

function processes(): string[] {
  return list('/proc').filter((name) => /^\d+$/.test(name));
}

function list(dir: string): string[] {
  try {
    return readdirSync(dir);
  } catch {
    return []; // ended, or not ours to see
  }
}

function readLink(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return '';
  }
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
