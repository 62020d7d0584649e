/** What takes long to make, kept between runs. */
import { mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';

export class Cache {
  /** Of this user, for all checkouts. */
  readonly dir = join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'slipstream-bpf', 'kernels');

  constructor() {
    mkdirSync(this.dir, { recursive: true });
    // Left by runs that were killed.
    const yesterday = Date.now() - 24 * 3600 * 1000;
    for (const name of readdirSync(this.dir).filter((entry) => entry.startsWith('part-'))) {
      const part = join(this.dir, name);
      if (statSync(part).mtimeMs < yesterday) rmSync(part, { recursive: true, force: true });
    }
  }

  path(name: string): string {
    return join(this.dir, name);
  }

  /** A folder that `make` fills, unless it is there already. */
  async folder(name: string, make: (dir: string) => Promise<void>): Promise<string> {
    const path = this.path(name);
    if (statSync(path, { throwIfNoEntry: false }) !== undefined) return path;
    const part = mkdtempSync(join(this.dir, 'part-'));
    try {
      await make(part);
      renameSync(part, path);
    } catch (error) {
      // Another run may have been quicker.
      if ((error as NodeJS.ErrnoException).code !== 'ENOTEMPTY') throw error;
    } finally {
      rmSync(part, { recursive: true, force: true });
    }
    return path;
  }
}
