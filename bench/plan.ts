/** Which rows there are. Pure. */
import type { Path, Placement } from './place.js';
import type { Workload } from './workload.js';
import { connect } from './workloads/connect.js';
import { exchange } from './workloads/exchange.js';
import { memcached } from './workloads/memcached.js';
import { netpipe } from './workloads/netpipe.js';
import { nginx, nginxHttp2, nginxProxy } from './workloads/nginx.js';
import { nodeHttp, nodeHttp2 } from './workloads/node.js';
import { pgbench } from './workloads/pgbench.js';
import { redis } from './workloads/redis.js';
import { sockperf } from './workloads/sockperf.js';

export interface PlannedRow {
  workload: Workload;
  path: Path;
  placement: Placement;
  /** Also measured with --quick. */
  quick: boolean;
}

/**
 * What is loaded in an overhead row beside its traffic. outside: the datapath, attached to another cgroup. remote: the
 * datapath, which the client's end belongs to and the server's does not. tracepoint: the program `observe` alone. empty,
 * remember: see test/fixtures/empty.bpf.c.
 */
export const OVERHEADS = {
  outside: 'a process outside every policy',
  observe: 'policy: action observe',
  tcp: 'policy: action tcp',
  watched: 'a paired stream, never promoted',
  connect: 'connect and close, paired',
  remote: 'a remote peer',
  tracepoint: 'the tracepoint alone',
  empty: 'programs that do nothing in the same places',
  remember: 'the same, and storage for each socket',
} as const;
export type OverheadKind = keyof typeof OVERHEADS;

export interface PlannedOverhead extends PlannedRow {
  kind: OverheadKind;
}

export interface PlannedScale {
  pairs: number;
  quick: boolean;
}

const KIB = 1024;

const PINNED = ['same-cpu', 'cross-cpu'] as const;
const ANYWHERE = ['free'] as const;

function rows(workloads: Workload[], paths: Path[], placements: readonly Placement[], quick = false): PlannedRow[] {
  return paths.flatMap((path) =>
    workloads.flatMap((workload) => placements.map((placement) => ({ workload, path, placement, quick }))),
  );
}

const pingPong = (...sizes: number[]): Workload[] => sizes.map((size) => exchange('pingpong', size));
const streams = (...sizes: number[]): Workload[] => sizes.map((size) => exchange('stream', size));

