/**
 * From the kernel's records to packets that reassemble: which pairs, whose addresses, in what order. Pure but for what
 * it is given.
 *
 * What TCP is given is held back until it is known how much of it TCP took: until the sending call has returned, the
 * next message begins, or the reader has received it. What is redirected is taken whole.
 */
import { formatAddress, otherSide, type Side } from '../datapath/pair-table.js';
import type { Addresses, CaptureRecord, Piece } from './record.js';
import { encodeSegment, FLAG, MAX_PAYLOAD, packetLength, type Segment, type SocketAddress } from './segment.js';

/** A packet for the file. */
export interface CapturedPacket {
  /** CLOCK_MONOTONIC. */
  timeNs: bigint;
  direct: boolean;
  bytes: Buffer;
  originalLength: number;
  comment: string | undefined;
}

/** What tells one pair from all others, before and after. */
export interface PairName {
  slot: number;
  generation: number;
}

/** What is asked about a pair when its first record arrives. */
export interface Candidate extends PairName {
  ends: readonly [Addresses, Addresses];
  cgroups: readonly [bigint, bigint];
}

export interface StreamsOptions {
  wants: (pair: Candidate) => boolean;
  /** The pair is not wanted; the kernel may stop telling of it. */
  skip: (pair: PairName) => void;
  /** Whether the pair is still there. */
  exists: (pair: PairName) => boolean;
  /** What to say of the pair beside its first packet. */
  describe: (pair: Candidate) => string;
  write: (packet: CapturedPacket) => void;
  warn: (sentence: string) => void;
}

interface Conversation extends PairName {
  wanted: boolean;
  /** As the client sees it: the one pair of addresses for both directions. */
  client: SocketAddress;
  server: SocketAddress;
  /** For the next packet. */
  comment: string | undefined;
  /** Not yet known to have been taken, by sender. */
  held: [Piece[], Piece[]];
}

export class Streams {
  readonly #options: StreamsOptions;
  /** By slot. */
  readonly #conversations = new Map<number, Conversation>();
  /** Who has had these addresses, by {@link addressesOf}. */
  readonly #seen = new Map<string, PairName>();

  constructor(options: StreamsOptions) {
    this.#options = options;
  }

  /** How many pairs are in the file. */
  get pairs(): number {
    return this.#pairs;
  }
  #pairs = 0;

  accept(record: CaptureRecord): void {
    const known = this.#conversations.get(record.slot);
    const conversation = known?.generation === record.generation ? known : this.#begin(record);
    if (!conversation.wanted) return;
    const { side } = record;
    this.#confirm(conversation, side, record.sequence);
    this.#confirm(conversation, otherSide(side), record.acknowledgement);
    if (record.kind === 'sent') return;
    // What is left of an earlier message was not taken; the program knows and may send it again.
    const held = conversation.held[side];
    if (record.offset === 0 || held[0]?.sequence !== record.sequence) held.length = 0;
    if (record.direct) this.#write(conversation, record);
    else held.push(record);
  }

  #begin(record: CaptureRecord): Conversation {
    const { slot, generation, cgroups } = record;
    const ends = record.ends();
    const candidate = { slot, generation, ends, cgroups };
    const [{ local: client, remote: server }] = ends;
    const conversation: Conversation = {
      slot,
      generation,
      wanted: this.#options.wants(candidate),
      client,
      server,
      comment: undefined,
      held: [[], []],
    };
    this.#conversations.set(slot, conversation);
    const key = addressesOf(conversation);
    const before = this.#seen.get(key);
    if (conversation.wanted && before !== undefined && this.#options.exists(before)) {
      // In one file they would be taken for one connection.
      conversation.wanted = false;
      this.#options.warn(
        `pair ${pairId(conversation)} is left out: it has the addresses of pair ${pairId(before)}, ` +
          `in another network namespace; capture it alone with --pair ${pairId(conversation)}`,
      );
    }
    if (!conversation.wanted) {
      this.#options.skip(conversation);
      return conversation;
    }
    this.#pairs++;
    this.#seen.set(key, { slot, generation });
    if (before !== undefined) this.#writeStart(conversation, record);
    conversation.comment = this.#options.describe(candidate);
    return conversation;
  }

  /** Everything before this sequence number was taken. */
  #confirm(conversation: Conversation, side: Side, sequence: number): void {
    const held = conversation.held[side];
    for (let piece = held[0]; piece !== undefined; piece = held[0]) {
      const taken = (sequence - piece.sequence - piece.offset) | 0;
      if (taken <= 0) return;
      if (taken < piece.length) {
        const data = piece.data;
        this.#write(conversation, { ...piece, length: taken, data: data.subarray(0, taken) });
        held[0] = {
          ...piece,
          offset: piece.offset + taken,
          length: piece.length - taken,
          data: data.subarray(Math.min(taken, data.length)),
        };
        return;
      }
      this.#write(conversation, piece);
      held.shift();
    }
  }

  #write(conversation: Conversation, piece: Piece): void {
    const ends = piece.offset + piece.length === piece.size;
    // Only one whose payload was not wanted is longer than a packet.
    for (let at = 0; at < piece.length; at += MAX_PAYLOAD) {
      const length = Math.min(MAX_PAYLOAD, piece.length - at);
      this.#writeSegment(conversation, piece, {
        sequence: (piece.sequence + piece.offset + at) >>> 0,
        acknowledgement: piece.acknowledgement,
        flags: FLAG.acknowledge | (ends && at + length === piece.length ? FLAG.push : 0),
        payload: piece.data.subarray(at, at + length),
        length,
      });
    }
  }

  /** Tells readers of the file that these addresses belong to another connection now. */
  #writeStart(conversation: Conversation, { side, timeNs, sequence }: CaptureRecord): void {
    conversation.comment = 'made by capture: the connection that had these addresses has ended, this is another one';
    this.#writeSegment(
      conversation,
      { side, timeNs, direct: false },
      {
        sequence: (sequence - 1) >>> 0,
        acknowledgement: 0,
        flags: FLAG.syn,
        payload: Buffer.alloc(0),
        length: 0,
      },
    );
  }

  #writeSegment(
    conversation: Conversation,
    { side, timeNs, direct }: Pick<Piece, 'side' | 'timeNs' | 'direct'>,
    tcp: Omit<Segment, 'source' | 'destination'>,
  ): void {
    const { client, server, comment } = conversation;
    const [source, destination] = side === 0 ? [client, server] : [server, client];
    const segment = { ...tcp, source, destination };
    conversation.comment = undefined;
    this.#options.write({
      timeNs,
      direct,
      bytes: encodeSegment(segment),
      originalLength: packetLength(segment),
      comment,
    });
  }
}

/** As `pairs` prints it. */
export function pairId({ slot, generation }: PairName): string {
  return `${String(slot)}.${String(generation)}`;
}

/** For people: 127.0.0.1:80 or [::1]:80. */
export function formatSocket({ address, port }: SocketAddress): string {
  const text = address.length === 4 ? address.join('.') : `[${formatAddress(address)}]`;
  return `${text}:${String(port)}`;
}

function addressesOf({ client, server }: Conversation): string {
  return `${client.address.toString('hex')} ${String(client.port)} ${server.address.toString('hex')} ${String(server.port)}`;
}
