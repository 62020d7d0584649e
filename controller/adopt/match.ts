/** Which established sockets are the two ends of one connection. Pure. */

/** What the kernel tells of one socket (struct adoption in bpf/abi.h). */
export interface SeenSocket {
  /** Where it stands in the list that was asked. */
  readonly index: number;
  readonly cookie: bigint;
  /** All it sent is acknowledged and all it got is read. */
  readonly quiet: boolean;
  /** Sequence number of the next byte that it sends, and of the next that it expects. */
  readonly sequence: number;
  readonly expected: number;
  /** Bytes acknowledged (the SYN of an active opener is one of them) and received since establishment. */
  readonly acked: number;
  readonly received: number;
  /** The slot that it has, if it has one. */
  readonly slot: TiedSlot | undefined;
}

export interface TiedSlot {
  readonly slot: number;
  readonly control: number;
  readonly side: number;
  /** Of a pair that was adopted, or is being; 0 for all others. */
  readonly key: bigint;
}

/** Two ends of one connection. */
export interface Match {
  readonly client: SeenSocket;
  readonly server: SeenSocket;
  /** Server's initial sequence number << 32 | client's, as identify makes it. */
  readonly key: bigint;
}

/**
 * Pairs of sockets of which each is about to send the byte that the other expects, and has sent as many as the other
 * has received: 64 bits that nothing but a connection makes equal, and two counts. One of the two must have opened it.
 * Where more than one socket has the same two numbers, somebody chose them: none of these is matched.
 * @param sockets every established socket of the host, also those that are in use and those that have a slot
 */
export function matchSockets(sockets: readonly SeenSocket[]): Match[] {
  const byNumbers = new Map<string, SeenSocket[]>();
  for (const socket of sockets) {
    const name = `${String(socket.sequence)} ${String(socket.expected)}`;
    byNumbers.set(name, [...(byNumbers.get(name) ?? []), socket]);
  }
  const matches: Match[] = [];
  for (const [socket, ...others] of byNumbers.values()) {
    if (socket === undefined || others.length > 0) continue;
    const [peer, ...more] = byNumbers.get(`${String(socket.expected)} ${String(socket.sequence)}`) ?? [];
    if (peer === undefined || more.length > 0 || peer === socket || !isActive(socket, peer)) continue;
    if (!socket.quiet || !peer.quiet || !isPassive(peer, socket)) continue;
    matches.push({ client: socket, server: peer, key: keyOf(socket, peer) });
  }
  return matches;
}

/** tcp_snd_una_update counts the SYN of a client as a byte (RFC 4898), that of a server is none to tcp_create_openreq_child. */
const isActive = (socket: SeenSocket, peer: SeenSocket): boolean => socket.acked === peer.received + 1;
const isPassive = (socket: SeenSocket, peer: SeenSocket): boolean => socket.acked === peer.received;

function keyOf(client: SeenSocket, server: SeenSocket): bigint {
  const serverIsn = BigInt.asUintN(32, BigInt(server.sequence) - BigInt(server.acked) - 1n);
  const clientIsn = BigInt.asUintN(32, BigInt(client.sequence) - BigInt(client.acked));
  return (serverIsn << 32n) | clientIsn;
}

/** What is to be done with a match. */
export type Step =
  | { kind: 'none' }
  /** Nobody has a slot: first the client, then the server. */
  | { kind: 'claim' }
  /** The client has one from an earlier attempt. */
  | { kind: 'join'; slot: TiedSlot }
  /** Both have it; traffic came between. */
  | { kind: 'count'; slot: TiedSlot };

/** Attempts that traffic, or the end of a controller, interrupted are gone on with. */
export function nextStep({ client, server, key }: Match, state: (control: number) => string): Step {
  if (client.slot === undefined) return server.slot === undefined ? { kind: 'claim' } : { kind: 'none' };
  if (client.slot.key !== key || client.slot.side !== 0) return { kind: 'none' };
  if (server.slot === undefined) {
    return state(client.slot.control) === 'half' ? { kind: 'join', slot: client.slot } : { kind: 'none' };
  }
  const together =
    server.slot.slot === client.slot.slot && server.slot.side === 1 && state(client.slot.control) === 'joining';
  return together ? { kind: 'count', slot: client.slot } : { kind: 'none' };
}

/** Whether nothing happened between two answers, and observe's count is TCP's. */
export function isUnmoved(before: SeenSocket, after: SeenSocket | undefined, counted: number): boolean {
  return (
    after !== undefined &&
    after.quiet &&
    after.cookie === before.cookie &&
    after.sequence === before.sequence &&
    after.expected === before.expected &&
    counted === after.received
  );
}
