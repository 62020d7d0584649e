/** One row: rounds in which every column runs once, in turns, because machines drift. */
import type { GateFacts } from '../controller/probe/findings.js';
import type { Sandbox } from '../test/kernel/support/sandbox.js';
import { type Loaded, loadEmpty, loadNaive, loadSlipstream, loadTracepoint, NOTHING } from './datapaths.js';
import type { Overhead, Row } from './format.js';
import { type Network, Place, type Role } from './place.js';
import {
  type ColumnName,
  columnsOf,
  isMeasured,
  type OverheadKind,
  OVERHEADS,
  type PlannedOverhead,
  type PlannedRow,
} from './plan.js';
import { median, medianInterval } from './statistics.js';
import type { Transport, Workload } from './workload.js';

/** What the bench has made for its rows. */
export interface Bench {
  sandbox: Sandbox;
  network: Network;
  /** cgroups of the ends, below the sandbox's. */
  cgroups: Record<Role, string>;
  /** A cgroup beside the sandbox's that nothing runs in. */
  elsewhere: string;
  gate: GateFacts | undefined;
  signal: AbortSignal;
}

interface Column {
  name: ColumnName;
  transport: Transport;
  load: () => Loaded;
}

interface Samples {
  values: (number | undefined)[];
  /** CPU seconds a unit of work. */
  cpu: (number | undefined)[];
  redirected: number;
  /** Why it was given up. */
  failure: string | undefined;
}

/** Messages that are no proof: a connection is watched before it is promoted, and a stream looks for its way now and then. */
const SOME_MESSAGES = 50;

/** @throws Error with the reason if TCP or slipstream could not be measured */
export async function measureRow(bench: Bench, row: PlannedRow, rounds: number, seconds: number): Promise<Row> {
  const { workload } = row;
  const all: Record<Column['name'], Column> = {
    tcp: { name: 'tcp', transport: 'tcp', load: () => NOTHING },
    slipstream: {
      name: 'slipstream',
      transport: 'tcp',
      load: () => loadSlipstream(bench.sandbox.cgroup, bench.gate, workload.policy),
    },
    naive: { name: 'naive', transport: 'tcp', load: () => loadNaive(bench.sandbox.cgroup) },
    unix: { name: 'unix', transport: 'unix', load: () => NOTHING },
  };
  const columns = columnsOf(row).map((name) => all[name]);
  const samples = await run(bench, row, columns, rounds, seconds);
  const { tcp, slipstream, naive, unix } = samples;
  return {
    ...described(row),
    tcp: middle(tcp) ?? NaN,
    slipstream: middle(slipstream) ?? NaN,
    naive: middle(naive),
    unix: middle(unix),
    ...compared(workload, tcp, slipstream, rounds),
    naiveRatio: medianOrNull(ratios(workload, tcp, naive)),
    unixRatio: medianOrNull(ratios(workload, tcp, unix)),
    note: joined([
      unexpected(workload, slipstream.redirected),
      naive?.failure === undefined ? undefined : `naive sockmap: ${naive.failure}`,
      unix?.failure === undefined ? undefined : `AF_UNIX: ${unix.failure}`,
    ]),
  };
}

/** @throws Error with the reason if it could not be measured */
export async function measureOverhead(
  bench: Bench,
  row: PlannedOverhead,
  rounds: number,
  seconds: number,
): Promise<Overhead> {
  const columns: Column[] = [
    { name: 'tcp', transport: 'tcp', load: () => NOTHING },
    { name: 'slipstream', transport: 'tcp', load: () => loadOverhead(bench, row.kind, row.workload.policy) },
  ];
  const { tcp, slipstream } = await run(bench, row, columns, rounds, seconds);
  return {
    overhead: OVERHEADS[row.kind],
    ...described(row),
    tcp: middle(tcp) ?? NaN,
    slipstream: middle(slipstream) ?? NaN,
    ...compared(row.workload, tcp, slipstream, rounds),
    note: joined([unexpected(row.workload, slipstream.redirected)]),
  };
}

function loadOverhead(bench: Bench, kind: OverheadKind, policy: string | undefined): Loaded {
  if (kind === 'tracepoint') return loadTracepoint();
  if (kind === 'empty') return loadEmpty(bench.sandbox.cgroup, 'empty_establish');
  if (kind === 'remember') return loadEmpty(bench.sandbox.cgroup, 'empty_remember');
  const attached =
    kind === 'outside' ? bench.elsewhere : kind === 'remote' ? bench.cgroups.client : bench.sandbox.cgroup;
  return loadSlipstream(attached, bench.gate, policy);
}

