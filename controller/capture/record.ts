/** What the kernel's half of a capture tells (struct capture_record in bpf/abi.h). */
import { type Field, type Layout, Records } from '../datapath/layout.js';
import { decodeControl, isMapped, type Side } from '../datapath/pair-table.js';
import type { SocketAddress } from './segment.js';

/** One end as its socket sees it. */
export interface Addresses {
  local: SocketAddress;
  remote: SocketAddress;
}

/** Which pair, which side, and where in both streams. */
interface Position {
  /** CLOCK_MONOTONIC. */
  timeNs: bigint;
  slot: number;
  generation: number;
  /** By side. */
  ends: () => readonly [Addresses, Addresses];
  cgroups: readonly [bigint, bigint];
  side: Side;
  /** Of the message's first byte, or of the next one to be sent; counted from the handshake, as if TCP carried all. */
  sequence: number;
  /** What this side has received, likewise. */
  acknowledgement: number;
}

/** A piece of a message, before TCP or the peer has it. */
export interface Piece extends Position {
  kind: 'piece';
  direct: boolean;
  /** Bytes of the message. */
  size: number;
  /** Of this piece in the message. */
  offset: number;
  /** Bytes of the message that it stands for. */
  length: number;
  /** As many of them as were wanted. */
  data: Buffer;
}

/** A call that sends has returned. */
export interface Sent extends Position {
  kind: 'sent';
}

export type CaptureRecord = Piece | Sent;

export class RecordDecoder {
  readonly #size: number;
  readonly #f;
  readonly #data: number;
  readonly #direct: number;

  /** @param layout of the capture's object file */
  constructor(layout: Layout) {
    const one = (path: string): Field => layout.field('capture_record', path);
    const two = (path: string): readonly [Field, Field] => [one(path.replace('%', '0')), one(path.replace('%', '1'))];
    this.#size = layout.size('capture_record');
    this.#data = layout.value('capture_type', 'CAPTURE_DATA');
    this.#direct = layout.value('direction_path', 'PATH_DIRECT');
    this.#f = {
      timeNs: one('time_ns'),
      cgroup: two('cgroup[%]'),
      local: two('address[%].local'),
      remote: two('address[%].remote'),
      localPort: two('address[%].local_port'),
      remotePort: two('address[%].remote_port'),
      slot: one('slot'),
      control: one('control'),
      sequence: one('sequence'),
      acknowledgement: one('acknowledgement'),
      size: one('size'),
      offset: one('offset'),
      length: one('length'),
      captured: one('captured'),
      type: one('type'),
      side: one('side'),
      path: one('path'),
    };
  }

  decode(bytes: Buffer): CaptureRecord {
    const records = new Records(bytes.buffer as ArrayBuffer, this.#size, bytes.byteOffset);
    const get = (field: Field): number => records.get(0, field);
    const f = this.#f;
    const end = (side: Side): Addresses => ({
      local: socketAddress(records.bytes(0, f.local[side]), get(f.localPort[side])),
      remote: socketAddress(records.bytes(0, f.remote[side]), get(f.remotePort[side])),
    });
    const position: Position = {
      timeNs: records.getBig(0, f.timeNs),
      slot: get(f.slot),
      generation: decodeControl(get(f.control)).generation,
      ends: () => [end(0), end(1)],
      cgroups: [records.getBig(0, f.cgroup[0]), records.getBig(0, f.cgroup[1])],
      side: get(f.side) === 0 ? 0 : 1,
      sequence: get(f.sequence),
      acknowledgement: get(f.acknowledgement),
    };
    if (get(f.type) !== this.#data) return { ...position, kind: 'sent' };
    return {
      ...position,
      kind: 'piece',
      direct: get(f.path) === this.#direct,
      size: get(f.size),
      offset: get(f.offset),
      length: get(f.length),
      data: bytes.subarray(this.#size, this.#size + get(f.captured)),
    };
  }
}

/** The kernel keeps IPv4 as v4-mapped. */
function socketAddress(bytes: Buffer, port: number): SocketAddress {
  return { address: isMapped(bytes) ? bytes.subarray(12) : bytes, port };
}
