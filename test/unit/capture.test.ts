/** From the kernel's records to packets and blocks. */
import assert from 'node:assert/strict';

import {
  enhancedPacket,
  interfaceDescription,
  interfaceStatistics,
  sectionHeader,
} from '../../controller/capture/pcapng.js';
import type { Addresses, CaptureRecord, Piece, Sent } from '../../controller/capture/record.js';
import { encodeSegment, FLAG, packetLength, type Segment } from '../../controller/capture/segment.js';
import { Selection } from '../../controller/capture/selection.js';
import { type CapturedPacket, type PairName, Streams } from '../../controller/capture/streams.js';
import { UserError } from '../../controller/errors.js';

const v4 = (last: number, port: number): Segment['source'] => ({ address: Buffer.from([10, 0, 0, last]), port });

describe('pcapng', () => {
  it('blocks say their length at both ends and are multiples of 4 bytes', () => {
    const packet = { interface: 1, timeNs: 0x1_0000_0002n, bytes: Buffer.from('abcde'), originalLength: 9 };
    const blocks = [
      sectionHeader('application', 'system'),
      interfaceDescription('direct', 'x'),
      enhancedPacket({ ...packet, comment: 'é' }),
      enhancedPacket({ ...packet, comment: undefined }),
      interfaceStatistics({ interface: 1, startNs: 1n, endNs: 2n, received: 3, dropped: 4 }),
    ];
    assert.deepEqual(
      blocks.map((block) => block.readUInt32LE(0)),
      [0x0a0d0d0a, 1, 6, 6, 5],
    );
    for (const block of blocks) {
      assert.equal(block.length % 4, 0);
      assert.equal(block.readUInt32LE(4), block.length);
      assert.equal(block.readUInt32LE(block.length - 4), block.length);
    }
  });

  it('a packet: interface, time, lengths, bytes padded', () => {
    const block = enhancedPacket({
      interface: 1,
      timeNs: 0x1_0000_0002n,
      bytes: Buffer.from('abcde'),
      originalLength: 9,
    });
    assert.deepEqual(
      [8, 12, 16, 20, 24].map((at) => block.readUInt32LE(at)),
      [1, 1, 2, 5, 9],
    );
    assert.equal(block.toString('latin1', 28, 36), 'abcde\0\0\0');
  });
});

describe('segments', () => {
  const segment: Segment = {
    source: v4(1, 1000),
    destination: v4(2, 80),
    sequence: 0xfffffff0,
    acknowledgement: 5,
    flags: FLAG.acknowledge | FLAG.push,
    payload: Buffer.from('odd'),
    length: 3,
  };

  /** RFC 1071: over everything with the checksum in place it is 0xffff. */
  const total = (bytes: Buffer): number => {
    let sum = 0;
    for (let at = 0; at < bytes.length; at += 2) sum += (bytes[at]! << 8) + (bytes[at + 1] ?? 0);
    while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
    return sum;
  };

  it('IPv4 with both checksums', () => {
    const bytes = encodeSegment(segment);
    assert.equal(bytes.length, packetLength(segment));
    assert.equal(bytes.readUInt16BE(2), 43);
    assert.equal(total(bytes.subarray(0, 20)), 0xffff);
    const pseudo = Buffer.concat([bytes.subarray(12, 20), Buffer.from([0, 6, 0, 23])]);
    assert.equal(total(Buffer.concat([pseudo, bytes.subarray(20)])), 0xffff);
    assert.equal(bytes.readUInt32BE(24), 0xfffffff0);
  });

  it('IPv6 with its checksum', () => {
    const address = (last: number): Buffer => Buffer.from([...Array.from({ length: 15 }, () => 0), last]);
    const six = { ...segment, source: { address: address(1), port: 1 }, destination: { address: address(2), port: 2 } };
    const bytes = encodeSegment(six);
    assert.equal(bytes.length, packetLength(six));
    const pseudo = Buffer.concat([bytes.subarray(8, 40), Buffer.from([0, 0, 0, 23, 0, 0, 0, 6])]);
    assert.equal(total(Buffer.concat([pseudo, bytes.subarray(40)])), 0xffff);
  });

  it('says the length of what was cut off', () => {
    const cut = { ...segment, length: 60_000 };
    assert.equal(encodeSegment(cut).length, 43);
    assert.equal(encodeSegment(cut).readUInt16BE(2), 60_040);
  });
});

