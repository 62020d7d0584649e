import { release } from 'node:os';

import { measurePort } from '../../measure/measure.js';
import { bench } from '../../probe/bench.js';
import { cgroupRoot, requireRoot } from '../../probe/host.js';
import { requireKernel } from '../../probe/kernel.js';
import { renderBench, renderPortBench } from '../../view/bench.js';
import { openDatapath } from '../../view/reader.js';
import type { BenchArguments } from '../commands/bench.js';
import { makeLog } from '../log.js';
import { say } from '../options.js';
import { objectFile, socketsProgram } from '../package-info.js';

export async function runBench({ seconds, port, 'pin-dir': pinDir, json }: BenchArguments): Promise<void> {
  requireRoot('bench');
  const stop = new AbortController();
  const end = (): void => {
    stop.abort();
  };
  process.once('SIGINT', end).once('SIGTERM', end);
  const print = <T>(result: T, render: (result: T) => string): void => {
    say(json ? JSON.stringify(result, undefined, 2) : render(result));
  };
  if (port === undefined) print(await benchOwn(seconds, stop.signal), renderBench);
  else print(await benchPort(pinDir, port, seconds, stop.signal), renderPortBench);
  process.off('SIGINT', end).off('SIGTERM', end);
}

function benchOwn(seconds: number, signal: AbortSignal): ReturnType<typeof bench> {
  requireKernel(release());
  const root = cgroupRoot();
  const options = { objectFile: objectFile(), socketsProgram: socketsProgram(), cgroupRoot: root, cgroupDir: root };
  return bench({ ...options, log: makeLog('error') }, seconds, signal);
}

async function benchPort(
  pinDir: string,
  port: number,
  seconds: number,
  signal: AbortSignal,
): ReturnType<typeof measurePort> {
  const { datapath } = openDatapath(pinDir, objectFile());
  try {
    return await measurePort(datapath, pinDir, port, seconds, signal);
  } finally {
    datapath.close();
  }
}
