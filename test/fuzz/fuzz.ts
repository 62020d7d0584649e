/** Runs one target on what is near its corpus. */
import { createHash } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

import fc from 'fast-check';

import { mutated } from './mutate.js';
import { CORPUS, type Target } from './targets.js';

export interface Outcome {
  runs: number;
  /** What went wrong, with the file that the bytes were kept in. */
  failure?: string;
  remark: string | undefined;
}

/** @param limit a number of runs, or a time in milliseconds */
export async function fuzz(target: Target, seed: number, limit: { runs: number } | { time: number }): Promise<Outcome> {
  const running = await target.start();
  try {
    for (const [index, bytes] of target.seeds.entries()) {
      try {
        await running.try(bytes);
      } catch (error) {
        return { runs: index, remark: undefined, failure: `seed ${String(index)}: ${String(error)}` };
      }
    }
    const details = await fc.check(
      fc.asyncProperty(mutated(target.seeds, target.words), async (bytes) => running.try(bytes)),
      {
        seed,
        ...('runs' in limit
          ? { numRuns: limit.runs }
          : { numRuns: Number.MAX_SAFE_INTEGER, interruptAfterTimeLimit: limit.time }),
      },
    );
    const remark = running.remark?.();
    const [bytes] = details.counterexample ?? [];
    if (!details.failed || bytes === undefined) return { runs: details.numRuns, remark };
    const file = join(CORPUS, target.name, `crash-${createHash('sha256').update(bytes).digest('hex').slice(0, 12)}`);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, bytes);
    return { runs: details.numRuns, remark, failure: `${file}: ${String(details.errorInstance)}` };
  } finally {
    await running.stop();
  }
}
