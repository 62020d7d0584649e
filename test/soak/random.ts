/** A seeded generator; each part of the soak has a stream of its own, so that their timing does not mix their draws. */
export class Random {
  #state: number;

  constructor(seed: number, stream: string) {
    this.#state = seed;
    for (const character of stream) this.#state = Math.imul(this.#state ^ character.charCodeAt(0), 0x01000193);
  }

  /** mulberry32: uniform in [0, 1). */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  /** A whole number, both limits included. */
  between(low: number, high: number): number {
    return low + Math.floor(this.next() * (high - low + 1));
  }

  chance(percent: number): boolean {
    return this.next() * 100 < percent;
  }

  pick<T>(from: readonly T[]): T {
    const picked = from[this.between(0, from.length - 1)];
    if (picked === undefined) throw new RangeError('nothing to pick from');
    return picked;
  }

  /** A key of `weights`, as often as its weight says. */
  weighted<K extends string>(weights: Readonly<Partial<Record<K, number>>>): K {
    const entries = Object.entries(weights) as [K, number][];
    let at = this.next() * entries.reduce((sum, [, weight]) => sum + weight, 0);
    for (const [key, weight] of entries) {
      at -= weight;
      if (at < 0) return key;
    }
    return entries[0]![0];
  }
}

/** Draws each kind as often as it says before any comes again, in random order: no kind is missing from a short run. */
export class Deck<K extends string> {
  readonly #random: Random;
  readonly #all: K[];
  #left: K[] = [];

  constructor(random: Random, copies: Readonly<Record<K, number>>) {
    this.#random = random;
    this.#all = (Object.entries(copies) as [K, number][]).flatMap(([kind, count]) => Array<K>(count).fill(kind));
  }

  draw(): K {
    if (this.#left.length === 0) this.#left = [...this.#all];
    return this.#left.splice(this.#random.between(0, this.#left.length - 1), 1)[0]!;
  }
}
