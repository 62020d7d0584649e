/**
 * Proves that the tests can see: builds the datapath with one invariant taken out
 * at a time and expects the tests of that invariant to fail. Arguments: parts of
 * mutant names. Prints `N passed, N failed`, where passed means caught.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

import { build, root } from './build.js';
import { type Mutant, MUTANTS } from './mutants.js';

const suiteOf = ({ suite }: Mutant): string => `test/kernel/${suite ?? 'invariants'}.test.ts`;

/** Runs the tests of an invariant against an object; true if they pass. */
function passes(object: string, suite: string, tests: string): { passed: boolean; output: string } {
  const result = spawnSync(
    process.execPath,
    [join(root, 'node_modules', 'mocha', 'bin', 'mocha.js'), '--exit', '--reporter', 'dot', '--fgrep', tests, suite],
    {
      cwd: root,
      encoding: 'utf8',
      env: { ...process.env, SLIPSTREAM_OBJECT: object, SLIPSTREAM_SOURCES: dirname(object) },
      timeout: 300_000,
    },
  );
  return { passed: result.status === 0, output: result.stdout + result.stderr };
}

/** The name of the first test that failed. */
function firstFailure(output: string): string {
  const lines = output.split('\n');
  const start = lines.findIndex((line) => /^ {2}1\) /.test(line));
  return lines
    .slice(start + 1, start + 4)
    .map((line) => line.trim())
    .filter((line) => line !== '')
    .slice(0, 2)
    .join(' ')
    .replace(/:$/, '');
}

const wanted = process.argv.slice(2);
const chosen = MUTANTS.filter(({ name }) => wanted.length === 0 || wanted.some((part) => name.includes(part)));
const work = mkdtempSync(join(tmpdir(), 'slipstream-mutants-'));
let caught = 0;
try {
  const sound = build(undefined, join(work, 'unchanged'));
  for (const pair of new Set(chosen.map((mutant) => `${suiteOf(mutant)} ${mutant.tests}`))) {
    const [suite = '', ...tests] = pair.split(' ');
    const { passed, output } = passes(sound, suite, tests.join(' '));
    if (!passed) throw new Error(`"${pair}" fails without a mutation: ${output}`);
  }
  for (const [index, mutant] of chosen.entries()) {
    const { passed, output } = passes(build(mutant, join(work, String(index))), suiteOf(mutant), mutant.tests);
    if (!passed) caught++;
    console.log(
      `${passed ? 'SURVIVED' : 'caught  '} ${String(mutant.invariant)} ${mutant.name}${passed ? '' : ` — ${firstFailure(output)}`}`,
    );
  }
} finally {
  rmSync(work, { recursive: true });
}
console.log(`${String(caught)} passed, ${String(chosen.length - caught)} failed, 0 skipped`);
process.exitCode = caught === chosen.length ? 0 : 1;
