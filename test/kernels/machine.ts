/** A guest in qemu under software emulation, which has no disk, no network and nothing to wait for but its own end. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import { must, run } from './shell.js';
import type { Files } from './kernels.js';

/** What a guest does in this time of the host it never ends. */
const TIMEOUT = 90 * 60 * 1000;
const MEMORY = '3G';

export interface Guest {
  kernel: Files;
  /** cpio archives, in order. */
  archives: readonly string[];
  /** For files of this run. */
  dir: string;
  onLine: (line: string) => void;
}

export interface Outcome {
  /** The JSON texts that the guest sent. */
  records: Record<string, unknown>[];
  /** Why it did not come to its end, if it did not. */
  trouble: string | undefined;
}

/**
 * With checks, so that slab caches do without cmpxchg16b: kmalloc_nolock() of Linux 6.18 and newer, which socket storage uses,
 * gives nothing from others.
 */
const SLABS = 'slab_debug=F,kmalloc-* slub_debug=F,kmalloc-*';

/**
 * Boots it and waits until it turns off. Its clock counts instructions (`-icount`): to a guest this slow machine is one of
 * ordinary speed, whatever else it has to do, so no time-out of a test or of the product needs another value. Qemu runs one
 * processor of such a guest at a time, and Linux 6.1 does not start a second one there.
 *
 * Without cmpxchg16b, whose emulation in QEMU 7.2 leaves garbage in the flags.
 */
export async function boot({ kernel, archives, dir, onLine }: Guest): Promise<Outcome> {
  const [initrd, console, results] = ['initrd', 'console', 'results'].map((name) => join(dir, name)) as [
    string,
    string,
    string,
  ];
  await must('sh', '-c', 'target=$1; shift; cat "$@" >"$target"', 'sh', initrd, kernel.modules, ...archives);
  const { code, stderr } = await run(
    'qemu-system-x86_64',
    [
      ...['-accel', 'tcg,thread=single', '-icount', 'shift=0,sleep=off', '-rtc', 'clock=vm', '-smp', '1', '-m', MEMORY],
      ...['-cpu', 'max,la57=off,cx16=off', '-machine', 'pc', '-nodefaults', '-display', 'none', '-no-reboot'],
      ...['-kernel', kernel.image, '-initrd', initrd],
      ...['-append', `console=ttyS0 loglevel=5 panic=-1 nokaslr mitigations=off tsc=reliable ${SLABS} rdinit=/init`],
      ...['-serial', `file:${console}`, '-serial', 'stdio', '-serial', `file:${results}`],
    ],
    { onLine, timeout: TIMEOUT },
  );
  const records = readIf(results)
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  if (records.some((record) => 'status' in record)) return { records, trouble: undefined };
  const last = readIf(console).trim().split('\n').slice(-40).join('\n');
  const how = code === null ? `took longer than ${TIMEOUT / 60_000} minutes` : `ended with ${code}`;
  return { records, trouble: `qemu ${how} before the tests did. ${stderr.trim()}\n${last}` };
}

function readIf(file: string): string {
  return existsSync(file) ? readFileSync(file, 'utf8') : '';
}
