/** What a workload is: something that serves, and something that asks and says how fast it was. */
import type { Place } from './place.js';

export type Transport = 'tcp' | 'unix';

/** A program that the bench starts, and the Debian package that brings it. */
export interface Program {
  command: string;
  package: string;
}

export interface Workload {
  name: string;
  /** Bytes of a message; null where there is no such thing. */
  size: number | null;
  clients: number;
  /** What else tells it from its namesakes. */
  detail?: string;
  unit: string;
  /** False for times. */
  higherIsBetter: boolean;
  needs: readonly Program[];
  /** Whether it can use a UNIX socket as well. */
  unix: boolean;
  /** Whether messages are to be redirected; undefined where that depends on the program or the kernel. */
  redirects?: boolean;
  /** The policy in force; default: the product's. */
  policy?: string;
  /** Seconds that a run takes however short it is asked to be. */
  leastSeconds?: number;
  /** For servers that keep connections of their own: started for each run instead of once a row. */
  startsAnew?: boolean;
  /** Starts what serves, on both transports where it can. Left out: `run` does. */
  start?(place: Place): Promise<void>;
  /** One run of about so many seconds; returns the value in `unit`. */
  run(place: Place, transport: Transport, seconds: number): Promise<number>;
}

export const BLOCKING_READERS = 'version: 1\ndefaults: { blockingReaders: true }\n';

/** The number that a program's output gives in the pattern's first group. */
export function numberIn(lines: readonly string[], pattern: RegExp): number {
  for (const line of lines) {
    const found = pattern.exec(line)?.[1];
    if (found !== undefined) return Number(found.replaceAll(',', ''));
  }
  throw new Error(`no ${String(pattern)} in: ${lines.slice(-8).join(' | ')}`);
}
