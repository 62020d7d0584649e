/**
 * Races between callbacks of identify, below the level of sockets: bpf/identify.bpf.c itself, compiled for a process
 * (races.h), under schedules that fast-check chooses. Any two accesses to memory may have another socket's in between.
 * RACES_SECONDS and RACES_SEED take the place of the run that CI has.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

import fc from 'fast-check';

const HERE = dirname(fileURLToPath(import.meta.url));
const ROOT = join(HERE, '..', '..');
/** The programs under test; others when scripts/mutants says so. */
const SOURCES = process.env['SLIPSTREAM_SOURCES'] ?? join(ROOT, 'bpf');

const SECONDS = Number(process.env['RACES_SECONDS'] ?? 0);
const SEED = Number(process.env['RACES_SEED'] ?? 1);
const RUNS = 4000;

const FLAGS = ['-std=gnu17', '-O1', '-g', '-Wall', '-Wextra', '-Werror', '-I', SOURCES, '-I', HERE];
/** The kernel's structures are clang's to relocate, and the stubs look at few of their arguments. */
const PROGRAM_FLAGS = ['-Wno-unknown-pragmas', '-Wno-attributes', '-Wno-unused-parameter', '-Wno-unused-variable'];

/** Compiles the programs and what runs them; returns the executable. */
function build(dir: string): string {
  const [programs, races] = [join(dir, 'programs.o'), join(dir, 'races')];
  const cc = (...args: string[]): void => {
    execFileSync('gcc', [...FLAGS, ...args], { stdio: ['ignore', 'inherit', 'inherit'] });
  };
  cc(...PROGRAM_FLAGS, '-fsanitize=thread', '-c', join(HERE, 'programs.c'), '-o', programs);
  cc(join(HERE, 'races.c'), programs, '-o', races);
  return races;
}

interface Schedule {
  slots: number;
  /** Key and flags (races.c) of each; two of one key: one of them is forged. */
  connections: { key: number; flags: number }[];
  /** Which of those that can go on does so, for how many accesses. */
  turns: { actor: number; steps: number }[];
}

const flag = (bit: number): fc.Arbitrary<number> =>
  fc.oneof({ weight: 6, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.constant(bit) });

const schedules: fc.Arbitrary<Schedule> = fc.record({
  slots: fc.integer({ min: 1, max: 3 }),
  connections: fc.array(
    fc.record({
      key: fc.integer({ min: 0, max: 5 }),
      flags: fc.tuple(flag(1), flag(2), flag(4), flag(8), flag(16)).map((bits) => bits.reduce((a, b) => a | b)),
    }),
    { minLength: 1, maxLength: 5, size: 'max' },
  ),
  turns: fc.array(
    fc.record({
      actor: fc.nat({ max: 12 }),
      // A few accesses meet another callback in its middle, many end one.
      steps: fc.oneof(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 20, max: 200 })),
    }),
    { maxLength: 80, size: 'max' },
  ),
});

const line = ({ slots, connections, turns }: Schedule): string =>
  [
    slots,
    connections.length,
    ...connections.flatMap(({ key, flags }) => [key, flags]),
    ...turns.flatMap(({ actor, steps }) => [actor, steps]),
  ].join(' ');

describe('races for the slot table', function () {
  this.timeout(60_000 + SECONDS * 1000);

  let dir: string;
  before(() => {
    dir = mkdtempSync(join(tmpdir(), 'slipstream-races-'));
  });
  after(() => {
    rmSync(dir, { recursive: true, force: true });
  });

  it(`any schedule of callbacks gives each slot back once and touches no other, seed ${String(SEED)}`, async () => {
    const races = spawn(build(dir), [], { stdio: ['pipe', 'pipe', 'inherit'] });
    const exited = once(races, 'close');
    const answers = createInterface({ input: races.stdout })[Symbol.asyncIterator]();
    const seen = { paired: 0, full: 0 };
    try {
      await fc.assert(
        fc.asyncProperty(schedules, async (schedule) => {
          races.stdin.write(`${line(schedule)}\n`);
          const answer = await answers.next();
          assert.ok(answer.done !== true, 'the process that runs schedules has ended');
          const [ok, paired, full] = answer.value.split(' ');
          assert.equal(ok, 'ok', answer.value);
          seen.paired += Number(paired);
          seen.full += Number(full);
        }),
        {
          seed: SEED,
          numRuns: SECONDS > 0 ? 2 ** 31 - 1 : RUNS,
          interruptAfterTimeLimit: SECONDS > 0 ? SECONDS * 1000 : 30_000,
        },
      );
    } finally {
      races.stdin.end();
      await exited;
    }
    // It did what it is about.
    assert.ok(seen.paired > RUNS / 4 && seen.full > RUNS / 20, JSON.stringify(seen));
  });
});
