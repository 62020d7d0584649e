/** Which sockets and pairs a target means, and which two sockets are one connection. Pure. */
import type { PairRecord } from '../datapath/pair-table.js';
import type { HostView } from './host.js';
import { type Address, type Flow, type HostSocket, same } from './proc-net.js';
import type { Target } from './target.js';

/** Where the other end of a connection is. */
export type Whereabouts =
  /** Its socket was found on this host. */
  | 'here'
  /** More than one socket of this host could be it. */
  | 'ambiguous'
  /** Its address is one of this host's, and nobody who can be seen has the socket. */
  | 'hidden'
  | 'elsewhere';

export interface FoundConnection {
  socket: HostSocket;
  other: HostSocket | undefined;
  whereabouts: Whereabouts;
}

export interface Found {
  pairs: PairRecord[];
  connections: FoundConnection[];
  listeners: HostSocket[];
  /** Connections that are over and held by nobody. */
  timeWait: number;
}

/** How many translations are followed: host, container and a virtual machine between them need three. */
const HOPS = 4;

/**
 * @param records pairs of the table
 * @param inodes sockets of the process that is meant, if one is
 */
export function find(
  target: Target,
  host: HostView,
  records: readonly PairRecord[],
  inodes: ReadonlySet<number> = new Set(),
): Found {
  const wanted = host.sockets.filter((socket) => concerns(target, socket, inodes));
  const byKey = new Map(records.flatMap((record) => record.ends.map((end) => [pairKey(end), record] as const)));
  const pairs = new Set(records.filter((record) => pairConcerns(target, record)));
  const connections: FoundConnection[] = [];
  const seen = new Set<HostSocket>();
  for (const socket of wanted) {
    if (socket.state === 'listen' || socket.state === 'time-wait' || seen.has(socket)) continue;
    const pair = byKey.get(socketKey(socket));
    if (pair !== undefined) {
      pairs.add(pair);
      continue;
    }
    const { other, whereabouts } = otherEnd(socket, host);
    // Of two ends that both match, the server's is met again as the other one.
    if (other !== undefined) seen.add(other);
    connections.push({ socket, other, whereabouts });
  }
  const listeners = wanted.filter(({ state }) => state === 'listen');
  return {
    pairs: records.filter((record) => pairs.has(record)),
    connections,
    // With SO_REUSEPORT one process, or several, listen many times.
    listeners: [...new Map(listeners.map((socket) => [socketKey(socket), socket])).values()],
    timeWait: wanted.filter(({ state }) => state === 'time-wait').length,
  };
}

function concerns(target: Target, { local, remote, inode, state }: HostSocket, inodes: ReadonlySet<number>): boolean {
  switch (target.kind) {
    case 'number':
      return local.port === target.number || remote.port === target.number;
    case 'port':
      return local.port === target.port || remote.port === target.port;
    case 'address':
      return (
        same(local, target.address) || same(remote, target.address) || (state === 'listen' && isAny(local, target))
      );
    case 'process':
      return inodes.has(inode);
    case 'pair':
      return false;
  }
}

/** A listener on every address is meant by each of them. */
function isAny(local: Address, target: Target & { kind: 'address' }): boolean {
  return (local.address === '0.0.0.0' || local.address === '::') && local.port === target.address.port;
}

function pairConcerns(target: Target, { slot, control, ends }: PairRecord): boolean {
  switch (target.kind) {
    case 'number':
      return ends.some(({ port, remotePort }) => port === target.number || remotePort === target.number);
    case 'port':
      return ends.some(({ port, remotePort }) => port === target.port || remotePort === target.port);
    case 'address':
      return ends.some(
        ({ address, port, remoteAddress, remotePort }) =>
          same({ address, port }, target.address) || same({ address: remoteAddress, port: remotePort }, target.address),
      );
    case 'process':
      return ends.some(({ pid }) => pid === target.pid);
    case 'pair':
      return slot === target.slot && control.generation === target.generation;
  }
}

/** The socket at the other end, with address translation undone where connection tracking can be read. */
export function otherEnd(
  socket: HostSocket,
  { sockets, translations, addresses }: Pick<HostView, 'sockets' | 'translations' | 'addresses'>,
): Omit<FoundConnection, 'socket'> {
  const flows: Flow[] = [{ from: socket.local, to: socket.remote }];
  for (let hop = 0; hop < flows.length && hop < HOPS; hop++) {
    const flow = flows[hop];
    if (flow === undefined) break;
    for (const { original, reply } of translations) {
      const next = sameFlow(flow, original) ? turned(reply) : sameFlow(flow, reply) ? turned(original) : undefined;
      if (next !== undefined && !flows.some((known) => sameFlow(known, next))) flows.push(next);
    }
  }
  const candidates = sockets.filter(
    (other) =>
      other !== socket &&
      other.state !== 'listen' &&
      other.state !== 'time-wait' &&
      flows.some(({ from, to }) => same(other.local, to) && same(other.remote, from)) &&
      // Loopback does not leave its namespace.
      (!isLoopback(socket.local.address) || other.netns === socket.netns),
  );
  const near = candidates.filter(({ netns }) => netns === socket.netns);
  const [other, another] = near.length > 0 ? near : candidates;
  if (other !== undefined && another === undefined) return { other, whereabouts: 'here' };
  if (another !== undefined) return { other: undefined, whereabouts: 'ambiguous' };
  const hidden = flows.some(({ to }) => isLoopback(to.address) || addresses.has(to.address));
  return { other: undefined, whereabouts: hidden ? 'hidden' : 'elsewhere' };
}

/** The same packets as their receiver's answers travel. */
const turned = ({ from, to }: Flow): Flow => ({ from: to, to: from });

const sameFlow = (a: Flow, b: Flow): boolean => same(a.from, b.from) && same(a.to, b.to);

const isLoopback = (address: string): boolean => address.startsWith('127.') || address === '::1';

/** Tells a socket from every other one of the host. */
export function socketKey({ netns, local, remote }: HostSocket): string {
  return [netns, local.address, local.port, remote.address, remote.port].join(' ');
}

/** The same of a pair's end. */
export function pairKey(end: PairRecord['ends'][number]): string {
  return [end.netns, end.address, end.port, end.remoteAddress, end.remotePort].join(' ');
}

/** The socket of a pair's end. */
export function socketOf(end: PairRecord['ends'][number], sockets: readonly HostSocket[]): HostSocket | undefined {
  const key = pairKey(end);
  return sockets.find((socket) => socketKey(socket) === key);
}
