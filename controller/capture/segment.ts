/** A TCP segment in an IPv4 or IPv6 packet, as bytes. Pure. */

/** An address and a port; 4 or 16 bytes. */
export interface SocketAddress {
  readonly address: Buffer;
  readonly port: number;
}

export interface Segment {
  readonly source: SocketAddress;
  /** Of the same family. */
  readonly destination: SocketAddress;
  readonly sequence: number;
  readonly acknowledgement: number;
  readonly flags: number;
  /** As much of the payload as is there. */
  readonly payload: Buffer;
  /** Length of the payload, at most {@link MAX_PAYLOAD}. */
  readonly length: number;
}

export const FLAG = { syn: 0x02, push: 0x08, acknowledge: 0x10 } as const;

/** Most bytes of payload that one packet can announce, of either family. */
export const MAX_PAYLOAD = 0xffff - 40;

const TCP_HEADER = 20;
const IP_PROTOCOL_TCP = 6;
const TIME_TO_LIVE = 64;

/** The packet; its TCP checksum is right unless the payload is not all there. */
export function encodeSegment(segment: Segment): Buffer {
  const ip = segment.source.address.length === 4 ? ipv4Header(segment) : ipv6Header(segment);
  const tcp = tcpHeader(segment);
  tcp.writeUInt16BE(~fold(pseudoHeaderSum(segment) + sum(tcp) + sum(segment.payload)) & 0xffff, 16);
  return Buffer.concat([ip, tcp, segment.payload]);
}

/** Of the whole packet, whatever of its payload is there. */
export function packetLength({ source, length }: Segment): number {
  return (source.address.length === 4 ? 20 : 40) + TCP_HEADER + length;
}

function ipv4Header(segment: Segment): Buffer {
  const header = Buffer.alloc(20);
  header.writeUInt8(0x45, 0);
  header.writeUInt16BE(packetLength(segment), 2);
  header.writeUInt16BE(0x4000, 6); // don't fragment
  header.writeUInt8(TIME_TO_LIVE, 8);
  header.writeUInt8(IP_PROTOCOL_TCP, 9);
  segment.source.address.copy(header, 12);
  segment.destination.address.copy(header, 16);
  header.writeUInt16BE(~fold(sum(header)) & 0xffff, 10);
  return header;
}

function ipv6Header(segment: Segment): Buffer {
  const header = Buffer.alloc(40);
  header.writeUInt8(0x60, 0);
  header.writeUInt16BE(TCP_HEADER + segment.length, 4);
  header.writeUInt8(IP_PROTOCOL_TCP, 6);
  header.writeUInt8(TIME_TO_LIVE, 7);
  segment.source.address.copy(header, 8);
  segment.destination.address.copy(header, 24);
  return header;
}

/** Without its checksum. */
function tcpHeader(segment: Segment): Buffer {
  const header = Buffer.alloc(TCP_HEADER);
  header.writeUInt16BE(segment.source.port, 0);
  header.writeUInt16BE(segment.destination.port, 2);
  header.writeUInt32BE(segment.sequence, 4);
  header.writeUInt32BE(segment.acknowledgement, 8);
  header.writeUInt8((TCP_HEADER / 4) << 4, 12);
  header.writeUInt8(segment.flags, 13);
  header.writeUInt16BE(0xffff, 14); // window: redirected bytes know none
  return header;
}

function pseudoHeaderSum({ source, destination, length }: Segment): number {
  return sum(source.address) + sum(destination.address) + IP_PROTOCOL_TCP + TCP_HEADER + length;
}

/** Of big-endian 16-bit words (RFC 1071), not folded. */
function sum(bytes: Buffer): number {
  let total = 0;
  for (let at = 0; at + 1 < bytes.length; at += 2) total += ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0);
  return bytes.length % 2 === 0 ? total : total + ((bytes.at(-1) ?? 0) << 8);
}

function fold(total: number): number {
  let folded = total;
  while (folded > 0xffff) folded = (folded % 0x10000) + Math.floor(folded / 0x10000);
  return folded;
}
