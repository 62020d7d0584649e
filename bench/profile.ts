/** Nanoseconds of each BPF program's run, as the kernel counts them. */
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';

import { loadSlipstream } from './datapaths.js';
import type { Profile } from './format.js';
import { type Bench, withPlace } from './measure.js';
import { nameOf, type PlannedRow } from './plan.js';

const SYSCTL = '/proc/sys/kernel/bpf_stats_enabled';

/** The kernel's statistics of all programs, which cost something themselves; `restore` puts the setting back. */
export class Statistics {
  readonly #before = readFileSync(SYSCTL, 'utf8').trim();

  enable(): void {
    writeFileSync(SYSCTL, '1');
  }

  restore(): void {
    writeFileSync(SYSCTL, this.#before);
  }
}

interface ShownProgram {
  id: number;
  name?: string;
  run_time_ns?: number;
  run_cnt?: number;
}

/** Runs a row once under the datapath. Statistics must be on. */
export async function profile(bench: Bench, row: PlannedRow, seconds: number): Promise<Profile[]> {
  return withPlace(bench, row, async (place) => {
    const known = new Set(shownPrograms().map(({ id }) => id));
    const loaded = loadSlipstream(bench.sandbox.cgroup, bench.gate, row.workload.policy);
    try {
      await row.workload.start?.(place);
      await row.workload.run(place, 'tcp', seconds);
      return shownPrograms()
        .filter(({ id, name }) => !known.has(id) && name !== undefined)
        .map(({ name = '', run_cnt: runs = 0, run_time_ns: time = 0 }) => ({
          workload: nameOf(row),
          program: name,
          runs,
          nanoseconds: runs === 0 ? 0 : time / runs,
        }));
    } finally {
      await loaded.remove();
    }
  });
}

function shownPrograms(): ShownProgram[] {
  return JSON.parse(execFileSync('bpftool', ['-j', 'prog', 'show'], { encoding: 'utf8' })) as ShownProgram[];
}
