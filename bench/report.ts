/** The benchmark's results for people: docs/benchmarks.md and its charts. Pure. */
import { type Bars, chart } from './chart.js';
import type { Overhead, Report, Row, Scale } from './format.js';
import { isOurs, type Outcome, outcomes } from './goals.js';
import type { Path } from './place.js';
import { bytes } from './plan.js';
import { BAR, remarkOn } from './remarks.js';
import { median } from './statistics.js';

interface Section {
  file: string;
  title: string;
  paths: readonly Path[];
  text: string;
}

const SECTIONS: readonly Section[] = [
  {
    file: 'benchmarks.svg',
    title: 'Loopback',
    paths: ['loopback'],
    text: 'Both ends in the namespace of the host.',
  },
  {
    file: 'benchmarks-network.svg',
    title: 'Between network namespaces',
    paths: ['bridge', 'nat', 'containers'],
    text:
      'bridge: two network namespaces on a bridge. nat: the same, through a port that the host of the bridge publishes\n' +
      '(DNAT and MASQUERADE). containers: as nat, each end in a container of runc. AF_UNIX has no such paths.',
  },
];

/** The files that the document consists of, by their names in docs/. */
export function documents(report: Report): Record<string, string> {
  const charts = SECTIONS.map(({ file, title, paths }): [string, string] => [
    file,
    chart(
      `Throughput relative to plain TCP: ${title.toLowerCase()}`,
      report.rows.filter((row) => paths.includes(row.path)).map(bars),
    ),
  ]);
  return { 'benchmarks.md': document(report), ...Object.fromEntries(charts) };
}

function document(report: Report): string {
  const { meta, rows } = report;
  const runs = rows[0]?.runs ?? 0;
  return (
    `# Benchmarks

Written by \`npm run bench -- --report\`, which \`scripts/install-packages --bench\` prepares. \`--quick\` takes 3 minutes,
\`--only redis,nat\` measures these rows alone, \`--list\` names all, \`--json FILE\` writes what
[schemas/benchmarks.json](schemas/benchmarks.json) describes.

Ratios to plain TCP: medians of ${runs} rounds, each of which measures TCP and slipstream-bpf for ${meta.secondsPerRun} s (some programs:
1 s), and every second one the other columns as well, with the 95 % bootstrap interval. Above 1 is faster, also where the unit is a time. While TCP, the naive sockmap and
AF_UNIX are measured, nothing of slipstream-bpf is loaded. CPU is the time of both ends for a unit of work, relative to
TCP: below 1 is cheaper. same-cpu: both ends on one CPU. cross-cpu: one on each. free: as the scheduler likes. The policy
is the default, but where a row names another; the naive sockmap is \`test/fixtures/naive.bpf.c\`, which redirects every
byte of every connection and fails the semantics tests.

Version ${meta.version}, commit ${meta.commit}, ${meta.date}, kernel ${meta.kernel}, ${meta.cpus} × ${meta.cpu}, Node.js ${meta.node}${meta.quick ? ', with `--quick`' : ''}.

${SECTIONS.map((section) => sectionOf(section, rows)).join('\n')}
${goals([...rows, ...report.overhead])}
${losses([...rows, ...report.overhead])}
${overheads(report.overhead)}
${scales(report.scale)}
${profiles(report)}
${skips(report)}`
      .replace(/\n{3,}/g, '\n\n')
      .trimEnd() + '\n'
  );
}

function sectionOf({ file, title, paths, text }: Section, rows: readonly Row[]): string {
  const own = rows.filter((row) => paths.includes(row.path));
  if (own.length === 0) return '';
  const notes = own.filter(({ note }) => note !== null);
  return `## ${title}

${text}

![Throughput relative to plain TCP](${file})

${table(
  [
    'workload',
    ...(paths.length > 1 ? ['path'] : []),
    'placement',
    'TCP',
    'slipstream-bpf',
    'ratio',
    'naive',
    'AF_UNIX',
    'CPU',
  ],
  own.map((row) => [
    labelOf(row),
    ...(paths.length > 1 ? [row.path] : []),
    row.placement,
    rate(row.tcp, row.unit),
    rate(row.slipstream, row.unit),
    interval(row),
    ratio(row.naiveRatio),
    ratio(row.unixRatio),
    ratio(row.cpuRatio),
  ]),
)}
${notes.map((row) => `- ${fullLabel(row)}: ${row.note ?? ''}`).join('\n')}
`;
}

/** What was aimed at. */
function goals(rows: readonly (Row | Overhead)[]): string {
  const all = outcomes(rows, median);
  if (all.length === 0) return '';
  return `## What was aimed at

Each goal stood before it was measured; "of 3" are rows of the tables. Of those that miss it, "bounded" are those whose bound
misses it as well: what the kernel itself makes of such a row with no check at all. For messages that is the naive sockmap
(behind address translation, where it finds no pair, what it carries over a bridge or on loopback), for overhead programs that do nothing in the same
places, or for paired connections keep something for each socket (\`test/fixtures/empty.bpf.c\`). "not told" are others whose
interval reaches the goal: another run may go either way.

${table(
  ['rows', 'at least', 'measured', 'bound', 'reached', 'bounded', 'not told', 'missed'],
  all.map(({ goal, ratios, bounds, reached, bounded, undecided }) => [
    goal.name,
    goal.atLeast.toFixed(2),
    span(ratios),
    span(bounds),
    `${reached === ratios.length ? '**all**' : String(reached)} of ${String(ratios.length)}`,
    ...[bounded, undecided, ratios.length - reached - bounded - undecided].map(String),
  ]),
)}
`;
}

