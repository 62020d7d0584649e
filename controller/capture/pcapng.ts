/**
 * The blocks of pcapng that a capture consists of (IETF draft-ietf-opsawg-pcapng), little-endian, with timestamps in
 * nanoseconds. Pure functions from values to bytes.
 */

/** LINKTYPE_RAW: a packet begins with its IPv4 or IPv6 header. */
const LINK_TYPE_RAW = 101;

const BLOCK = { section: 0x0a0d0d0a, interface: 1, statistics: 5, packet: 6 } as const;
const BYTE_ORDER_MAGIC = 0x1a2b3c4d;
const COMMENT = 1;

/** Code and value of an option; undefined values are left out. */
type Options = readonly (readonly [number, Buffer | string | undefined])[];

export interface Packet {
  /** Number of its interface, in the order of their blocks. */
  interface: number;
  /** Since 1970. */
  timeNs: bigint;
  /** As far as it was kept. */
  bytes: Buffer;
  originalLength: number;
  comment?: string | undefined;
}

export interface Statistics {
  interface: number;
  startNs: bigint;
  endNs: bigint;
  received: number;
  dropped: number;
}

/** Begins a file. */
export function sectionHeader(application: string, system: string): Buffer {
  const body = Buffer.alloc(16);
  body.writeUInt32LE(BYTE_ORDER_MAGIC, 0);
  body.writeUInt16LE(1, 4); // version 1.0
  body.writeBigInt64LE(-1n, 8); // length of the section: not known
  return block(
    BLOCK.section,
    body,
    options([
      [3, system],
      [4, application],
    ]),
  );
}

export function interfaceDescription(name: string, description: string): Buffer {
  const body = Buffer.alloc(8); // snap length 0: no limit that holds for whole packets
  body.writeUInt16LE(LINK_TYPE_RAW, 0);
  const resolution = Buffer.from([9]); // 10^-9 s
  return block(
    BLOCK.interface,
    body,
    options([
      [2, name],
      [3, description],
      [9, resolution],
    ]),
  );
}

export function enhancedPacket(packet: Packet): Buffer {
  const body = Buffer.alloc(20);
  body.writeUInt32LE(packet.interface, 0);
  timestamp(packet.timeNs).copy(body, 4);
  body.writeUInt32LE(packet.bytes.length, 12);
  body.writeUInt32LE(packet.originalLength, 16);
  return block(BLOCK.packet, body, pad(packet.bytes), options([[COMMENT, packet.comment]]));
}

/** What became of an interface's packets; ends a file. */
export function interfaceStatistics(statistics: Statistics): Buffer {
  const body = Buffer.alloc(12);
  body.writeUInt32LE(statistics.interface, 0);
  timestamp(statistics.endNs).copy(body, 4);
  return block(
    BLOCK.statistics,
    body,
    options([
      [2, timestamp(statistics.startNs)],
      [3, timestamp(statistics.endNs)],
      [4, count(statistics.received)],
      [5, count(statistics.dropped)],
    ]),
  );
}

function block(type: number, ...parts: Buffer[]): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32LE(12 + parts.reduce((sum, part) => sum + part.length, 0));
  const head = Buffer.alloc(4);
  head.writeUInt32LE(type);
  return Buffer.concat([head, length, ...parts, length]);
}

function options(list: Options): Buffer {
  const parts = list.flatMap(([code, value]) => {
    if (value === undefined) return [];
    const bytes = Buffer.from(value).subarray(0, 0xffff);
    const head = Buffer.alloc(4);
    head.writeUInt16LE(code, 0);
    head.writeUInt16LE(bytes.length, 2);
    return [head, pad(bytes)];
  });
  return parts.length === 0 ? Buffer.alloc(0) : Buffer.concat([...parts, Buffer.alloc(4)]);
}

/** The higher half comes first, whatever the byte order. */
function timestamp(ns: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeUInt32LE(Number(ns >> 32n), 0);
  bytes.writeUInt32LE(Number(ns & 0xffffffffn), 4);
  return bytes;
}

function count(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

function pad(bytes: Buffer): Buffer {
  const missing = (4 - (bytes.length % 4)) % 4;
  return missing === 0 ? bytes : Buffer.concat([bytes, Buffer.alloc(missing)]);
}