describe('streams', () => {
  let written: CapturedPacket[];
  let skipped: PairName[];
  let warnings: string[];
  let alive: boolean;
  let streams: Streams;

  beforeEach(() => {
    written = [];
    skipped = [];
    warnings = [];
    alive = true;
    streams = new Streams({
      wants: ({ slot }) => slot !== 9,
      skip: (pair) => skipped.push(pair),
      exists: () => alive,
      describe: () => 'about it',
      write: (packet) => written.push(packet),
      warn: (sentence) => warnings.push(sentence),
    });
  });

  const client: Addresses = { local: v4(1, 1000), remote: v4(2, 80) };
  const server: Addresses = { local: v4(7, 8080), remote: v4(8, 2000) };
  const common = {
    timeNs: 1n,
    slot: 1,
    generation: 1,
    ends: (): [Addresses, Addresses] => [client, server],
    cgroups: [1n, 1n] as const,
    side: 0 as const,
    acknowledgement: 0,
  };
  const piece = (sequence: number, text: string, more: Partial<Piece> = {}): CaptureRecord => ({
    ...common,
    kind: 'piece',
    sequence,
    direct: false,
    size: text.length,
    offset: 0,
    length: text.length,
    data: Buffer.from(text),
    ...more,
  });
  const sent = (sequence: number, more: Partial<Sent> = {}): CaptureRecord => ({
    ...common,
    kind: 'sent',
    sequence,
    ...more,
  });
  /** Sequence number and payload of what was written. */
  const lines = (): string[] =>
    written.map(({ bytes }) => `${String(bytes.readUInt32BE(24))} ${bytes.toString('latin1', 40)}`);

  it('what was redirected is written at once, with the client as both ends know it', () => {
    streams.accept(piece(10, 'ask', { direct: true }));
    streams.accept(piece(50, 'answer', { direct: true, side: 1, acknowledgement: 13 }));
    assert.deepEqual(lines(), ['10 ask', '50 answer']);
    assert.deepEqual(
      written.map(({ bytes }) => [bytes[15], bytes.readUInt16BE(20), bytes[19], bytes.readUInt16BE(22)]),
      [
        [1, 1000, 2, 80],
        [2, 80, 1, 1000],
      ],
    );
    assert.deepEqual(
      written.map(({ comment, direct }) => [comment, direct]),
      [
        ['about it', true],
        [undefined, true],
      ],
    );
  });

  it('what TCP was given waits for the return of the call', () => {
    streams.accept(piece(10, 'ask'));
    assert.deepEqual(lines(), []);
    streams.accept(sent(13));
    assert.deepEqual(lines(), ['10 ask']);
  });

  it('or for the next message, or for the answer', () => {
    streams.accept(piece(10, 'one'));
    streams.accept(piece(13, 'two'));
    assert.deepEqual(lines(), ['10 one']);
    streams.accept(piece(50, 'answer', { side: 1, direct: true, acknowledgement: 16 }));
    assert.deepEqual(lines(), ['10 one', '13 two', '50 answer']);
  });

  it('what TCP did not take is not written, but what is sent instead', () => {
    streams.accept(piece(10, 'abcdef', { size: 12 }));
    streams.accept(piece(10, 'ghijkl', { size: 12, offset: 6 }));
    streams.accept(sent(18));
    assert.deepEqual(lines(), ['10 abcdef', '16 gh']);
    streams.accept(piece(18, 'XY'));
    streams.accept(sent(20));
    assert.deepEqual(lines().slice(2), ['18 XY']);
  });

  it('a message offered twice of which nothing was taken is written once', () => {
    streams.accept(piece(10, 'abc'));
    streams.accept(piece(10, 'abc'));
    streams.accept(sent(13));
    assert.deepEqual(lines(), ['10 abc']);
  });

  it('over the end of the sequence space', () => {
    streams.accept(piece(0xfffffffe, 'abcd'));
    streams.accept(sent(2));
    streams.accept(piece(2, 'ef', { direct: true }));
    assert.deepEqual(lines(), ['4294967294 abcd', '2 ef']);
  });

  it('a long message without its payload is several packets', () => {
    streams.accept(piece(0, '', { direct: true, size: 150_000, length: 150_000, data: Buffer.from('ab') }));
    assert.deepEqual(
      written.map(({ originalLength }) => originalLength),
      [65535, 65535, 150_000 - 2 * 65495 + 40],
    );
    assert.deepEqual(lines(), ['0 ab', '65495 ', '130990 ']);
    assert.deepEqual(
      written.map(({ bytes }) => bytes[33]! & FLAG.push),
      [0, 0, FLAG.push],
    );
  });

  it('the kernel is told to skip a pair that is not wanted', () => {
    streams.accept(piece(10, 'no', { slot: 9, direct: true }));
    assert.deepEqual(
      skipped.map(({ slot }) => slot),
      [9],
    );
    assert.deepEqual(lines(), []);
  });

  it('a living pair with the same addresses is left out', () => {
    streams.accept(piece(10, 'one', { direct: true }));
    streams.accept(piece(99, 'two', { direct: true, slot: 2 }));
    assert.deepEqual(lines(), ['10 one']);
    assert.equal(skipped.length, 1);
    assert.match(warnings.join(), /pair 2\.1 is left out: it has the addresses of pair 1\.1/);
  });

  it('a later one with the same addresses begins with a SYN', () => {
    streams.accept(piece(10, 'one', { direct: true }));
    alive = false;
    streams.accept(piece(99, 'two', { direct: true, generation: 2 }));
    assert.deepEqual(lines(), ['10 one', '98 ', '99 two']);
    assert.deepEqual(
      written.map(({ bytes }) => bytes[33]),
      [0x18, 0x02, 0x18],
    );
    assert.equal(streams.pairs, 2);
  });
});

