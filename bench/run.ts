/**
 * The benchmark:
 *
 *   npm run bench -- [--quick] [--only NAME,...] [--json FILE] [--report] [--list]
 *
 * Leaves nothing behind, also when it is interrupted: what it loads ends with it, and servers, namespaces, cgroups and
 * files are removed.
 */
import { execFileSync } from 'node:child_process';
import { accessSync, constants, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus, release } from 'node:os';
import { delimiter, join } from 'node:path';

import { pino } from 'pino';
import yargs from 'yargs';
import { hideBin } from 'yargs/helpers';

import { gateFacts } from '../controller/probe/findings.js';
import { runGate } from '../controller/probe/gate.js';
import { cgroupRoot } from '../controller/probe/host.js';
import { whyNoContainers } from '../test/kernel/support/container.js';
import { OBJECT_FILE, ROOT, Sandbox } from '../test/kernel/support/sandbox.js';
import type { Report } from './format.js';
import { type Bench, measureOverhead, measureRow } from './measure.js';
import { Network } from './place.js';
import {
  choose,
  type Effort,
  estimate,
  FULL,
  nameOf,
  overheadRounds,
  OVERHEADS,
  type Plan,
  type PlannedRow,
  QUICK,
} from './plan.js';
import { profile, Statistics } from './profile.js';
import { documents } from './report.js';
import { measureScale } from './scale.js';
import type { Program } from './workload.js';

const PACKAGES = 'scripts/install-packages --bench';
const BPFTOOL: Program = { command: 'bpftool', package: 'bpftool' };

const options = await yargs(hideBin(process.argv))
  .scriptName('npm run bench --')
  .option('quick', { type: 'boolean', default: false, describe: 'Some rows, fewer and shorter runs: under 3 minutes' })
  .option('only', {
    type: 'string',
    requiresArg: true,
    describe:
      'Rows by the beginning of their workload, by path or placement, or several of these joined by +; overhead, scale, profile; separated by commas',
  })
  .option('json', { type: 'string', requiresArg: true, describe: 'Write the results to this file' })
  .option('report', {
    type: 'boolean',
    default: false,
    describe: 'Write docs/benchmarks.md and its charts',
  })
  .option('list', { type: 'boolean', default: false, describe: 'Print the rows and about how long they take' })
  .option('rounds', { type: 'number', requiresArg: true, describe: 'Rounds of each row' })
  .option('seconds', { type: 'number', requiresArg: true, describe: 'Seconds of each run' })
  .check(({ quick, only, report, rounds, seconds }) => {
    if (report && (quick || only !== undefined))
      throw new Error('--report: docs/ shows a full run, without --quick and --only');
    if (rounds !== undefined && !(Number.isInteger(rounds) && rounds > 0))
      throw new Error('--rounds: give a whole number from 1 on');
    if (seconds !== undefined && !(seconds > 0)) throw new Error('--seconds: give a number above 0');
    return true;
  })
  .strict()
  .fail((message, error) => {
    console.error(message || error.message);
    process.exit(2);
  })
  .parseAsync();

function refuse(sentence: string, code: number): never {
  console.error(sentence);
  process.exit(code);
}

const plan = choose(options.quick, options.only?.split(','));
const standard = options.quick ? QUICK : FULL;
const effort: Effort = { rounds: options.rounds ?? standard.rounds, seconds: options.seconds ?? standard.seconds };
const minutes = (estimate(plan, effort) / 60).toFixed(1);

if (Object.values(plan).every((rows: readonly unknown[]) => rows.length === 0)) {
  refuse(`--only names no row${options.quick ? ' of --quick' : ''}: --list prints them`, 2);
}
if (options.list) {
  for (const row of plan.rows) console.log(nameOf(row));
  for (const row of plan.overhead) console.log(`overhead: ${OVERHEADS[row.kind]}: ${nameOf(row)}`);
  for (const { pairs } of plan.scale) console.log(`scale: ${String(pairs)} pairs`);
  for (const row of plan.profile) console.log(`profile: ${nameOf(row)}`);
  console.log(`about ${minutes} minutes`);
  process.exit(0);
}
if (process.geteuid?.() !== 0) refuse('the benchmark needs root to attach the datapath: run it with sudo', 1);
if (!existsSync(OBJECT_FILE)) refuse('the datapath is not built: run scripts/build', 1);

