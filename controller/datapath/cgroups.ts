/** Names of cgroups. */
import { join } from 'node:path';

import { cgroupId, cgroupPath, listCgroups, listCgroupsSync, NativeError } from '../../addon/index.js';
import { CgroupSearch, type Lister } from './cgroup-search.js';

const CACHE_LIMIT = 4096;

export interface CgroupNamesOptions {
  /**
   * For who must not wait: where all cgroups have to be looked through, another thread does it, and ids are pending
   * meanwhile. Called when some are no longer.
   */
  onFound?: () => void;
  /** With onFound: the cgroups could not be looked through; what is pending stays so, and it is tried again. */
  onError?: (error: unknown) => void;
}

/**
 * Paths below the cgroup v2 root by cgroup id. An id is never used twice and a v2
 * cgroup cannot be renamed, so an answer stays true until the cgroup is removed;
 * the cache keeps the newest 4096. Who may not open cgroups by their ids (CAP_DAC_READ_SEARCH)
 * looks through all of them, now and then.
 */
export class CgroupNames {
  readonly #root: string;
  readonly #options: CgroupNamesOptions;
  readonly #cache = new Map<bigint, string>();
  #search: CgroupSearch | undefined;

  /** @param root where the cgroup v2 file system is mounted. */
  constructor(root: string, options: CgroupNamesOptions = {}) {
    this.#root = root;
    this.#options = options;
  }

  /**
   * The path, `/` for the root itself, or undefined once the cgroup is gone, or as long as it is pending.
   * @param atOnce never pending, whatever it costs; not with onFound
   */
  path(id: bigint, atOnce = false): string | undefined {
    if (this.#search !== undefined) return this.#search.path(id, atOnce);
    const known = this.#cache.get(id);
    if (known !== undefined) return known;
    const path = this.#ask(id);
    if (path === undefined) return undefined;
    if (this.#cache.size >= CACHE_LIMIT) this.#cache.delete(this.#cache.keys().next().value ?? id);
    this.#cache.set(id, path);
    return path;
  }

  /** Whether it is not known yet where this cgroup is, or that it is gone. */
  isPending(id: bigint): boolean {
    return this.path(id) === undefined && this.#search?.isGone(id) === false;
  }

  /** Asks the kernel; the cache only tells where. What is pending exists. */
  exists(id: bigint): boolean {
    const known = this.#search?.path(id) ?? this.#cache.get(id);
    if (known === undefined) return this.path(id) !== undefined || this.isPending(id);
    if (isAt(id, join(this.#root, known))) return true;
    this.#cache.delete(id);
    this.#search?.remove(id);
    return false;
  }

  #ask(id: bigint): string | undefined {
    try {
      return cgroupPath(id, this.#root);
    } catch (error) {
      if (!(error instanceof NativeError) || (error.code !== 'EPERM' && error.code !== 'ENOSYS')) throw error;
      const { onFound, onError = () => undefined } = this.#options;
      const lister: Lister =
        onFound === undefined
          ? { now: () => listCgroupsSync(this.#root) }
          : { later: () => listCgroups(this.#root), onFound, onError };
      this.#search = new CgroupSearch(lister);
      return this.#search.path(id);
    }
  }
}

/** Whether the cgroup with this id is, or may be, that directory. */
function isAt(id: bigint, dir: string): boolean {
  try {
    return cgroupId(dir) === id;
  } catch (error) {
    if (!(error instanceof NativeError)) throw error;
    if (error.code === 'ENOENT') return false;
    if (error.code === 'ENAMETOOLONG') return true; // PATH_MAX; a search will tell
    throw error;
  }
}
