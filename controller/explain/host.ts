/**
 * The TCP sockets of this host in every network namespace, and who holds them, from /proc. Sees what the processes of
 * this PID namespace see, and the namespaces that ip-netns(8) has names for.
 */
import { execFileSync, spawn } from 'node:child_process';
import { createReadStream, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { setImmediate } from 'node:timers/promises';

import {
  type HostSocket,
  parseConntrack,
  parseLocalAddresses,
  parseTcp,
  parseTcpLine,
  type Translation,
} from './proc-net.js';

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
  for (const [netns, { read }] of namespaces) {
    sockets.push(...parseTcp(read('tcp'), netns), ...parseTcp(read('tcp6'), netns));
    for (const address of parseLocalAddresses(read('fib_trie'), read('if_inet6'))) addresses.add(address);
    const conntrack = read('nf_conntrack');
    tracked ||= conntrack !== '';
    translations.push(...parseConntrack(conntrack));
  }
  return { sockets, translations, addresses, namespaces: namespaces.size, tracked };
}

/**
 * Inodes of the established TCP sockets of all namespaces. The kernel walks through all its sockets for each of them,
 * which takes milliseconds: others have their turn meanwhile.
 * @throws AbortError when `signal` is aborted
 */
export async function establishedInodes(signal?: AbortSignal): Promise<Set<number>> {
  const inodes = new Set<number>();
  for (const [netns, { open }] of findNamespaces()) {
    for (const name of ['tcp', 'tcp6']) {
      signal?.throwIfAborted();
      for await (const line of lines(open(name))) {
        const { state, inode = 0 } = parseTcpLine(line, netns) ?? {};
        if (state === 'established' && inode !== 0) inodes.add(inode);
      }
    }
  }
  return inodes;
}

/** Of a file that may not be there; what can't be read has none. */
async function* lines(file: Readable): AsyncGenerator<string> {
  let rest = '';
  try {
    for await (const part of file.setEncoding('utf8') as AsyncIterable<string>) {
      const [first = '', ...others] = part.split('\n');
      rest += first;
      for (const next of others) {
        yield rest;
        rest = next;
      }
    }
  } catch {
    // As of a process that has ended.
  }
}

export interface SearchOptions {
  /** Only those that a process of this cgroup holds, or of one below it; path below the cgroup v2 root. */
  below?: string | undefined;
  signal?: AbortSignal;
}

/** So many descriptors are looked at before others have their turn. */
const BATCH = 256;

/**
 * One descriptor of each of these sockets; those that nobody holds are left out. Lets others have their turn meanwhile.
 * @throws AbortError when `signal` is aborted
 */
export async function findDescriptors(
  inodes: ReadonlySet<number>,
  { below, signal }: SearchOptions = {},
): Promise<Descriptor[]> {
  const found = new Map<number, Descriptor>();
  for (const pid of processes()) {
    if (below !== undefined && !isBelow(cgroupOf(pid), below)) continue;
    for (const [index, name] of list(`/proc/${pid}/fd`).entries()) {
      const inode = socketInode(pid, name);
      if (inodes.has(inode) && !found.has(inode))
        found.set(inode, { pid: Number(pid), descriptor: Number(name), inode });
      if (index % BATCH === BATCH - 1) await setImmediate(undefined, { signal });
    }
    await setImmediate(undefined, { signal });
  }
  return [...found.values()];
}

/** What can't be told may be there. */
function isBelow(cgroup: string | null, parent: string): boolean {
  return cgroup === null || cgroup === parent || cgroup.startsWith(`${parent}/`);
}

/** How a namespace is looked into. */
interface Namespace {
  /** Reads a file of /proc/net inside; '' if it can't be read. */
  read: (name: string) => string;
  open: (name: string) => Readable;
}

/** By their number as the kernel shows it. */
function findNamespaces(): Map<number, Namespace> {
  const found = new Map<number, Namespace>();
  for (const pid of processes()) {
    const netns = Number(/\d+/.exec(readLink(`/proc/${pid}/ns/net`))?.[0]);
    if (!(netns > 0) || found.has(netns)) continue;
    const path = (name: string): string => `/proc/${pid}/net/${name}`;
    found.set(netns, { read: (name) => readText(path(name)), open: (name) => createReadStream(path(name)) });
  }
  for (const name of list(NAMED)) {
    const path = join(NAMED, name);
    const netns = statSync(path, { throwIfNoEntry: false })?.ino ?? 0;
    if (!(netns > 0) || found.has(netns)) continue;
    found.set(netns, { read: (file) => readInside(path, file), open: (file) => openInside(path, file) });
  }
  return found;
}

/** Of a namespace without a process of its own: nsenter(1) is one for a moment. */
function readInside(path: string, name: string): string {
  try {
    return execFileSync('nsenter', enter(path, name), {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
      maxBuffer: 2 ** 30,
    });
  } catch {
    return '';
  }
}

function openInside(path: string, name: string): Readable {
  const child = spawn('nsenter', enter(path, name), { stdio: ['ignore', 'pipe', 'ignore'] });
  child.once('error', (error) => child.stdout.destroy(error));
  return child.stdout;
}

const enter = (path: string, name: string): string[] => [`--net=${path}`, 'cat', `/proc/self/net/${name}`];

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
    program: programOf(pid),
    cgroup: cgroupOf(String(pid)),
    ageSeconds: uptime - Number(fields[19] ?? 0) / TICKS_PER_SECOND,
  };
}

/** As in /proc/PID/comm; '' if it has ended. */
export function programOf(pid: number): string {
  return readText(`/proc/${String(pid)}/comm`).trimEnd();
}

function cgroupOf(pid: string): string | null {
  return /^0::(.*)$/m.exec(readText(`/proc/${pid}/cgroup`))?.[1] ?? null;
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
