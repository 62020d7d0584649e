/** What redirection saves, as an estimate from measurements. Pure. */

/** CPU time of a round trip, both programs together, microseconds. */
export interface MeasuredSize {
  /** Bytes of a message. */
  size: number;
  tcp: number;
  direct: number;
}

/** From measurements on this host: microseconds of CPU time saved for a message of about this size; not below 0. */
export function savedPerMessage(measured: readonly MeasuredSize[], size: number): number {
  const distance = (one: MeasuredSize): number => Math.abs(Math.log2(Math.max(1, size) / one.size));
  const [nearest] = measured.toSorted((a, b) => distance(a) - distance(b));
  // A round trip is two messages.
  return nearest === undefined ? 0 : Math.max(0, (nearest.tcp - nearest.direct) / 2);
}

/** Parts of the CPU time for a message that were saved, 0 to 1. */
export interface SavedRange {
  least: number;
  most: number;
}

/**
 * What docs/benchmarks.md has in its rows of ping-pong without options, where two programs do nothing but answer each other: on another
 * machine, and more than a program that also works can save. test/unit/suggestion.test.ts compares.
 */
export const BENCHMARKED: Readonly<Record<'loopback' | 'namespaces', SavedRange>> = {
  loopback: { least: 0.03, most: 0.54 },
  namespaces: { least: 0.28, most: 0.69 },
};
