/** What was aimed at before it was measured, and what came of it. Pure. */
import type { Overhead, Row } from './format.js';
import type { Path, Placement } from './place.js';
import { OVERHEADS } from './plan.js';

export interface Goal {
  name: string;
  /** Ratio to plain TCP; to AF_UNIX where `toUnix`. */
  atLeast: number;
  toUnix?: boolean;
  /** Of the rows together, not of each. */
  median?: boolean;
  of: (row: Row | Overhead) => boolean;
}

export interface Outcome {
  goal: Goal;
  /** Of each row, or their median. */
  ratios: number[];
  /** How many of these reach it. */
  reached: number;
  /** How many of the others could not, as their bound does not. */
  bounded: number;
  /** How many of the rest have an interval that reaches it. */
  undecided: number;
  /** What each could come to, where that is known. */
  bounds: number[];
}

const isRow = (row: Row | Overhead): row is Row => !('overhead' in row);

/** Rows of the datapath, not of what it is compared with. */
export function isOurs(row: Row | Overhead): boolean {
  return isRow(row) || ![OVERHEADS.empty, OVERHEADS.remember].some((name) => name === row.overhead);
}

function rows(
  workload: string,
  paths: readonly Path[],
  placements: readonly Placement[],
  also: (row: Row) => boolean = () => true,
): Goal['of'] {
  return (row) =>
    isRow(row) &&
    row.workload === workload &&
    paths.includes(row.path) &&
    placements.includes(row.placement) &&
    (row.detail === null || row.detail.startsWith('pipeline')) &&
    also(row);
}

const small = ({ size }: Row): boolean => (size ?? 0) <= 16 * 1024;
const large = ({ size }: Row): boolean => (size ?? 0) >= 64 * 1024;
const redis = (clients: number, pipeline: boolean): Goal['of'] =>
  rows('redis GET', ['loopback'], ['free'], (row) => row.clients === clients && (row.detail !== null) === pipeline);
const overhead =
  (name: RegExp, workload?: string): Goal['of'] =>
  (row) =>
    'overhead' in row && name.test(row.overhead) && (workload === undefined || row.workload === workload);

/** From the issue that asked for the speed. */
export const GOALS: readonly Goal[] = [
  {
    name: 'ping-pong, 64 B to 16 KiB, loopback, same-cpu',
    atLeast: 1.7,
    of: rows('ping-pong', ['loopback'], ['same-cpu'], small),
  },
  {
    name: 'ping-pong, 64 B to 16 KiB, loopback, cross-cpu',
    atLeast: 1.25,
    of: rows('ping-pong', ['loopback'], ['cross-cpu'], small),
  },
  {
    name: 'the same against AF_UNIX, same-cpu',
    atLeast: 1,
    toUnix: true,
    of: rows('ping-pong', ['loopback'], ['same-cpu'], small),
  },
  {
    name: 'the same against AF_UNIX, cross-cpu',
    atLeast: 0.85,
    toUnix: true,
    of: rows('ping-pong', ['loopback'], ['cross-cpu'], small),
  },
  {
    name: 'ping-pong, bridge and NAT, same-cpu',
    atLeast: 2.2,
    of: rows('ping-pong', ['bridge', 'nat'], ['same-cpu']),
  },
  {
    name: 'ping-pong, bridge and NAT, cross-cpu',
    atLeast: 1.5,
    of: rows('ping-pong', ['bridge', 'nat'], ['cross-cpu']),
  },
  { name: 'redis, 50 clients', atLeast: 1.55, of: redis(50, false) },
  { name: 'redis, 1 client', atLeast: 1.25, of: redis(1, false) },
  { name: 'redis, 50 clients, pipeline 16', atLeast: 1.2, of: redis(50, true) },
  {
    name: 'memcached, median over the numbers of threads',
    atLeast: 1.4,
    median: true,
    of: rows('memcached GET', ['loopback'], ['free']),
  },
  {
    name: 'the same against AF_UNIX',
    atLeast: 1,
    toUnix: true,
    median: true,
    of: rows('memcached GET', ['loopback'], ['free']),
  },
  {
    name: 'pgbench select only, 8 clients',
    atLeast: 1.12,
    of: rows('pgbench select only', ['loopback'], ['free'], ({ clients }) => clients === 8),
  },
  {
    name: 'the same against AF_UNIX',
    atLeast: 0.97,
    toUnix: true,
    of: rows('pgbench select only', ['loopback'], ['free'], ({ clients }) => clients === 8),
  },
  {
    name: 'redis between containers',
    atLeast: 2,
    of: rows('redis GET', ['containers'], ['free']),
  },
  {
    name: 'memcached between containers',
    atLeast: 2,
    of: rows('memcached GET', ['containers'], ['free']),
  },
  {
    name: 'streams, loopback',
    atLeast: 0.97,
    of: (row) => isRow(row) && row.workload === 'stream' && row.path === 'loopback',
  },
  {
    name: 'streams of 64 KiB and more between namespaces',
    atLeast: 1.2,
    of: rows('stream', ['bridge', 'nat'], ['same-cpu', 'cross-cpu'], large),
  },
  { name: 'connect, one exchange, close: paired', atLeast: 0.97, of: overhead(/^connect and close, paired/) },
  { name: 'connect, one exchange, close: remote', atLeast: 0.99, of: overhead(/^a remote peer/, 'connect') },
  { name: 'a process outside every policy', atLeast: 0.99, of: overhead(/^a process outside/) },
  { name: 'any row at all', atLeast: 0.97, of: isOurs },
];