export const ROWS: readonly PlannedRow[] = [
  ...rows(pingPong(64), ['loopback', 'bridge'], PINNED, true),
  ...rows(pingPong(KIB, 16 * KIB, 64 * KIB), ['loopback', 'bridge'], PINNED),
  ...rows(pingPong(64, KIB, 16 * KIB, 64 * KIB), ['nat'], PINNED),
  ...rows(pingPong(64), ['containers'], PINNED),
  ...rows(pingPong(64), ['loopback'], ANYWHERE),
  ...rows([exchange('pingpong', 64, 'blocking')], ['loopback'], PINNED),
  ...rows(
    [64, 16 * KIB].map((size) => exchange('pingpong', size, 'opted in')),
    ['loopback'],
    PINNED,
  ),

  ...rows(streams(64, 64 * KIB), ['loopback'], ['same-cpu'], true),
  ...rows(streams(64, 64 * KIB), ['loopback'], ['cross-cpu']),
  ...rows(streams(KIB, 1024 * KIB), ['loopback'], PINNED),
  ...rows(streams(64, 64 * KIB, 1024 * KIB), ['bridge'], PINNED),
  ...rows(streams(64 * KIB), ['nat'], PINNED),
  ...rows(
    [64, 64 * KIB].map((size) => exchange('stream', size, 'blocking')),
    ['loopback'],
    PINNED,
  ),

  ...rows([connect()], ['loopback'], ['same-cpu'], true),
  ...rows([connect()], ['loopback'], ['cross-cpu', 'free']),
  ...rows([connect()], ['bridge', 'nat'], ANYWHERE),

  ...rows([redis(1), redis(50)], ['loopback'], ANYWHERE, true),
  ...rows([redis(1, 16), redis(50, 16)], ['loopback'], ANYWHERE),
  ...rows([redis(50)], ['loopback'], PINNED),
  ...rows([redis(1), redis(50)], ['bridge', 'nat', 'containers'], ANYWHERE),

  ...rows([memcached(8)], ['loopback'], ANYWHERE, true),
  ...rows([memcached(1), memcached(2), memcached(4), memcached(16)], ['loopback'], ANYWHERE),
  ...rows([memcached(1), memcached(8)], ['bridge', 'containers'], ANYWHERE),

  ...rows([pgbench('select only', 8)], ['loopback'], ANYWHERE, true),
  ...rows([pgbench('select only', 1), pgbench('TPC-B', 1), pgbench('TPC-B', 8)], ['loopback'], ANYWHERE),
  ...rows([pgbench('select only', 8)], ['bridge', 'nat'], ANYWHERE),

  ...rows([nginx(KIB)], ['loopback'], ANYWHERE, true),
  ...rows([nginx(1), nginx(64 * KIB), nginx(1024 * KIB), nginxHttp2(KIB)], ['loopback'], ANYWHERE),
  ...rows([nginx(1), nginx(64 * KIB)], ['bridge'], ANYWHERE),
  ...rows([nginxProxy(KIB), nginxProxy(64 * KIB)], ['loopback'], ANYWHERE),
  ...rows([nginxProxy(KIB)], ['nat'], ANYWHERE),

  ...rows([nodeHttp(KIB, 8), nodeHttp(16 * KIB, 8)], ['loopback'], ANYWHERE),
  ...rows([nodeHttp(KIB, 1)], ['loopback', 'nat'], ANYWHERE),
  ...rows([nodeHttp2(128, 1), nodeHttp2(128, 50)], ['loopback'], ANYWHERE),
  ...rows([nodeHttp2(128, 50)], ['bridge'], ANYWHERE),

  ...rows([netpipe()], ['loopback', 'bridge'], ['same-cpu']),
  ...rows([netpipe()], ['loopback'], ['cross-cpu']),
  ...rows([sockperf(64)], ['loopback'], PINNED),
  ...rows([sockperf(64)], ['nat'], ANYWHERE),
];

function overhead(kind: OverheadKind, workload: Workload, path: Path = 'loopback', quick = false): PlannedOverhead {
  return { kind, workload, path, placement: 'same-cpu', quick };
}

const quietly = (workload: Workload): Workload => ({ ...workload, redirects: false });
const [smallPingPong] = pingPong(64).map(quietly) as [Workload];
const watchedStream = (size: number): Workload => ({
  ...quietly(exchange('stream', size)),
  policy: 'version: 1\ndefaults: { streams: tcp }\n',
});

export const OVERHEAD_ROWS: readonly PlannedOverhead[] = [
  overhead('outside', smallPingPong, 'loopback', true),
  overhead('outside', quietly(exchange('stream', 64))),
  overhead('outside', connect()),
  overhead('tracepoint', smallPingPong),
  overhead('empty', smallPingPong),
  overhead('empty', connect()),
  overhead('remember', connect()),
  overhead('observe', { ...smallPingPong, policy: 'version: 1\ndefaults: { action: observe }\n' }),
  overhead('tcp', { ...smallPingPong, policy: 'version: 1\ndefaults: { action: tcp }\n' }),
  overhead('watched', watchedStream(64)),
  overhead('watched', watchedStream(64 * KIB)),
  overhead('connect', connect(), 'loopback', true),
  overhead('remote', connect(), 'bridge', true),
  overhead('remote', smallPingPong, 'bridge'),
];

export const SCALE_ROWS: readonly PlannedScale[] = [
  { pairs: 1, quick: false },
  { pairs: 1000, quick: true },
  { pairs: 10_000, quick: false },
  { pairs: 50_000, quick: false },
];

/** Whose programs are profiled. */
export const PROFILED: readonly PlannedRow[] = [
  ...rows(pingPong(64), ['loopback'], ['same-cpu'], true),
  ...rows([exchange('stream', 64), connect()], ['loopback'], ['same-cpu']),
  ...rows([redis(50)], ['loopback'], ANYWHERE),
];