function span(ratios: Outcome['ratios']): string {
  if (ratios.length === 0) return '–';
  const [low, high] = [Math.min(...ratios).toFixed(2), Math.max(...ratios).toFixed(2)];
  return low === high ? low : `${low}–${high}`;
}

/** Where it is slower than TCP, why, and what avoids it. */
function losses(rows: readonly (Row | Overhead)[]): string {
  const lost = rows.filter((row) => row.ratio < BAR && isOurs(row));
  const lines = lost.map(
    (row) =>
      `- ${'overhead' in row ? `${row.overhead}: ` : ''}${fullLabel(row)}: ${interval(row)}. ${remarkOn(row)}${row.ratioHigh >= 1 ? ' Its interval holds 1: this may be noise.' : ''}`,
  );
  return `## Where it loses

${lines.length === 0 ? `No row is below ${BAR.toFixed(2)}.` : `Rows below ${BAR.toFixed(2)}:\n\n${lines.join('\n')}`}
`;
}

function overheads(rows: readonly Overhead[]): string {
  if (rows.length === 0) return '';
  return `## What it costs who gains nothing

Against the same with nothing loaded.

${table(
  ['loaded', 'workload', 'path', 'TCP', 'with it', 'ratio', 'CPU'],
  rows.map((row) => [
    row.overhead,
    labelOf(row),
    row.path,
    rate(row.tcp, row.unit),
    rate(row.slipstream, row.unit),
    interval(row),
    ratio(row.cpuRatio),
  ]),
)}
`;
}

function scales(rows: readonly Scale[]): string {
  if (rows.length === 0) return '';
  return `## Many pairs

Open pairs on loopback of which 1 % talk, one after the other. The controller is a process of its own, as in production.

${table(
  [
    'pairs',
    'promoted',
    'promotion',
    'iterator',
    'round trip, TCP',
    'slipstream-bpf',
    'controller CPU',
    'its memory',
    '/metrics',
    'kernel memory a pair',
  ],
  rows.map((row) => [
    count(row.pairs),
    `${count(row.promoted)} of ${count(row.active)}`,
    `${row.promotionMilliseconds.toFixed(1)} ms`,
    `${row.iteratorMilliseconds.toFixed(2)} ms`,
    `${row.tcpMicroseconds.toFixed(1)} µs`,
    `${row.slipstreamMicroseconds.toFixed(1)} µs`,
    `${(row.controllerCpu * 100).toFixed(1)} %`,
    `${row.controllerMegabytes.toFixed(0)} MiB`,
    `${row.metricsMilliseconds.toFixed(1)} ms`,
    row.kernelBytesPerPair === null ? '–' : `${count(row.kernelBytesPerPair)} B`,
  ]),
)}
`;
}

function profiles({ profile }: Report): string {
  if (profile.length === 0) return '';
  return `## The BPF programs

Mean of a run, with \`kernel.bpf_stats_enabled\`.

${table(
  ['workload', 'program', 'runs', 'ns'],
  profile.map((row) => [row.workload, `\`${row.program}\``, count(row.runs), row.nanoseconds.toFixed(0)]),
)}
`;
}

function skips({ skipped }: Report): string {
  if (skipped.length === 0) return '';
  return `## Not measured

${skipped.map(({ row, reason }) => `- ${row}: ${reason}`).join('\n')}
`;
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  return [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

type Labelled = Pick<Row, 'workload' | 'size' | 'clients' | 'detail' | 'path' | 'placement'>;

function labelOf({ workload, size, clients, detail }: Labelled): string {
  return [
    workload + (size === null ? '' : ` ${bytes(size)}`),
    clients > 1 ? `${String(clients)} clients` : '',
    detail ?? '',
  ]
    .filter((part) => part !== '')
    .join(', ');
}

function fullLabel(row: Labelled): string {
  return `${labelOf(row)}, ${row.path}, ${row.placement}`;
}

function bars(row: Row): Bars {
  const place = row.path === 'loopback' ? row.placement : `${row.path}, ${row.placement}`;
  return { label: `${labelOf(row)}, ${place}`, slipstream: row.ratio, naive: row.naiveRatio, unix: row.unixRatio };
}

function interval(row: Pick<Row, 'ratio' | 'ratioLow' | 'ratioHigh'>): string {
  return `**${row.ratio.toFixed(2)}** (${row.ratioLow.toFixed(2)}–${row.ratioHigh.toFixed(2)})`;
}

const ratio = (value: number | null): string => (value === null ? '–' : value.toFixed(2));

const count = (value: number): string => value.toLocaleString('en');

function rate(value: number, unit: string): string {
  return `${value < 100 ? value.toFixed(1) : count(Math.round(value))} ${unit}`;
}
