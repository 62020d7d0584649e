/** `bench` for people. */
import type { Spread } from '../measure/comparison.js';
import type { PortBenchResult } from '../measure/measure.js';
import type { BenchResult } from '../probe/bench.js';
import { formatBytes, renderTable } from './pairs.js';

export function renderBench({ kernel, rows, privateNetwork }: BenchResult): string {
  const figures = rows.map(({ size, tcp, slipstream, ratio, redirected }) => [
    formatBytes(size),
    ...[tcp, slipstream].map(({ roundTripsPerSecond }) => roundTripsPerSecond.toFixed(0)),
    `${ratio.toFixed(2)}x`,
    ...[tcp, slipstream].map(({ p50, p99 }) => `${p50.toFixed(1)} / ${p99.toFixed(1)}`),
    ...[tcp, slipstream].map(({ cpu }) => cpu.toFixed(1)),
    `${(100 * redirected).toFixed(1)}%`,
  ]);
  return [
    `kernel ${kernel}, one connection over loopback${privateNetwork ? ' in a network namespace of its own' : ''}: a request, then its answer of the same size`,
    '',
    renderTable([
      [
        'SIZE',
        'TCP/S',
        'DIRECT/S',
        'RATIO',
        'TCP P50/P99 US',
        'DIRECT P50/P99 US',
        'TCP CPU US',
        'DIRECT CPU US',
        'REDIRECTED',
      ],
      ...figures,
    ]),
    '',
    'Medians of three runs in turns; US: microseconds. CPU is the time of both programs for a round trip.',
  ].join('\n');
}

/** Programs that are named before the rest is counted. */
const NAMED = 6;

export function renderPortBench(result: PortBenchResult): string {
  const { kernel, port, windows, windowSeconds, pairs, tcp, slipstream, ratio, redirected, programs } = result;
  const row = (name: string, before: string, after: string, spread: Spread | null): string[] => [
    name,
    before,
    after,
    ...(spread === null
      ? ['-', '-']
      : [`${spread.median.toFixed(2)}x`, `${spread.low.toFixed(2)} to ${spread.high.toFixed(2)}`]),
  ];
  const cpu = (of: number | null): string => (of === null ? '-' : of.toFixed(2));
  const named = programs.slice(0, NAMED).map(({ program, pid }) => `${program}(${String(pid)})`);
  const more = programs.length > NAMED ? ` and ${String(programs.length - NAMED)} more` : '';
  return [
    `kernel ${kernel}, port ${String(port)}: ${String(pairs)} promoted connection${pairs === 1 ? '' : 's'} of ${named.join(', ')}${more}`,
    `${String(windows)} windows of ${windowSeconds.toFixed(1)} s, on TCP and on the direct path in turns`,
    '',
    renderTable([
      ['', 'TCP', 'DIRECT', 'RATIO', 'MIDDLE HALF'],
      row('receives/s', tcp.receivesPerSecond.toFixed(0), slipstream.receivesPerSecond.toFixed(0), ratio.receives),
      row('bytes/s', formatBytes(tcp.bytesPerSecond), formatBytes(slipstream.bytesPerSecond), ratio.bytes),
      row('CPU us/KiB', cpu(tcp.cpu), cpu(slipstream.cpu), ratio.cpu),
      ['redirected', '0%', `${(100 * redirected).toFixed(1)}%`, '', ''],
    ]),
    '',
    'Medians over the windows; each ratio is of neighbouring windows, and half of them lie in the middle half. CPU is all',
    'that these programs used, whatever else they do. Where somebody else sets the pace of the requests, a gain shows in',
    'the CPU and not in the rates; traffic that comes and goes by itself widens the middle half.',
  ].join('\n');
}