/** Whether a program is installed: by its path, or in one of the PATH's directories. */
function isInstalled({ command }: Program): boolean {
  const candidates = command.includes('/')
    ? [command]
    : (process.env['PATH'] ?? '').split(delimiter).map((dir) => join(dir, command));
  return candidates.some((file) => {
    try {
      accessSync(file, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

function whyNot(programs: readonly Program[]): string | undefined {
  const missing = programs.find((program) => !isInstalled(program));
  return missing && `${missing.command} is not installed: it is in the package ${missing.package} (${PACKAGES})`;
}

function whyNotRow({ workload, path, placement }: PlannedRow): string | undefined {
  if (placement === 'cross-cpu' && cpus().length < 2) return 'the machine has one CPU';
  return (path === 'containers' ? whyNoContainers() : undefined) ?? whyNot(workload.needs);
}

class Failures {
  count = 0;

  /** One row that fails does not end the others. */
  async guard(name: string, report: Report, whyNot: string | undefined, measure: () => Promise<string>): Promise<void> {
    if (whyNot !== undefined) {
      report.skipped.push({ row: name, reason: whyNot });
      console.log(`skipped: ${name}: ${whyNot}`);
      return;
    }
    const start = performance.now();
    try {
      const result = await measure();
      console.log(`${name}: ${result} [${((performance.now() - start) / 1000).toFixed(0)} s]`);
    } catch (error) {
      interrupted.signal.throwIfAborted();
      const reason = error instanceof Error ? error.message : String(error);
      report.skipped.push({ row: name, reason });
      console.log(`FAILED: ${name}: ${reason}`);
      this.count++;
    }
  }
}

const interrupted = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    if (!interrupted.signal.aborted) console.error(`${signal}: cleaning up`);
    interrupted.abort(new Error('interrupted'));
  });
}

function emptyReport(): Report {
  const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string };
  return {
    meta: {
      version,
      commit: commit(),
      date: new Date().toISOString().slice(0, 10),
      kernel: release(),
      cpu: cpus()[0]?.model ?? 'unknown',
      cpus: cpus().length,
      node: process.version,
      secondsPerRun: effort.seconds,
      quick: options.quick,
    },
    rows: [],
    overhead: [],
    scale: [],
    profile: [],
    skipped: [],
  };
}

function commit(): string {
  try {
    return execFileSync('git', ['-c', `safe.directory=${ROOT}`, '-C', ROOT, 'describe', '--always', '--dirty=+'], {
      encoding: 'utf8',
      stdio: 'pipe',
    }).trim();
  } catch {
    return 'unknown';
  }
}

async function makeBench(sandbox: Sandbox): Promise<Bench> {
  const gate = await runGate({
    objectFile: OBJECT_FILE,
    socketsProgram: join(ROOT, 'build', 'probe', 'slipstream-gate'),
    cgroupRoot: cgroupRoot(),
    cgroupDir: sandbox.cgroup,
    log: pino({ level: 'silent' }),
  });
  return {
    sandbox,
    network: new Network(sandbox),
    cgroups: { server: sandbox.makeCgroup('server'), client: sandbox.makeCgroup('client') },
    elsewhere: sandbox.makeCgroup('elsewhere', 'beside'),
    gate: gateFacts(gate.masks),
    signal: interrupted.signal,
  };
}

const range = (row: { ratio: number; ratioLow: number; ratioHigh: number }): string =>
  `${row.ratio.toFixed(2)} (${row.ratioLow.toFixed(2)} to ${row.ratioHigh.toFixed(2)}) of TCP`;

async function measureAll(plan: Plan, sandbox: Sandbox, report: Report, failures: Failures): Promise<void> {
  const bench = await makeBench(sandbox);
  const { rounds, seconds } = effort;
  for (const planned of plan.rows) {
    await failures.guard(nameOf(planned), report, whyNotRow(planned), async () => {
      const row = await measureRow(bench, planned, rounds, seconds);
      report.rows.push(row);
      const others = [
        row.naiveRatio === null ? '' : `; naive ${row.naiveRatio.toFixed(2)}`,
        row.unixRatio === null ? '' : `; AF_UNIX ${row.unixRatio.toFixed(2)}`,
        row.note === null ? '' : `; ${row.note}`,
      ];
      return `${range(row)}, ${String(row.redirectedMessages)} messages redirected${others.join('')}`;
    });
  }
  for (const planned of plan.overhead) {
    await failures.guard(`${OVERHEADS[planned.kind]}: ${nameOf(planned)}`, report, whyNotRow(planned), async () => {
      const row = await measureOverhead(bench, planned, overheadRounds(rounds), seconds);
      report.overhead.push(row);
      return range(row) + (row.note === null ? '' : `; ${row.note}`);
    });
  }
  for (const { pairs } of plan.scale) {
    await failures.guard(`${String(pairs)} pairs`, report, whyNot([BPFTOOL]), async () => {
      const row = await measureScale(pairs, interrupted.signal);
      report.scale.push(row);
      return `${String(row.promoted)} of ${String(row.active)} promoted, iterator ${row.iteratorMilliseconds.toFixed(2)} ms`;
    });
  }
  if (plan.profile.length === 0) return;
  const statistics = new Statistics();
  statistics.enable();
  try {
    for (const planned of plan.profile) {
      await failures.guard(
        `programs: ${nameOf(planned)}`,
        report,
        whyNotRow(planned) ?? whyNot([BPFTOOL]),
        async () => {
          const programs = await profile(bench, planned, seconds);
          report.profile.push(...programs);
          return programs.map(({ program, nanoseconds }) => `${program} ${nanoseconds.toFixed(0)} ns`).join(', ');
        },
      );
    }
  } finally {
    statistics.restore();
  }
}

const failures = new Failures();
const report = emptyReport();
const sandbox = new Sandbox('bench');
console.log(`about ${minutes} minutes`);
try {
  await measureAll(plan, sandbox, report, failures);
} catch (error) {
  if (!interrupted.signal.aborted) throw error;
} finally {
  await sandbox.dispose();
}
if (interrupted.signal.aborted) process.exit(130);
if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(report, undefined, 2)}\n`);
if (options.report) {
  const docs = join(ROOT, 'docs');
  for (const [name, text] of Object.entries(documents(report))) writeFileSync(join(docs, name), text);
}
process.exitCode = failures.count === 0 ? 0 : 1;
