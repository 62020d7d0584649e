/**
 * The benchmark. Each workload runs in turn on plain TCP (in a cgroup that nothing
 * is attached to), under slipstream-bpf, and on a UNIX socket, again and again;
 * what counts is the ratio within one round, because machines drift.
 *
 *   npm run bench -- [--quick] [--only WORKLOAD,...] [--json FILE] [--report]
 */
import { writeFileSync } from 'node:fs';
import { cpus, release } from 'node:os';
import { join } from 'node:path';

import yargs from 'yargs';
import { hideBin } from 'yargs/helpers';

import { Daemon } from '../test/kernel/support/daemon.js';
import { ROOT, Sandbox } from '../test/kernel/support/sandbox.js';
import { chart, table } from './report.js';
import { median, medianInterval } from './statistics.js';
import { WORKLOADS, type Workload } from './workloads.js';

export interface Row {
  workload: string;
  path: string;
  size: number;
  placement: string;
  clients: number;
  unit: string;
  /** Medians of the rates. */
  tcp: number;
  slipstream: number;
  /** A naive sockmap: not measured yet. */
  naive: null;
  /** Null where there is no such path. */
  unix: number | null;
  /** Median of slipstream/tcp, with its 95 % interval. */
  ratio: number;
  ratioLow: number;
  ratioHigh: number;
  /** Median of unix/tcp. */
  unixRatio: number | null;
  runs: number;
  /** CPU seconds a unit of work, slipstream/tcp. */
  cpuRatio: number | null;
}

export interface Report {
  meta: {
    version: string;
    date: string;
    kernel: string;
    cpu: string;
    cpus: number;
    node: string;
    secondsPerRun: number;
  };
  rows: Row[];
}

async function measure(
  workload: Workload,
  sandbox: Sandbox,
  plain: string,
  daemon: Daemon,
  runs: number,
  seconds: number,
): Promise<Row> {
  const samples = { tcp: [] as number[], slipstream: [] as number[], unix: [] as number[], cpu: [] as number[] };
  const before = await daemon.metric('slipstream_redirected_messages_total');
  for (let run = 0; run < runs; run++) {
    const tcp = await workload.run(sandbox, { kind: 'tcp', cgroup: plain }, seconds);
    const fast = await workload.run(sandbox, { kind: 'tcp', cgroup: sandbox.cgroup }, seconds);
    samples.tcp.push(tcp.rate);
    samples.slipstream.push(fast.rate);
    if (workload.path === 'loopback') {
      const path = join(sandbox.dir, `bench-${String(run)}`);
      samples.unix.push((await workload.run(sandbox, { kind: 'unix', path }, seconds)).rate);
    }
    if (tcp.cpu !== null && fast.cpu !== null) samples.cpu.push(fast.cpu / tcp.cpu);
  }
  const redirected = (await daemon.metric('slipstream_redirected_messages_total')) - before;
  if (workload.redirects !== redirected > 100) {
    throw new Error(
      `${workload.name}: ${String(redirected)} messages were redirected, which is not what this row measures`,
    );
  }
  const ratios = samples.slipstream.map((rate, run) => rate / (samples.tcp[run] ?? NaN));
  const [ratioLow, ratioHigh] = medianInterval(ratios);
  return {
    workload: workload.name,
    path: workload.path,
    size: workload.size,
    placement: workload.placement,
    clients: workload.clients,
    unit: workload.unit,
    tcp: median(samples.tcp),
    slipstream: median(samples.slipstream),
    naive: null,
    unix: samples.unix.length === 0 ? null : median(samples.unix),
    ratio: median(ratios),
    ratioLow,
    ratioHigh,
    unixRatio:
      samples.unix.length === 0 ? null : median(samples.unix.map((rate, run) => rate / (samples.tcp[run] ?? NaN))),
    runs,
    cpuRatio: samples.cpu.length === 0 ? null : median(samples.cpu),
  };
}

const options = await yargs(hideBin(process.argv))
  .scriptName('npm run bench --')
  .option('quick', { type: 'boolean', default: false, describe: 'Fewer and shorter runs, under 3 minutes' })
  .option('only', {
    type: 'string',
    requiresArg: true,
    describe: 'Workloads by the beginning of their names, or paths (loopback, nat), separated by commas',
  })
  .option('json', { type: 'string', requiresArg: true, describe: 'Write the results to this file' })
  .option('report', { type: 'boolean', default: false, describe: 'Write docs/benchmarks.md and its chart' })
  .strict()
  .parseAsync();

const only = options.only?.split(',');
const chosen = WORKLOADS.filter(
  ({ name, path }) => only?.some((part) => name.startsWith(part) || path === part) ?? true,
);
if (process.geteuid?.() !== 0 || chosen.length === 0) {
  console.error(
    chosen.length === 0
      ? '--only names no workload'
      : 'the benchmark needs root to attach the datapath: run it with sudo',
  );
  process.exit(chosen.length === 0 ? 2 : 1);
}
const [runs, seconds] = options.quick ? [3, 0.7] : [7, 1];
const sandbox = new Sandbox('bench');
try {
  const plain = sandbox.makeCgroup('plain', 'beside');
  const daemon = await Daemon.start(sandbox);
  const rows: Row[] = [];
  for (const workload of chosen) {
    const row = await measure(workload, sandbox, plain, daemon, runs, seconds);
    rows.push(row);
    console.log(
      `${row.workload} ${String(row.size)} B, ${row.path}, ${row.placement}, ${String(row.clients)} clients: ` +
        `${row.ratio.toFixed(2)} (${row.ratioLow.toFixed(2)} to ${row.ratioHigh.toFixed(2)}) of TCP` +
        (row.unixRatio === null ? '' : `; AF_UNIX ${row.unixRatio.toFixed(2)}`),
    );
  }
  await daemon.stop();
  const { version } = JSON.parse(
    await (await import('node:fs/promises')).readFile(join(ROOT, 'package.json'), 'utf8'),
  ) as {
    version: string;
  };
  const report: Report = {
    meta: {
      version,
      date: new Date().toISOString().slice(0, 10),
      kernel: release(),
      cpu: cpus()[0]?.model ?? 'unknown',
      cpus: cpus().length,
      node: process.version,
      secondsPerRun: seconds,
    },
    rows,
  };
  if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(report, undefined, 2)}\n`);
  if (options.report) {
    writeFileSync(join(ROOT, 'docs', 'benchmarks.svg'), chart(report));
    writeFileSync(join(ROOT, 'docs', 'benchmarks.md'), table(report));
  }
} finally {
  await sandbox.dispose();
}
