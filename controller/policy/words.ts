/**
 * Words for messages.
 */

/** Text from outside, made safe and short enough to print. */
export function quote(text: string): string {
  const short = text.length > 60 ? `${text.slice(0, 60)}…` : text;
  return `'${printable(short)}'`;
}

/** Text without characters that a terminal could obey. */
export function printable(text: string): string {
  return text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, '\uFFFD');
}

/** `a, b or c`. */
export function anyOf(words: readonly string[]): string {
  return words.join(', ').replace(/, ([^,]*)$/, ' or $1');
}

/** The remedy for an unknown word: the nearest known one, or all of them. */
export function suggest(word: string, known: readonly string[]): string {
  const distances = known.map((candidate) => ({ candidate, distance: distance(word, candidate) }));
  const [nearest] = distances.sort((a, b) => a.distance - b.distance);
  return nearest && nearest.distance <= Math.max(2, nearest.candidate.length / 3)
    ? `did you mean '${nearest.candidate}'?`
    : `write ${anyOf(known)}`;
}

/** Levenshtein distance, without regard to case. */
function distance(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, index) => index);
  for (const [i, a] of Array.from(from.slice(0, 64).toLowerCase()).entries()) {
    const next = [i + 1];
    for (const [j, b] of Array.from(to.toLowerCase()).entries())
      next.push(Math.min((row[j + 1] ?? 0) + 1, (next[j] ?? 0) + 1, (row[j] ?? 0) + (a === b ? 0 : 1)));
    row = next;
  }
  return row.at(-1) ?? 0;
}
