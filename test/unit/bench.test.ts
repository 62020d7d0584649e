/** What the benchmark makes of its measurements, and which rows it chooses. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import { chart } from '../../bench/chart.js';
import { type Overhead, publishedSchema, type Report, reportSchema, type Row } from '../../bench/format.js';
import { GOALS, outcomes } from '../../bench/goals.js';
import { ratios, unexpected } from '../../bench/measure.js';
import {
  choose,
  columnsOf,
  estimate,
  FULL,
  nameOf,
  OVERHEAD_ROWS,
  OVERHEADS,
  type PlannedRow,
  QUICK,
  ROWS,
} from '../../bench/plan.js';
import { documents } from '../../bench/report.js';
import { geometricMean, median, medianInterval } from '../../bench/statistics.js';
import { numberIn } from '../../bench/workload.js';
import { roundTrips } from '../../bench/workloads/netpipe.js';
import { ROOT } from '../kernel/support/sandbox.js';

const row: Row = {
  workload: 'ping-pong',
  path: 'loopback',
  size: 1024,
  placement: 'same-cpu',
  clients: 1,
  detail: null,
  unit: 'round trips/s',
  higherIsBetter: true,
  tcp: 10_000,
  slipstream: 17_000,
  naive: 13_000,
  unix: null,
  ratio: 1.7,
  ratioLow: 1.6,
  ratioHigh: 1.8,
  runs: 5,
  cpuRatio: 0.6,
  redirectedMessages: 12_345,
  naiveRatio: 1.3,
  unixRatio: null,
  note: null,
};
const compared = Object.fromEntries(
  Object.entries(row).filter(([name]) => !/^(naive|unix)/.test(name)),
) as unknown as Omit<Row, 'naive' | 'unix' | 'naiveRatio' | 'unixRatio'>;
const overhead: Overhead = { ...compared, overhead: 'the tracepoint alone', workload: 'connect', ratio: 0.95 };
const report: Report = {
  meta: {
    version: '1.2.3',
    commit: 'abcdef0',
    date: '2026-11-23',
    kernel: '6.18.0',
    cpu: 'A CPU',
    cpus: 2,
    node: 'v20.0.0',
    secondsPerRun: 0.6,
    quick: false,
  },
  rows: [row, { ...row, path: 'nat', workload: 'stream', ratio: 0.9, note: 'naive sockmap: hangs' }],
  overhead: [overhead],
  scale: [
    {
      pairs: 10_000,
      active: 100,
      promoted: 100,
      promotionMilliseconds: 3.21,
      iteratorMilliseconds: 4.32,
      tcpMicroseconds: 24,
      slipstreamMicroseconds: 14,
      controllerCpu: 0.02,
      controllerMegabytes: 100,
      metricsMilliseconds: 5.4,
      kernelBytesPerPair: 1500,
    },
  ],
  profile: [{ workload: 'redis', program: 'observe', runs: 4321, nanoseconds: 234.4 }],
  skipped: [{ row: 'sockperf', reason: 'sockperf is not installed' }],
};

describe('bench: statistics', () => {
  it('takes the median', () => {
    assert.equal(median([3, 1, 2]), 2);
    assert.equal(median([4, 1, 2, 3]), 2.5);
    assert.ok(Number.isNaN(median([])));
  });

  it('has an interval that holds the median, and is the same each time', () => {
    const values = [1.1, 1.4, 1.2, 1.9, 1.3];
    const [low, high] = medianInterval(values);
    assert.ok(low <= median(values) && median(values) <= high && low < high);
    assert.deepEqual(medianInterval(values), [low, high]);
    assert.deepEqual(medianInterval([2, 2, 2]), [2, 2]);
  });

  it('takes the geometric mean', () => {
    assert.ok(Math.abs(geometricMean([1, 4, 16]) - 4) < 1e-9);
  });

  it('turns the ratio of times around, and leaves out rounds without both', () => {
    const [tcp, other] = [{ values: [10, 20, undefined, 40] }, { values: [20, undefined, 1, 10] }];
    assert.deepEqual(ratios({ higherIsBetter: true }, tcp, other), [2, 0.25]);
    assert.deepEqual(ratios({ higherIsBetter: false }, tcp, other), [0.5, 4]);
    assert.deepEqual(ratios({ higherIsBetter: true }, tcp, undefined), []);
  });

  it('says when the counter speaks against the row', () => {
    assert.equal(unexpected({ redirects: true }, 1000), undefined);
    assert.equal(unexpected({ redirects: false }, 0), undefined);
    assert.equal(unexpected({}, 0), undefined);
    assert.match(unexpected({ redirects: true }, 0) ?? '', /0 messages were redirected/);
    assert.match(unexpected({ redirects: false }, 1000) ?? '', /1000 messages were redirected/);
  });

  it('reads what programs print', () => {
    assert.equal(numberIn(['a', 'tps = 12.5 (x)'], /^tps = ([\d.]+)/), 12.5);
    assert.equal(numberIn(['rate 1,234'], /rate ([\d,]+)/), 1234);
    assert.throws(() => numberIn(['nothing'], /^tps = ([\d.]+)/), /nothing/);
    assert.equal(Math.round(roundTrips('  1 0.8 0.0001\n 64 7.5 0.0001\n')), 5000);
  });
});

describe('bench: plan', () => {
  it('has no row twice', () => {
    const names = ROWS.map(nameOf);
    assert.deepEqual(
      names.filter((name, index) => names.indexOf(name) !== index),
      [],
    );
  });

  it('stays within its time', () => {
    assert.ok(estimate(choose(false), FULL) < 45 * 60, `${String(estimate(choose(false), FULL) / 60)} minutes`);
    assert.ok(estimate(choose(true), QUICK) < 3 * 60, `${String(estimate(choose(true), QUICK))} s`);
  });

  it('chooses by workload, path, placement and section', () => {
    const names = (only: string[], quick = false): string[] => choose(quick, only).rows.map(nameOf);
    assert.ok(names(['redis']).every((name) => name.startsWith('redis GET')) && names(['redis']).length > 5);
    assert.ok(names(['nat']).every((name) => name.includes(', nat, ')) && names(['nat']).length > 5);
    assert.ok(names(['PGBENCH', 'sockperf']).some((name) => name.startsWith('pgbench')));
    assert.deepEqual(names(['ping-pong+containers+same-cpu']), ['ping-pong, 64 B, containers, same-cpu']);
    assert.ok(names(['redis'], true).length < names(['redis']).length);
    assert.deepEqual(names(['nonsense']), []);
    const { rows, overhead: chosen, scale, profile } = choose(false, ['overhead']);
    assert.deepEqual([rows.length, chosen.length, scale.length, profile.length], [0, OVERHEAD_ROWS.length, 0, 0]);
  });

  it('measures AF_UNIX where there is such a path', () => {
    const [loopback, bridge] = ['loopback', 'bridge'].map((path) => ROWS.find((one) => one.path === path)!);
    assert.deepEqual(columnsOf(loopback!), ['tcp', 'slipstream', 'naive', 'unix']);
    assert.deepEqual(columnsOf(bridge!), ['tcp', 'slipstream', 'naive']);
  });

  it('names a package that scripts/install-packages knows for each program', () => {
    const script = readFileSync(join(ROOT, 'scripts', 'install-packages'), 'utf8');
    const bench = /^bench=\((.*?)^\)/ms.exec(script)?.[1] ?? '';
    for (const { workload } of ROWS) {
      for (const program of workload.needs) assert.ok(bench.includes(`'${program.package}'`), program.package);
    }
  });
});

describe('bench: goals', () => {
  const goal = (
    name: string,
    rows: readonly (Row | Overhead)[],
  ): [number[], number, number, number, number[]] | undefined => {
    const found = outcomes(rows, median).find((outcome) => outcome.goal.name === name);
    return found && [found.ratios, found.reached, found.bounded, found.undecided, found.bounds];
  };

  it('each has rows in the full plan', () => {
    const described = ({ workload, path, placement }: PlannedRow) => ({
      workload: workload.name,
      size: workload.size,
      clients: workload.clients,
      detail: workload.detail ?? null,
      path,
      placement,
    });
    const all: (Row | Overhead)[] = [
      ...ROWS.map((planned): Row => ({ ...row, ...described(planned), unixRatio: 1 })),
      ...OVERHEAD_ROWS.map((planned): Overhead => ({
        ...overhead,
        ...described(planned),
        overhead: OVERHEADS[planned.kind],
      })),
    ];
    assert.deepEqual(
      GOALS.map(({ name }) => name).filter((name) => goal(name, all) === undefined),
      [],
    );
  });

  it('count what reaches them, and what may in another run', () => {
    const pingPong = 'ping-pong, 64 B to 16 KiB, loopback, same-cpu';
    const rows = [
      { ...row, ratio: 1.695, ratioHigh: 1.7 },
      { ...row, ratio: 1.69, ratioHigh: 1.7, naiveRatio: null },
      { ...row, ratio: 1.6, ratioHigh: 1.69, naiveRatio: 1.8 },
      { ...row, ratio: 1.6, ratioHigh: 1.8 },
      { ...row, ratio: 1.6, detail: 'blocking' },
      { ...row, ratio: 1.6, size: 65_536 },
    ];
    assert.deepEqual(goal(pingPong, rows), [[1.695, 1.69, 1.6, 1.6], 1, 1, 1, [1.3, 1.8, 1.3]]);
    assert.equal(goal(pingPong, []), undefined);
  });

  it('know what bounds a row: redirection without a check, or programs that do nothing', () => {
    const nat = { ...row, path: 'nat' as const, size: 64, tcp: 5000, naiveRatio: 0.9 };
    const bridge = { ...row, path: 'bridge' as const, size: 64, tcp: 6000, naive: 15_000, naiveRatio: 2.5 };
    const local = { ...row, size: 64, naive: 20_000 };
    assert.deepEqual(goal('ping-pong, bridge and NAT, same-cpu', [nat, bridge, local])?.[4], [3, 2.5]);
    assert.deepEqual(goal('ping-pong, bridge and NAT, same-cpu', [nat, local])?.[4], [4]);
    assert.deepEqual(goal('ping-pong, bridge and NAT, same-cpu', [nat])?.[4], []);
    const paired = { ...overhead, workload: 'connect', path: 'loopback' as const, overhead: OVERHEADS.connect };
    const loaded = (what: string, ratio: number): Overhead => ({ ...paired, overhead: what, ratio });
    const all = [
      loaded(OVERHEADS.connect, 0.9),
      loaded(OVERHEADS.outside, 0.98),
      loaded(OVERHEADS.empty, 0.97),
      loaded(OVERHEADS.remember, 0.96),
    ];
    assert.deepEqual(goal('connect, one exchange, close: paired', all), [[0.9], 0, 1, 0, [0.96]]);
    assert.deepEqual(goal('a process outside every policy', all), [[0.98], 0, 1, 0, [0.97]]);
  });

  it('compare with AF_UNIX, and take medians', () => {
    const rows = [1, 2, 4].map((clients) => ({
      ...row,
      workload: 'memcached GET',
      placement: 'free' as const,
      clients,
      ratio: clients,
      ratioHigh: clients,
      unixRatio: 4,
    }));
    assert.deepEqual(goal('memcached, median over the numbers of threads', rows)?.slice(0, 4), [[2], 1, 0, 0]);
    assert.deepEqual(
      outcomes(rows, median).find(({ goal: { name, toUnix } }) => name === 'the same against AF_UNIX' && toUnix)
        ?.ratios,
      [0.5],
    );
  });
});

describe('bench: report', () => {
  const files = documents(report);
  const text = files['benchmarks.md']!;

  it('is as published', () => {
    reportSchema.parse(report);
    const published = JSON.parse(readFileSync(join(ROOT, 'docs', 'schemas', 'benchmarks.json'), 'utf8')) as object;
    assert.deepEqual(published, JSON.parse(JSON.stringify(publishedSchema())), 'run: npm run docs');
  });

  it('has every figure', () => {
    for (const part of [
      '| ping-pong 1 KiB | same-cpu | 10,000 round trips/s | 17,000 round trips/s | **1.70** (1.60–1.80) | 1.30 | – | 0.60 |',
      '| the tracepoint alone | connect 1 KiB |',
      '| 10,000 | 100 of 100 | 3.2 ms | 4.32 ms | 24.0 µs | 14.0 µs | 2.0 % | 100 MiB | 5.4 ms | 1,500 B |',
      '| redis | `observe` | 4,321 | 234 |',
      '- sockperf: sockperf is not installed',
      'naive sockmap: hangs',
      'commit abcdef0',
    ]) {
      assert.ok(text.includes(part), part);
    }
  });

  it('names every loss, and none that is not', () => {
    const losses = /## Where it loses\n(.*?)\n## /s.exec(text)?.[1] ?? '';
    assert.match(losses, /stream 1 KiB, nat, same-cpu: \*\*0\.90\*\*/);
    assert.match(losses, /the tracepoint alone: connect 1 KiB, loopback, same-cpu: \*\*0\.95\*\*/);
    assert.doesNotMatch(losses, /ping-pong/);
    assert.match(documents({ ...report, rows: [row], overhead: [] })['benchmarks.md']!, /No row is below 0\.97/);
  });

  it('refers to the charts that it writes', () => {
    for (const [, name] of text.matchAll(/\]\(([^)]+\.svg)\)/g)) assert.ok(files[name!] !== undefined, name);
    assert.ok(existsSync(join(ROOT, 'docs', 'benchmarks.svg')));
  });

  it('draws losses in another colour, and to scale', () => {
    const bars = { label: 'a < b', slipstream: 2, naive: 1, unix: null };
    const drawn = chart('Title', [bars, { ...bars, slipstream: 0.5 }]);
    const widths = [...drawn.matchAll(/width="([\d.]+)" height="12" fill="(#[0-9a-f]+)"/g)].slice(-2);
    assert.equal(Number(widths[0]![1]) / Number(widths[1]![1]), 4);
    assert.notEqual(widths[0]![2], widths[1]![2]);
    assert.ok(drawn.includes('a &lt; b'));
    assert.equal(drawn.match(/height="5"/g)?.length, 2, 'the naive bars, and none for AF_UNIX');
  });
});
