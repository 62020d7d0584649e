/** Names of cgroups. */
import { join } from 'node:path';

import { cgroupId, cgroupPath, NativeError } from '../../addon/index.js';

const CACHE_LIMIT = 4096;

/**
 * Paths below the cgroup v2 root by cgroup id. An id is never used twice and a v2
 * cgroup cannot be renamed, so an answer stays true until the cgroup is removed;
 * the cache keeps the newest 4096.
 */
export class CgroupNames {
  readonly #root: string;
  readonly #cache = new Map<bigint, string>();

  /** @param root where the cgroup v2 file system is mounted. */
  constructor(root: string) {
    this.#root = root;
  }

  /** The path, `/` for the root itself, or undefined once the cgroup is gone. */
  path(id: bigint): string | undefined {
    const known = this.#cache.get(id);
    if (known !== undefined) return known;
    const path = cgroupPath(id, this.#root);
    if (path === undefined) return undefined;
    if (this.#cache.size >= CACHE_LIMIT) this.#cache.delete(this.#cache.keys().next().value ?? id);
    this.#cache.set(id, path);
    return path;
  }

  /** Asks the kernel; the cache only tells where. */
  exists(id: bigint): boolean {
    const known = this.#cache.get(id);
    if (known === undefined) return this.path(id) !== undefined;
    if (idAt(join(this.#root, known)) === id) return true;
    this.#cache.delete(id);
    return false;
  }
}

/** The id of a cgroup directory; undefined if there is none. */
function idAt(dir: string): bigint | undefined {
  try {
    return cgroupId(dir);
  } catch (error) {
    if (error instanceof NativeError && error.code === 'ENOENT') return undefined;
    throw error;
  }
}