/**
 * What the kernel lets a row come to, in relation to TCP. Messages: the naive sockmap, which does nothing but redirect; it
 * does not find pairs behind address translation, so there it is what it carries over a bridge, or else on loopback, as
 * redirected messages cross no network. Overhead: programs that do nothing,
 * or for paired connections those that keep something for each socket. Null: not measured
 */
function boundOf(row: Row | Overhead, all: readonly (Row | Overhead)[]): number | null {
  const isNamesake = (other: Row | Overhead, path: Path): boolean =>
    other.workload === row.workload &&
    other.size === row.size &&
    other.clients === row.clients &&
    other.detail === row.detail &&
    other.placement === row.placement &&
    other.path === path;
  if (!isRow(row)) {
    const kind = row.workload === 'connect' && row.overhead.includes('paired') ? 'remember' : 'empty';
    const bound = all.find(
      (other) => !isRow(other) && other.overhead === OVERHEADS[kind] && isNamesake(other, 'loopback'),
    );
    return bound === undefined || bound === row ? null : bound.ratio;
  }
  if (row.path === 'loopback' || row.path === 'bridge') return row.naiveRatio;
  const naive = (['bridge', 'loopback'] as const)
    .map((path) => all.find((other): other is Row => isRow(other) && isNamesake(other, path))?.naive)
    .find((value) => value != null);
  if (naive == null) return null;
  return row.higherIsBetter ? naive / row.tcp : row.tcp / naive;
}

/** Those that something was measured for. */
export function outcomes(all: readonly (Row | Overhead)[], median: (values: readonly number[]) => number): Outcome[] {
  return GOALS.flatMap((goal) => {
    const measured = all.filter(goal.of).flatMap((row) => {
      const reference = goal.toUnix === true ? (isRow(row) ? row.unixRatio : null) : 1;
      if (reference === null || reference === 0) return [];
      const bound = boundOf(row, all);
      return [
        {
          ratio: row.ratio / reference,
          high: row.ratioHigh / reference,
          bound: bound === null ? null : bound / reference,
        },
      ];
    });
    if (measured.length === 0) return [];
    const known = measured.flatMap(({ bound }) => bound ?? []);
    const results =
      goal.median === true
        ? [
            {
              ratio: median(measured.map(({ ratio }) => ratio)),
              high: median(measured.map(({ high }) => high)),
              bound: known.length === 0 ? null : median(known),
            },
          ]
        : measured;
    const reaches = (value: number): boolean => Number(value.toFixed(2)) >= goal.atLeast; // as it is printed
    const missed = results.filter(({ ratio }) => !reaches(ratio));
    const able = missed.filter(({ bound }) => bound === null || reaches(bound));
    return [
      {
        goal,
        ratios: results.map(({ ratio }) => ratio),
        reached: results.length - missed.length,
        bounded: missed.length - able.length,
        undecided: able.filter(({ high }) => reaches(high)).length,
        bounds: results.flatMap(({ bound }) => bound ?? []),
      },
    ];
  });
}
