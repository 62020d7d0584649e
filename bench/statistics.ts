/** Medians of ratios and how sure they are. Pure. */

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1
    ? (sorted[middle] ?? NaN)
    : ((sorted[middle - 1] ?? NaN) + (sorted[middle] ?? NaN)) / 2;
}

/** Of positive numbers. */
export function geometricMean(values: readonly number[]): number {
  return Math.exp(values.reduce((sum, value) => sum + Math.log(value), 0) / values.length);
}

/**
 * A 95 % bootstrap interval of the median: of 2000 samples drawn with
 * replacement, the 2.5th and 97.5th percentile of their medians.
 */
export function medianInterval(values: readonly number[]): [low: number, high: number] {
  let state = 0x9e3779b9;
  const random = (): number => {
    // xorshift32: the same interval for the same runs.
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
  const medians = Array.from({ length: 2000 }, () =>
    median(values.map(() => values[Math.floor(random() * values.length)] ?? NaN)),
  ).sort((a, b) => a - b);
  return [medians[50] ?? NaN, medians[1949] ?? NaN];
}
