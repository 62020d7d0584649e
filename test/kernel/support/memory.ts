/** A small memory cgroup for the processes with connections. */
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';

const V1 = '/sys/fs/cgroup/memory';
const PROCESS_LIMIT = 512 * 2 ** 20;
const SOCKETS_WIDE = 2 ** 30;
/** Below what the connections like to have queued. */
const SOCKETS_NARROW = 2 ** 19;

export class MemoryLimit {
  /** Why there is none. */
  readonly skipped: string | undefined;
  readonly #dir: string;

  constructor(name: string) {
    this.#dir = join(V1, name);
    if (!existsSync(join(V1, 'memory.kmem.tcp.limit_in_bytes'))) {
      this.skipped = `no memory controller with a limit for sockets in ${V1}`;
      return;
    }
    mkdirSync(this.#dir);
    this.#write('memory.limit_in_bytes', PROCESS_LIMIT);
    // Sockets are accounted for from their making on, and only where a limit was set before.
    this.#write('memory.kmem.tcp.limit_in_bytes', SOCKETS_WIDE);
  }

  add(pid: number): void {
    if (this.skipped === undefined) this.#write('cgroup.procs', pid);
  }

  /** Limits what sockets may hold; false if they hold so much that the kernel refuses. */
  narrow(): boolean {
    try {
      this.#write('memory.kmem.tcp.limit_in_bytes', SOCKETS_NARROW);
      return true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EBUSY') return false;
      throw error;
    }
  }

  widen(): void {
    if (this.skipped === undefined) this.#write('memory.kmem.tcp.limit_in_bytes', SOCKETS_WIDE);
  }

  /** Bytes that sockets hold. Beyond the limit the kernel lets them have what it can't refuse. */
  held(): number {
    return this.skipped === undefined ? this.#read('memory.kmem.tcp.usage_in_bytes') : 0;
  }

  async remove(): Promise<void> {
    if (this.skipped !== undefined) return;
    // Dying processes leave it a moment after their end; the kernel has no event for that.
    for (const deadline = Date.now() + 5000; ;) {
      try {
        rmdirSync(this.#dir);
        return;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EBUSY' || Date.now() > deadline) throw error;
        await pause(10);
      }
    }
  }

  #read(file: string): number {
    return Number(readFileSync(join(this.#dir, file), 'utf8'));
  }

  #write(file: string, value: number): void {
    writeFileSync(join(this.#dir, file), String(value));
  }
}
