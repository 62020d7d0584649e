/** `pairs`: one row a connection. */
import stringWidth from 'string-width';

import type { CgroupNames } from '../datapath/cgroups.js';
import type { Datapath } from '../datapath/datapath.js';
import { type PairRecord, SIDES, type State, STATES } from '../datapath/pair-table.js';
import { type Container, innermost, namesOf, type Pod } from '../policy/names.js';
import { printable } from '../policy/words.js';
import { shortName } from './short-name.js';
import { GONE } from './totals.js';

export interface EndRow {
  address: string;
  port: number;
  remoteAddress: string;
  remotePort: number;
  pid: number | null;
  program: string | null;
  /** Path below the cgroup v2 root; null once it is gone, or while it is pending. */
  cgroup: string | null;
  /** The innermost unit, container and pod that this path names. */
  unit: string | null;
  container: Pick<Container, 'id' | 'engine'> | null;
  pod: Pick<Pod, 'uid' | 'qos'> | null;
  netns: number;
}

export interface DirectionRow {
  path: 'tcp' | 'direct';
  redirectedBytes: number;
  redirectedMessages: number;
  passedMessages: number;
  lastPass: string | null;
  /** How long its reader has taken nothing of what waits; null unless it has stalled. */
  stalledSeconds: number | null;
}

export interface PairRow {
  id: string;
  state: State;
  ageSeconds: number;
  promotions: number;
  /** It was a connection before the datapath was there; its age counts from then on. */
  adopted: boolean;
  /** Runs in one direction are redirected, too. */
  stream: boolean;
  /** What is wrong with it, why it is not promoted, or was taken back; null if none of these. */
  reason: string | null;
  client: EndRow;
  server: EndRow;
  toServer: DirectionRow;
  toClient: DirectionRow;
}

/** Every pair, or those in one state, in the order of the table. */
export function pairRows(datapath: Datapath, cgroups: CgroupNames, state?: State): PairRow[] {
  const wanted = state === undefined ? STATES.filter((name) => name !== 'free') : [state];
  const now = process.hrtime.bigint();
  const rows: PairRow[] = [];
  for (const [slot, control] of datapath.pairs.slots(...wanted)) {
    const record = datapath.pairs.read(slot, control);
    if (record !== undefined) rows.push(toRow(record, cgroups, now));
  }
  return rows;
}

/** A record as people and JSON see it. @param now CLOCK_MONOTONIC, nanoseconds */
export function toRow(record: PairRecord, cgroups: CgroupNames, now: bigint): PairRow {
  const [client, server] = SIDES.map((side): EndRow => {
    const end = record.ends[side];
    const cgroup = cgroups.path(end.cgroupId) ?? null;
    return {
      address: end.address,
      port: end.port,
      remoteAddress: end.remoteAddress,
      remotePort: end.remotePort,
      pid: end.pid || null,
      program: end.program || null,
      cgroup,
      ...innermostNames(cgroup),
      netns: end.netns,
    };
  }) as [EndRow, EndRow];
  const [toServer, toClient] = SIDES.map((side): DirectionRow => {
    const { path, redirectedBytes, redirectedMessages, passedMessages, lastPass, stalledNs } = record.directions[side];
    const stalledSeconds = stalledNs === 0n ? null : Number(now - stalledNs) / 1e9;
    return { path, redirectedBytes, redirectedMessages, passedMessages, lastPass: lastPass ?? null, stalledSeconds };
  }) as [DirectionRow, DirectionRow];
  return {
    id: `${String(record.slot)}.${String(record.control.generation)}`,
    state: record.control.state,
    ageSeconds: Number(now - record.createdNs) / 1e9,
    promotions: record.promotions,
    adopted: record.adopted,
    stream: record.stream,
    reason: reason(record),
    client,
    server,
    toServer,
    toClient,
  };
}

/** The names in a cgroup's path. */
export function innermostNames(cgroup: string | null): Pick<EndRow, 'unit' | 'container' | 'pod'> {
  const names = namesOf(cgroup ?? '/');
  const container = innermost(names, 'container');
  const pod = innermost(names, 'pod');
  return {
    unit: innermost(names, 'unit')?.name ?? null,
    container: container ? { id: container.id, engine: container.engine } : null,
    pod: pod ? { uid: pod.uid, qos: pod.qos } : null,
  };
}

