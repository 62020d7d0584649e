/** `top`: frames on a terminal until a key or a signal ends it, or plain ones one after the other. */
import { setTimeout as pause } from 'node:timers/promises';

import { COLOURED, type FrameInput, onKey, PLAIN, renderFrame, type TopState } from './frame.js';
import { type Sample, topRows } from './sample.js';
import { Screen } from './screen.js';

export interface TopOptions {
  version: string;
  /** Between two frames, milliseconds. */
  interval: number;
  /** Undefined: until it is ended. */
  iterations: number | undefined;
  state: TopState;
  /** False: as plain text, whatever standard output is. */
  screen: boolean;
}

/** The first frame on a screen comes at once and has no rates; the second soon after, so that it has. */
const FIRST_INTERVAL = 500;

/** @param read takes a sample; what it throws ends it, with the terminal restored */
export async function top(options: TopOptions, read: () => Sample): Promise<void> {
  const stop = new AbortController();
  const end = (): void => {
    stop.abort();
  };
  process.once('SIGINT', end).once('SIGTERM', end).once('SIGHUP', end);
  process.stdout.once('error', end);
  try {
    await (options.screen && process.stdout.isTTY ? onScreen : asText)(options, read, stop);
  } finally {
    process.off('SIGINT', end).off('SIGTERM', end).off('SIGHUP', end);
  }
}

async function onScreen(options: TopOptions, read: () => Sample, stop: AbortController): Promise<void> {
  let { state } = options;
  let input: FrameInput | undefined;
  const style = (process.env['NO_COLOR'] ?? '') === '' ? COLOURED : PLAIN;
  const draw = (): void => {
    if (input !== undefined) screen.draw(renderFrame({ ...input, state }, screen.size, style));
  };
  const screen = new Screen(process.stdout, process.stdin.isTTY ? process.stdin : undefined, {
    onKey: (key) => {
      const next = onKey(state, key);
      if (next === undefined) stop.abort();
      else {
        state = next;
        draw();
      }
    },
    onResize: draw,
  });
  let sample: Sample | undefined = read();
  screen.enter();
  try {
    input = { version: options.version, sample, rows: topRows(undefined, sample), state };
    draw();
    for (let frame = 1; frame !== options.iterations; frame++) {
      const wait = frame === 1 ? Math.min(FIRST_INTERVAL, options.interval) : options.interval;
      if (!(await waited(wait, stop.signal))) return;
      if (state.paused) continue;
      const next: Sample = read();
      input = { version: options.version, sample: next, rows: topRows(sample, next, input.rows), state };
      sample = next;
      draw();
    }
  } finally {
    screen.leave();
  }
}

/** Each frame covers the interval before it. */
async function asText(options: TopOptions, read: () => Sample, stop: AbortController): Promise<void> {
  let sample = read();
  let rows = topRows(undefined, sample);
  for (let frame = 0; frame !== options.iterations; frame++) {
    if (!(await waited(options.interval, stop.signal))) return;
    const next = read();
    rows = topRows(sample, next, rows);
    sample = next;
    const lines = renderFrame({ version: options.version, sample, rows, state: options.state }, undefined, PLAIN);
    process.stdout.write(`${frame === 0 ? '' : '\n'}${lines.join('\n')}\n`);
  }
}

/** False if it was cut short. */
function waited(ms: number, signal: AbortSignal): Promise<boolean> {
  return pause(ms, true, { signal }).catch(() => false);
}
