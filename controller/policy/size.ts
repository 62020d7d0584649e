const units = { MiB: 1 << 20, KiB: 1 << 10, B: 1 };

/** What a size looks like in the policy file: `65536`, `64KiB`, `1 MiB`. */
export const sizePattern = /^(\d{1,9}) ?(B|KiB|MiB)?$/;

/** Bytes in a size such as `64KiB`, or undefined if it isn't one. */
export function parseSize(text: string): number | undefined {
  const [, count, unit] = sizePattern.exec(text) ?? [];
  return count === undefined ? undefined : Number(count) * units[(unit ?? 'B') as keyof typeof units];
}

/** The shortest exact spelling of a whole number of bytes; `parseSize` reads it back. */
export function formatSize(bytes: number): string {
  const unit = bytes % units.MiB === 0 ? 'MiB' : bytes % units.KiB === 0 ? 'KiB' : 'B';
  return `${bytes / units[unit]}${unit}`;
}