/** Starts a row's servers, for as long as `use` takes. */
export async function withPlace<T>(bench: Bench, row: PlannedRow, use: (place: Place) => Promise<T>): Promise<T> {
  const { path, placement } = row;
  const place = await Place.make({ ...bench, path, placement });
  const abort = (): void => {
    place.kill();
  };
  bench.signal.addEventListener('abort', abort);
  try {
    return await use(place);
  } finally {
    bench.signal.removeEventListener('abort', abort);
    await place.stop();
  }
}

type AllSamples = Record<'tcp' | 'slipstream', Samples> & Partial<Record<'naive' | 'unix', Samples>>;

async function run(
  bench: Bench,
  row: PlannedRow,
  columns: Column[],
  rounds: number,
  seconds: number,
): Promise<AllSamples> {
  const { workload } = row;
  const samples = Object.fromEntries(
    columns.map(({ name }) => [name, { values: [], cpu: [], redirected: 0, failure: undefined }]),
  ) as unknown as AllSamples;
  await withPlace(bench, row, async (place) => {
    let serving = false;
    for (let round = 0; round < rounds; round++) {
      for (let turn = 0; turn < columns.length; turn++) {
        // Whoever comes first in a round is not always the same.
        const column = columns[(turn + round) % columns.length];
        const own = column === undefined ? undefined : samples[column.name];
        if (column === undefined || own?.failure !== undefined || own === undefined) continue;
        if (!isMeasured(column.name, round)) continue;
        if (serving && workload.startsAnew === true) {
          await place.stop();
          serving = false;
        }
        const loaded = column.load();
        try {
          if (!serving) await workload.start?.(place);
          serving = true;
          place.takeCost();
          const value = await inTime(place, workload.run(place, column.transport, seconds), limit(column, seconds));
          const { cpu, seconds: wall } = place.takeCost();
          own.values[round] = value;
          // Units a second of the client's time, for a time its inverse.
          own.cpu[round] = cpu / wall / (workload.higherIsBetter ? value : 1 / value);
        } catch (error) {
          bench.signal.throwIfAborted();
          if (column.name === 'tcp' || column.name === 'slipstream') throw error;
          own.values = [];
          own.failure = error instanceof Error ? error.message : String(error);
          await place.stop();
          serving = false;
        } finally {
          own.redirected += loaded.redirected() ?? 0;
          await loaded.remove();
        }
      }
    }
  });
  return samples;
}

/** Milliseconds that a run may take. A naive sockmap hangs where programs expect what it does not do. */
function limit(column: Column, seconds: number): number {
  return (column.name === 'naive' ? 4 : 20) * 1000 + 5000 * seconds;
}

async function inTime<T>(place: Place, work: Promise<T>, milliseconds: number): Promise<T> {
  const late = new AbortController();
  const timer = setTimeout(() => {
    late.abort();
    place.kill();
  }, milliseconds);
  try {
    return await work;
  } catch (error) {
    throw late.signal.aborted ? new Error(`hangs: not done after ${String(milliseconds / 1000)} s`) : error;
  } finally {
    clearTimeout(timer);
  }
}

function described({ workload, path, placement }: PlannedRow) {
  const { name, size, clients, detail, unit, higherIsBetter } = workload;
  return { workload: name, path, size, placement, clients, detail: detail ?? null, unit, higherIsBetter };
}

/** Each round's ratio to TCP, above 1 for what is faster. */
export function ratios(
  { higherIsBetter }: Pick<Workload, 'higherIsBetter'>,
  tcp: Pick<Samples, 'values'>,
  other: Pick<Samples, 'values'> | undefined,
): number[] {
  return tcp.values.flatMap((base, round) => {
    const value = other?.values[round];
    if (base === undefined || value === undefined) return [];
    return [higherIsBetter ? value / base : base / value];
  });
}

function compared(workload: Workload, tcp: Samples, slipstream: Samples, runs: number) {
  const list = ratios(workload, tcp, slipstream);
  const [ratioLow, ratioHigh] = medianInterval(list);
  const cpu = ratios({ higherIsBetter: true }, { values: tcp.cpu }, { values: slipstream.cpu });
  return {
    ratio: median(list),
    ratioLow,
    ratioHigh,
    runs,
    cpuRatio: medianOrNull(cpu),
    redirectedMessages: slipstream.redirected,
  };
}

function middle(samples: Samples | undefined): number | null {
  return medianOrNull(samples?.values.filter((value) => value !== undefined) ?? []);
}

function medianOrNull(values: readonly number[]): number | null {
  return values.length === 0 ? null : median(values);
}

/** What the datapath's counter says against the row, if so. */
export function unexpected({ redirects }: Pick<Workload, 'redirects'>, messages: number): string | undefined {
  if (redirects === undefined || redirects === messages > SOME_MESSAGES) return undefined;
  return `unexpected: ${String(messages)} messages were redirected`;
}

function joined(notes: (string | undefined)[]): string | null {
  return notes.filter((note) => note !== undefined).join('; ') || null;
}