/** As rows are called in what is printed. */
export function nameOf({ workload, path, placement }: PlannedRow): string {
  const { name, size, clients, detail } = workload;
  return [
    name,
    size === null ? undefined : bytes(size),
    clients > 1 ? `${String(clients)} clients` : undefined,
    detail,
    path,
    placement,
  ]
    .filter((part) => part !== undefined)
    .join(', ');
}

export function bytes(size: number): string {
  if (size >= KIB * KIB) return `${String(size / KIB / KIB)} MiB`;
  return size >= KIB ? `${String(size / KIB)} KiB` : `${String(size)} B`;
}

export interface Plan {
  rows: PlannedRow[];
  overhead: PlannedOverhead[];
  scale: PlannedScale[];
  profile: PlannedRow[];
}

/**
 * @param quick the rows of --quick only
 * @param only beginnings of workloads' names, paths, placements, several of them joined by `+`; or `overhead`, `scale`,
 * `profile`. Undefined: all
 */
export function choose(quick: boolean, only?: readonly string[]): Plan {
  const wanted = only?.map((part) => part.trim().toLowerCase()).filter((part) => part !== '');
  const fits = (row: PlannedRow, word: string): boolean =>
    row.workload.name.toLowerCase().startsWith(word) || row.path === word || row.placement === word;
  const isWanted = (row: PlannedRow): boolean =>
    wanted?.some((part) => part.split('+').every((word) => fits(row, word))) ?? true;
  const section = (name: string): boolean => wanted?.includes(name) ?? true;
  const inTime = <T extends { quick: boolean }>(list: readonly T[]): T[] => list.filter((row) => !quick || row.quick);
  return {
    rows: inTime(ROWS).filter(isWanted),
    overhead: section('overhead') ? inTime(OVERHEAD_ROWS) : [],
    scale: section('scale') ? inTime(SCALE_ROWS) : [],
    profile: section('profile') ? inTime(PROFILED) : [],
  };
}

export interface Effort {
  rounds: number;
  /** Seconds of one run. */
  seconds: number;
}

export const FULL: Effort = { rounds: 7, seconds: 0.45 };
export const QUICK: Effort = { rounds: 3, seconds: 0.3 };

export type ColumnName = 'tcp' | 'slipstream' | 'naive' | 'unix';

/** Columns of a row. */
export function columnsOf(row: PlannedRow): ColumnName[] {
  return ['tcp', 'slipstream', 'naive', ...(row.workload.unix && row.path === 'loopback' ? (['unix'] as const) : [])];
}

/** Whether a column is measured in this round, from 0 on: what is only there to compare with is so in every second one. */
export function isMeasured(column: ColumnName, round: number): boolean {
  return column === 'tcp' || column === 'slipstream' || round % 2 === 0;
}

/** What starting and ending a run's programs takes beside the run, and a row's servers; seconds, as seen. */
const RUN_START = 0.35;
const ROW_START = 0.7;
const scaleSeconds = (pairs: number): number => 14 + pairs / 1500;

function runsOf(row: PlannedRow, rounds: number): number {
  return columnsOf(row).reduce((sum, column) => {
    return (
      sum + Array.from({ length: rounds }, (_, round) => round).filter((round) => isMeasured(column, round)).length
    );
  }, 0);
}

/** About how long it will take, seconds. */
export function estimate(plan: Plan, { rounds, seconds }: Effort): number {
  const run = ({ workload }: PlannedRow): number => Math.max(seconds, workload.leastSeconds ?? 0) + RUN_START;
  const sum = (list: number[]): number => list.reduce((a, b) => a + b, 0);
  return (
    sum(plan.rows.map((row) => ROW_START + runsOf(row, rounds) * run(row))) +
    sum(plan.overhead.map((row) => ROW_START + overheadRounds(rounds) * 2 * run(row))) +
    sum(plan.scale.map(({ pairs }) => scaleSeconds(pairs))) +
    sum(plan.profile.map((row) => ROW_START + run(row)))
  );
}

/** Small differences need more rounds. */
export function overheadRounds(rounds: number): number {
  return 2 * rounds + 1;
}
