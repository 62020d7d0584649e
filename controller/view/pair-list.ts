/** Which pairs are listed, and in which order. Pure. */
import { type Matcher } from '../policy/glob.js';
import type { PairRow } from './pairs.js';

export interface PairFilter {
  /** Of either end's cgroup. */
  cgroup?: Matcher | undefined;
  /** Local or remote, of either end. */
  port?: number | undefined;
}

export function filterPairs(rows: readonly PairRow[], { cgroup, port }: PairFilter): PairRow[] {
  return rows.filter(({ client, server }) => {
    const ends = [client, server];
    if (cgroup !== undefined && !ends.some((end) => end.cgroup !== null && cgroup(end.cgroup))) return false;
    return port === undefined || ends.some((end) => end.port === port || end.remotePort === port);
  });
}

/** What rows are sorted by: numbers from the largest, text from A. */
const KEYS = {
  age: (row) => row.ageSeconds,
  redirected: (row) => row.toServer.redirectedBytes + row.toClient.redirectedBytes,
  messages: (row) => row.toServer.redirectedMessages + row.toClient.redirectedMessages,
  passed: (row) => row.toServer.passedMessages + row.toClient.passedMessages,
  promotions: (row) => row.promotions,
  state: (row) => row.state,
  reason: (row) => row.reason ?? '\u{10FFFF}',
  client: (row) => row.client.program ?? '',
  server: (row) => row.server.program ?? '',
  port: (row) => row.server.port,
  cgroups: (row) => `${row.client.cgroup ?? ''} ${row.server.cgroup ?? ''}`,
} satisfies Record<string, (row: PairRow) => number | string>;

export type SortKey = keyof typeof KEYS;
export const SORT_KEYS = Object.keys(KEYS) as SortKey[];

/** Rows that are equal stay in the order of the table. */
export function sortPairs(rows: readonly PairRow[], key: SortKey): PairRow[] {
  return rows.toSorted((a, b) => compare(KEYS[key](a), KEYS[key](b)));
}

/** Numbers downwards, text upwards. */
export function compare(a: number | string, b: number | string): number {
  if (typeof a === 'number' && typeof b === 'number') return b - a;
  return String(a).localeCompare(String(b));
}
