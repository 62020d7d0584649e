/** Finding cgroups by their ids where each search looks through all of them. */
import type { CgroupList } from '../../addon/index.js';

/** A search in this thread, or one in another. */
export type Lister =
  | { now: () => CgroupList }
  | {
      later: () => Promise<CgroupList>;
      /** Ids are no longer pending. */
      onFound: () => void;
      onError: (error: unknown) => void;
    };

/** The pause after a search, as a multiple of its own time, and after one that failed, milliseconds. */
const PAUSE_FACTOR = 20;
const PAUSE_AFTER_ERROR = 1000;
/** Ids that are remembered to be gone; forgetting one costs a search. */
const GONE_LIMIT = 65_536;

/**
 * What the last complete search has found, and what it has not. An id is never used twice: a cgroup that was there and
 * is not, or that a search has not found which began after somebody asked for it, is gone for good.
 */
export class CgroupSearch {
  readonly #lister: Lister;
  readonly #clock: () => number;
  #found: ReadonlyMap<bigint, string> = new Map();
  readonly #gone = new Set<bigint>();
  /** Asked for and not found yet. */
  readonly #wanted = new Set<bigint>();
  #notBefore = -Infinity;
  #searching = false;

  /** @param clock milliseconds of a clock that is never set */
  constructor(lister: Lister, clock = (): number => performance.now()) {
    this.#lister = lister;
    this.#clock = clock;
  }

  /**
   * Undefined if it is gone, or pending.
   * @param atOnce without the pause, if the search is in this thread
   */
  path(id: bigint, atOnce = false): string | undefined {
    if (this.isGone(id)) return undefined;
    const known = this.#found.get(id);
    if (known !== undefined) return known;
    this.#wanted.add(id);
    this.#search(atOnce);
    return this.#found.get(id);
  }

  /** Id 0 stands for none. */
  isGone(id: bigint): boolean {
    return id === 0n || this.#gone.has(id);
  }

  /** Somebody has seen that it is gone. */
  remove(id: bigint): void {
    if (this.#gone.size >= GONE_LIMIT) this.#gone.delete(this.#gone.values().next().value ?? id);
    this.#gone.add(id);
  }

  /** Now, if the last one is long enough ago; in another thread, as soon as it is. */
  #search(atOnce = false): void {
    const wait = this.#notBefore - this.#clock();
    if ('now' in this.#lister) {
      if (wait > 0 && !atOnce) return;
      try {
        this.#take([...this.#wanted], this.#lister.now());
      } catch (error) {
        this.#notBefore = this.#clock() + PAUSE_AFTER_ERROR;
        throw error;
      }
    } else if (!this.#searching) {
      this.#searching = true;
      setTimeout(() => void this.#searchLater(), Math.max(0, wait)).unref();
    }
  }

  async #searchLater(): Promise<void> {
    if ('now' in this.#lister) return;
    const { later, onFound, onError } = this.#lister;
    const asked = [...this.#wanted];
    try {
      const list = await later();
      this.#take(asked, list);
    } catch (error) {
      this.#notBefore = this.#clock() + PAUSE_AFTER_ERROR;
      onError(error);
      return;
    } finally {
      this.#searching = false;
      if (this.#wanted.size > 0) this.#search();
    }
    onFound();
  }

  /** @param asked what had been asked for when the search began */
  #take(asked: readonly bigint[], { ids, paths, milliseconds }: CgroupList): void {
    this.#notBefore = this.#clock() + PAUSE_FACTOR * milliseconds;
    const found = new Map<bigint, string>();
    ids.forEach((id, index) => found.set(id, paths[index] ?? ''));
    for (const id of this.#found.keys()) if (!found.has(id)) this.remove(id);
    this.#found = found;
    for (const id of asked) if (!found.has(id)) this.remove(id);
    for (const id of this.#wanted) if (found.has(id) || this.#gone.has(id)) this.#wanted.delete(id);
  }
}
