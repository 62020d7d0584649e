/** Content to compare: the same bytes for the same number, no two alike. */
import { createCipheriv, createHash, randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';

/** Sizes around what the datapath and the kernel treat apart. */
export const SIZES = [1, 100, 1448, 4096, 16384, 65536, 262144, 524288, 557057, 1048576, 8388608];

/** `size` bytes that don't repeat, by a number that chooses them. */
export function content(size: number, which = 0): Buffer {
  const key = Buffer.alloc(32, 'slipstream');
  const start = Buffer.alloc(16);
  start.writeUInt32BE(which);
  return createCipheriv('aes-256-ctr', key, start).update(Buffer.alloc(size));
}

export function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** Every file below a directory with its hash. */
export function hashes(dir: string): Map<string, string> {
  return new Map(
    readdirSync(dir, { withFileTypes: true, recursive: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name))
      .map((file): [string, string] => [relative(dir, file), sha256(readFileSync(file))])
      .sort(([a], [b]) => (a < b ? -1 : 1)),
  );
}

/** A tree of 200 MiB: few large files, many small ones. */
export function makeTree(dir: string): void {
  const put = (folder: string, count: number, size: () => number): void => {
    mkdirSync(join(dir, folder), { recursive: true });
    for (let n = 0; n < count; n++) writeFileSync(join(dir, folder, String(n)), randomBytes(size()));
  };
  put('large', 2, () => 64 * 2 ** 20);
  put('middle', 60, () => 2 ** 20);
  put('small', 1500, () => 1 + Math.floor(Math.random() * 16384));
}
