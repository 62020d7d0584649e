/** What windows of traffic, on TCP and on the direct path in turns, come to. Pure. */

/** What one pair did in a window, both directions together. */
export interface PairTraffic {
  /** Bytes that both ends received, whichever way they came. */
  bytes: number;
  receives: number;
  redirectedMessages: number;
  /** Over TCP while promoted. */
  passedMessages: number;
}

export interface Window {
  path: 'tcp' | 'direct';
  seconds: number;
  /** By id; only pairs that were on the path from the beginning of the window to its end. */
  pairs: ReadonlyMap<string, PairTraffic>;
  /** CPU time of the programs at both ends, microseconds; null if not all of them could be seen. */
  cpu: number | null;
}

/** A median, and the quarters below and above it. */
export interface Spread {
  median: number;
  low: number;
  high: number;
}

/** One path: medians of its windows. */
export interface ComparedPath {
  receivesPerSecond: number;
  bytesPerSecond: number;
  /** Of both programs, microseconds for 1024 bytes received; null if they could not be seen. */
  cpu: number | null;
}

export interface Comparison {
  windows: number;
  /** Pairs in the window that had the most. */
  pairs: number;
  tcp: ComparedPath;
  slipstream: ComparedPath;
  /** slipstream to TCP, each from a window and its neighbour. */
  ratio: { receives: Spread; bytes: Spread; cpu: Spread | null };
  /** Part of the messages that was redirected in the windows on the direct path, 0 to 1. */
  redirected: number;
}

/** How many windows, and their length in milliseconds, make up so many seconds. At least six, so that they have neighbours. */
export function plan(seconds: number): { windows: number; length: number } {
  const windows = Math.max(6, 2 * Math.round(seconds / 2));
  return { windows, length: (seconds * 1000) / windows };
}

/** Linear between neighbours. @param values at least one */
export function spread(values: readonly number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (part: number): number => {
    const place = part * (sorted.length - 1);
    const below = sorted[Math.floor(place)] ?? NaN;
    return below + ((sorted[Math.ceil(place)] ?? NaN) - below) * (place % 1);
  };
  return { median: at(0.5), low: at(0.25), high: at(0.75) };
}

/**
 * Each window is compared with the one before it and the one after it, over the pairs that both have: what changes
 * slowly is the same for both, and what grows or shrinks all the time weighs on neither path.
 * @returns undefined if nothing can be compared: no pair received anything in two windows that follow each other
 */
export function compare(windows: readonly Window[]): Comparison | undefined {
  const ratios = { receives: [] as number[], bytes: [] as number[], cpu: [] as number[] };
  for (const [index, second] of windows.entries()) {
    const first = windows[index - 1];
    if (first === undefined || first.path === second.path) continue;
    const [tcp, direct] = first.path === 'tcp' ? [first, second] : [second, first];
    const common = new Set([...tcp.pairs.keys()].filter((id) => direct.pairs.has(id)));
    const [before, after] = [rate(tcp, common), rate(direct, common)];
    if (before.bytes === 0 || after.bytes === 0) continue;
    ratios.bytes.push(after.bytes / before.bytes);
    ratios.receives.push(after.receives / before.receives);
    const [cpuBefore, cpuAfter] = [cpuOf(tcp), cpuOf(direct)];
    if (cpuBefore !== null && cpuAfter !== null && cpuBefore > 0) ratios.cpu.push(cpuAfter / cpuBefore);
  }
  if (ratios.bytes.length === 0) return undefined;
  const direct = windows.filter(({ path }) => path === 'direct').map((window) => sum(window));
  const redirected = total(direct, 'redirectedMessages');
  return {
    windows: windows.length,
    pairs: Math.max(...windows.map(({ pairs }) => pairs.size)),
    tcp: pathOf(windows, 'tcp'),
    slipstream: pathOf(windows, 'direct'),
    ratio: {
      receives: spread(ratios.receives),
      bytes: spread(ratios.bytes),
      cpu: ratios.cpu.length === 0 ? null : spread(ratios.cpu),
    },
    redirected: redirected / Math.max(1, redirected + total(direct, 'passedMessages')),
  };
}

function pathOf(all: readonly Window[], path: Window['path']): ComparedPath {
  const windows = all.filter((window) => window.path === path);
  const median = (of: (window: Window) => number | null): number | null => {
    const values = windows.map(of).filter((value) => value !== null);
    return values.length === 0 ? null : spread(values).median;
  };
  return {
    receivesPerSecond: median((window) => rate(window).receives) ?? 0,
    bytesPerSecond: median((window) => rate(window).bytes) ?? 0,
    cpu: median(cpuOf),
  };
}

const total = (many: readonly PairTraffic[], key: keyof PairTraffic): number =>
  many.reduce((all, one) => all + one[key], 0);

function sum(window: Window, only?: ReadonlySet<string>): PairTraffic {
  const pairs = [...window.pairs].filter(([id]) => only?.has(id) ?? true).map(([, traffic]) => traffic);
  return {
    bytes: total(pairs, 'bytes'),
    receives: total(pairs, 'receives'),
    redirectedMessages: total(pairs, 'redirectedMessages'),
    passedMessages: total(pairs, 'passedMessages'),
  };
}

function rate(window: Window, only?: ReadonlySet<string>): { bytes: number; receives: number } {
  const { bytes, receives } = sum(window, only);
  return { bytes: bytes / window.seconds, receives: receives / window.seconds };
}

/** Microseconds for 1024 bytes; null where nothing was received. */
function cpuOf(window: Window): number | null {
  const { bytes } = sum(window);
  return window.cpu === null || bytes === 0 ? null : (window.cpu * 1024) / bytes;
}