describe('selection of pairs', () => {
  const candidate = {
    slot: 3,
    generation: 7,
    ends: [
      { local: v4(1, 1000), remote: v4(2, 80) },
      { local: v4(7, 8080), remote: v4(8, 2000) },
    ] as const,
    cgroups: [5n, 6n] as const,
  };
  const wants = (options: { pair?: string; port?: number; cgroup?: string }): boolean =>
    new Selection({ pair: undefined, port: undefined, cgroup: undefined, ...options }).wants(candidate, (id) =>
      id === 5n ? '/a/b' : undefined,
    );

  it('everything, one pair, either end’s ports, a cgroup with what is below, and all of them together', () => {
    assert.ok(wants({}));
    assert.ok(wants({ pair: '3.7' }));
    assert.ok(!wants({ pair: '3.8' }));
    for (const port of [1000, 80, 8080, 2000]) assert.ok(wants({ port }));
    assert.ok(!wants({ port: 81 }));
    assert.ok(wants({ cgroup: '/a' }));
    assert.ok(!wants({ cgroup: '/b' }));
    assert.ok(!wants({ pair: '3.7', port: 80, cgroup: '/b' }));
  });

  it('rejects what can’t be meant', () => {
    for (const options of [{ pair: '3' }, { pair: 'a.b' }, { cgroup: 'a' }]) {
      assert.throws(() => wants(options), UserError);
    }
  });
});
