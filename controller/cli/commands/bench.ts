import { release } from 'node:os';

import type { CommandModule } from 'yargs';

import { bench, type BenchResult } from '../../probe/bench.js';
import { cgroupRoot, requireRoot } from '../../probe/host.js';
import { requireKernel } from '../../probe/kernel.js';
import { formatBytes, renderTable } from '../../view/pairs.js';
import { jsonOption, makeLog, numberOption, say } from '../options.js';
import { objectFile, socketsProgram } from '../package-info.js';

export const benchCommand: CommandModule<object, { seconds: number; json: boolean }> = {
  command: 'bench',
  describe: 'Measure TCP and the datapath in turns, on connections of its own; touches no other connection',
  builder: (yargs) =>
    yargs
      .option('seconds', {
        ...numberOption('seconds', [0.5, 600], {
          whole: false,
          placeholder: 'S',
          describe: 'How long to measure in all',
        }),
        default: 20,
      })
      .option('json', jsonOption),
  handler: async ({ seconds, json }) => {
    requireRoot('bench');
    requireKernel(release());
    const root = cgroupRoot();
    const stop = new AbortController();
    const end = (): void => {
      stop.abort();
    };
    process.once('SIGINT', end).once('SIGTERM', end);
    const result = await bench(
      {
        objectFile: objectFile(),
        socketsProgram: socketsProgram(),
        cgroupRoot: root,
        cgroupDir: root,
        log: makeLog('error'),
      },
      seconds,
      stop.signal,
    );
    process.off('SIGINT', end).off('SIGTERM', end);
    say(json ? JSON.stringify(result, undefined, 2) : render(result));
  },
};

function render({ kernel, rows, privateNetwork }: BenchResult): string {
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
