/** The table of docs/guarantees.md that lists what an application can notice. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { ROOT } from '../support/sandbox.js';

interface Row {
  call: string;
  /** Kernel functions, each followed by (). */
  because: string;
}

const rows: Row[] = readFileSync(join(ROOT, 'docs', 'guarantees.md'), 'utf8')
  .split('\n## ')
  .filter((section) => section.startsWith('What an application can notice'))
  .flatMap((section) => section.split('\n'))
  .filter((line) => line.startsWith('| ') && !/^\| (call or event|---) /.test(line))
  .map((line) => {
    const [, call = '', , , because = ''] = line.split(/(?<!\\)\|/).map((cell) => cell.trim());
    return { call, because };
  });

/** The row whose first cell starts like this. @throws if there is not exactly one, or it names no function. */
export function admitted(call: string): Row {
  const found = rows.filter((row) => row.call.startsWith(call));
  const [row] = found;
  assert.ok(row !== undefined && found.length === 1, `docs/guarantees.md has ${String(found.length)} rows for ${call}`);
  assert.match(row.because, /`\w+\(\)`/, `docs/guarantees.md names no kernel function for ${call}`);
  return row;
}
admitted.rows = rows;

/** Rows about a window of a few instructions, which nothing outside the kernel can hold open, or about short memory, which the soak makes. */
export const RACES: readonly string[] = [
  '`send()` racing',
  'a thread that has blocked in `recv()` since before promotion',
  '`shutdown(SHUT_WR)` by one thread',
  "`send()` when a memory cgroup's limit",
];
