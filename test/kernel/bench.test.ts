/** The benchmark itself, with the shortest rows: never how fast, but that it measures what it says and cleans up. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { Ajv2020 } from 'ajv/dist/2020.js';

import type { Report } from '../../bench/format.js';
import { cgroupRoot } from '../../controller/probe/host.js';
import { eventually } from './support/stack.js';
import { Child, needsRoot, ROOT, TSX } from './support/sandbox.js';

/** What a process with this id has made and not removed. */
function leftBy(pid: number, temporary: string): string[] {
  const inDir = (dir: string, prefix: string): string[] =>
    existsSync(dir) ? readdirSync(dir).filter((name) => name.startsWith(prefix)) : [];
  return [
    ...inDir('/run/netns', `slipstream-${String(pid)}-`),
    ...inDir(cgroupRoot(), `slipstream-test-${String(pid)}-`),
    ...inDir(temporary, 'slipstream-'),
  ];
}

describe('bench', function () {
  this.timeout(90_000);
  let temporary: string;

  before(function () {
    needsRoot(this);
    temporary = mkdtempSync(join(tmpdir(), 'slipstream-bench-test-'));
  });

  after(() => {
    rmSync(temporary, { recursive: true, force: true });
  });

  function bench(...args: string[]): Child {
    const env = { ...process.env, TMPDIR: temporary };
    return new Child(spawn(process.execPath, [...TSX, join(ROOT, 'bench', 'run.ts'), ...args], { stdio: 'pipe', env }));
  }

  it('measures every column, counts what was redirected, and writes what is published', async () => {
    const file = join(temporary, 'results.json');
    const child = bench('--quick', '--only', 'ping-pong+same-cpu', '--rounds', '1', '--seconds', '0.1', '--json', file);
    assert.equal(await child.exited(), 0, [...child.lines, child.stderr].join('\n'));
    const report = JSON.parse(readFileSync(file, 'utf8')) as Report;
    const schema = JSON.parse(readFileSync(join(ROOT, 'docs', 'schemas', 'benchmarks.json'), 'utf8')) as object;
    const validate = new Ajv2020({ strict: false }).compile(schema);
    assert.ok(validate(report), JSON.stringify(validate.errors));
    assert.deepEqual(new Set(report.rows.map(({ path }) => path)), new Set(['loopback', 'bridge']));
    for (const row of report.rows) {
      assert.ok(
        row.redirectedMessages > 100,
        `${row.path}: ${String(row.redirectedMessages)} messages were redirected`,
      );
      assert.ok(row.tcp > 0 && row.slipstream > 0 && (row.naive ?? 0) > 0);
      assert.equal(row.unix !== null, row.path === 'loopback');
      assert.ok(row.cpuRatio !== null && row.cpuRatio > 0);
      assert.equal(row.note, null);
    }
    assert.deepEqual(leftBy(child.pid, temporary), []);
  });

  it('leaves nothing behind when it is interrupted', async () => {
    const child = bench('--quick', '--only', 'bridge', '--rounds', '50', '--seconds', '0.1');
    const made = (): string | undefined => leftBy(child.pid, temporary).find((name) => name.endsWith('client'));
    await eventually('a namespace', made, 30_000);
    child.signal('SIGINT');
    assert.equal(await child.exited(), 130, child.stderr);
    assert.deepEqual(leftBy(child.pid, temporary), []);
  });

  it('refuses what it does not know with a sentence', async () => {
    const mistakes = [
      [['--only', 'nonsense'], /--only names no row/],
      [['--rounds', '0'], /--rounds: give a whole number/],
      [['--report', '--quick'], /--report: docs\/ shows a full run/],
      [['--sideways'], /sideways/],
    ] as const;
    await Promise.all(
      mistakes.map(async ([args, sentence]) => {
        const child = bench(...args);
        assert.equal(await child.exited(), 2);
        assert.match(child.stderr, sentence);
      }),
    );
  });
});
