/** Bytes near those of a corpus: the seeds of a target, changed here and there. Reproducible from a seed of fast-check. */
import fc from 'fast-check';

type Change = (bytes: Buffer) => Buffer;

/** Where in the bytes, as a share of them, so that it shrinks with them. */
const place = fc.nat(2 ** 20).map((share) => share / 2 ** 20);
const at = (bytes: Buffer, share: number): number => Math.floor(share * bytes.length);
const splice = (bytes: Buffer, from: number, length: number, by: Uint8Array): Buffer =>
  Buffer.concat([bytes.subarray(0, from), by, bytes.subarray(from + length)]);

/**
 * @param seeds at least one
 * @param words put in as they are
 */
export function mutated(seeds: readonly Buffer[], words: readonly string[]): fc.Arbitrary<Buffer> {
  const some = fc.uint8Array({ maxLength: 8 });
  const word = fc.constantFrom(...words).map((text) => Buffer.from(text));
  const seed = fc.constantFrom(...seeds);
  const change = fc.oneof(
    fc.tuple(place, fc.nat(255)).map(([share, byte]): Change => {
      return (bytes) => splice(bytes, at(bytes, share), 1, Buffer.from([byte]));
    }),
    fc.tuple(place, fc.nat(64)).map(([share, length]): Change => {
      return (bytes) => splice(bytes, at(bytes, share), length, Buffer.alloc(0));
    }),
    fc.tuple(place, fc.oneof(some, word)).map(([share, by]): Change => {
      return (bytes) => splice(bytes, at(bytes, share), 0, by);
    }),
    fc.tuple(place, fc.nat(64), place).map(([share, length, target]): Change => {
      return (bytes) => {
        const from = at(bytes, share);
        return splice(bytes, at(bytes, target), 0, bytes.subarray(from, from + length));
      };
    }),
    fc.tuple(place, seed, place).map(([share, other, start]): Change => {
      return (bytes) => Buffer.concat([bytes.subarray(0, at(bytes, share)), other.subarray(at(other, start))]);
    }),
    fc.tuple(place, fc.nat()).map(([share, value]): Change => {
      return (bytes) => {
        if (bytes.length < 4) return bytes;
        const copy = Buffer.from(bytes);
        copy.writeUInt32LE(value, Math.min(at(bytes, share) & ~3, bytes.length - 4));
        return copy;
      };
    }),
  );
  // A bias to small values would change the beginning only.
  return fc.noBias(
    fc
      .tuple(seed, fc.array(change, { minLength: 1, maxLength: 12 }))
      .map(([bytes, changes]) => changes.reduce((result, apply) => apply(result), bytes)),
  );
}