function reason(record: PairRecord): string | null {
  if (record.directions.some(({ overtaken }) => overtaken)) return 'overtaken';
  if (record.directions.some(({ stalledNs }) => stalledNs !== 0n)) return 'stalled';
  if (record.control.state === 'inserted') return null;
  if (record.refusal !== 'none') return record.refusal;
  return record.demotion === 'none' ? null : record.demotion;
}

/** The columns of the table; those behind CGROUPS are shown on request. */
const COLUMNS = [
  'PAIR',
  'STATE',
  'CLIENT',
  'SERVER',
  'PATH',
  'REDIRECTED',
  'MESSAGES',
  'PASSED',
  'REASON',
  'CGROUPS',
  'AGE',
  'PROMOTIONS',
  'NETNS',
];

/** The same as options of the command line name them. */
export const PAIR_COLUMNS = COLUMNS.map((name) => name.toLowerCase());
const DEFAULT_COLUMNS = PAIR_COLUMNS.slice(0, PAIR_COLUMNS.indexOf('cgroups') + 1);

export interface TableOptions {
  /** Of PAIR_COLUMNS, in the order wanted. */
  columns?: readonly string[] | undefined;
  header?: boolean;
}

/** A table for people; columns end where the widest cell does. */
export function renderPairs(
  rows: readonly PairRow[],
  { columns = DEFAULT_COLUMNS, header = true }: TableOptions = {},
): string {
  const cells = rows.map((row) => [
    row.id,
    row.state,
    formatEnd(row.client),
    formatEnd(row.server),
    `${row.toServer.path}/${row.toClient.path}`,
    formatBytes(row.toServer.redirectedBytes + row.toClient.redirectedBytes),
    String(row.toServer.redirectedMessages + row.toClient.redirectedMessages),
    String(row.toServer.passedMessages + row.toClient.passedMessages),
    row.reason ?? '-',
    [row.client, row.server].map(({ cgroup }) => (cgroup === null ? GONE : shortName(cgroup))).join(' > '),
    formatDuration(row.ageSeconds),
    String(row.promotions),
    `${String(row.client.netns)} > ${String(row.server.netns)}`,
  ]);
  const shown = columns.map((name) => PAIR_COLUMNS.indexOf(name));
  return renderTable([...(header ? [COLUMNS] : []), ...cells].map((row) => shown.map((column) => row[column] ?? '')));
}

/** Left-aligned columns, two spaces apart. */
export function renderTable(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => stringWidth(row[column] ?? ''))));
  return rows
    .map((row) =>
      row
        .map((cell, column) => cell + ' '.repeat((widths[column] ?? 0) - stringWidth(cell)))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

export function formatEnd(end: EndRow): string {
  return `${formatEndpoint(end.address, end.port)} ${formatProgram(end)}`;
}

/** `127.0.0.1:80`, `[::1]:80`. */
export function formatEndpoint(address: string, port: number): string {
  return `${address.includes(':') ? `[${address}]` : address}:${String(port)}`;
}

/** `curl(77)`; `?` for what has not received yet. */
export function formatProgram({ program, pid }: Pick<EndRow, 'program' | 'pid'>): string {
  return `${program === null ? '?' : printable(program)}${pid === null ? '' : `(${String(pid)})`}`;
}

const DAY = 86_400;

/** 90 as `1m30s`, as ps and kubectl write ages: the two largest units. */
export function formatDuration(seconds: number): string {
  const whole = Math.floor(seconds);
  const [days, hours, minutes, rest] = [
    Math.floor(whole / DAY),
    Math.floor(whole / 3600) % 24,
    Math.floor(whole / 60) % 60,
    whole % 60,
  ];
  if (days > 0) return `${String(days)}d${String(hours)}h`;
  if (hours > 0) return `${String(hours)}h${String(minutes)}m`;
  if (minutes > 0) return `${String(minutes)}m${String(rest)}s`;
  return whole > 0 ? `${String(rest)}s` : '<1s';
}

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

/** 1536 as `1.5 KiB`. */
export function formatBytes(bytes: number): string {
  let power = 0;
  let value = bytes;
  // As it will be rounded: 1023.99 KiB is 1.0 MiB.
  while (power < UNITS.length - 1 && Number(value.toFixed(1)) >= 1024) {
    value /= 1024;
    power++;
  }
  return `${value.toFixed(power === 0 ? 0 : 1)} ${UNITS[power] ?? ''}`;
}
