/**
 * `bench --port`: the connections of a port, as they are used by whoever uses them, on TCP and on the direct path in
 * turns. The controller moves them, as it demotes and promotes otherwise; this reads what they did from the table.
 */
import { release } from 'node:os';
import { setTimeout as pause } from 'node:timers/promises';

import type { Datapath } from '../datapath/datapath.js';
import { type PairRecord, SIDES, type State } from '../datapath/pair-table.js';
import type { Measurement } from '../decisions/measurement.js';
import { UserError } from '../errors.js';
import { isHeld } from '../view/status.js';
import { compare, type Comparison, type PairTraffic, plan, type Window } from './comparison.js';
import { Lease } from './lease.js';
import { processorTime } from './processor-time.js';

/** How long pairs may take to change over, milliseconds. What is late is left out of that window. */
const SETTLE_LIMIT = 5000;
const POLL = 5;
const NEVER = 2n ** 63n;
/** The states of pairs that are on the path. A candidate is on TCP until the controller has sent it back there. */
const ON: Record<Measurement['path'], State[]> = { tcp: ['observed', 'candidate'], direct: ['inserted'] };

export interface PortBenchResult extends Comparison {
  kernel: string;
  port: number;
  /** Length of a window. */
  windowSeconds: number;
  /** At the ends of these pairs. */
  programs: { program: string; pid: number }[];
}

/** @throws UserError if there is nothing to measure, or it could not be finished; everything is put back then, too */
export async function measurePort(
  datapath: Datapath,
  pinDir: string,
  port: number,
  seconds: number,
  signal: AbortSignal,
): Promise<PortBenchResult> {
  const table = new PortTable(datapath, port);
  requireController(datapath, pinDir);
  const { windows: count, length } = plan(seconds);
  const lease = Lease.take(datapath.settings, { port, path: 'direct' });
  const windows: Window[] = [];
  const programs = new Map<number, string>();
  try {
    if (table.records('approved', 'inserted').length === 0) {
      throw new UserError(
        `no promoted connection has port ${String(port)} at either end: "slipstream-bpf explain ${String(port)}" says why`,
      );
    }
    for (let index = 0; index < count; index++) {
      const path = index % 2 === 0 ? 'tcp' : 'direct';
      lease.use(path);
      await table.settle(path, signal);
      requireController(datapath, pinDir);
      if (index === 0 && !table.isMoved()) {
        throw new UserError('the controller does not take these connections to TCP: look into its log');
      }
      const before = table.look(path);
      for (const { ends } of before.records.values()) {
        for (const { pid, program } of ends) if (pid !== 0) programs.set(pid, program);
      }
      await pause(length, undefined, { signal });
      lease.check();
      windows.push(difference(path, before, table.look(path)));
    }
  } catch (error) {
    if (!signal.aborted) throw error;
    throw new UserError('the measurement was not finished: it was interrupted', undefined, { cause: error });
  } finally {
    lease.release();
    await table.settle('direct');
  }
  const comparison = compare(windows);
  if (comparison === undefined) {
    throw new UserError(
      `nothing was sent on the connections of port ${String(port)} in two windows that follow each other: measure while they are in use, or longer with --seconds`,
    );
  }
  return {
    kernel: release(),
    port,
    windowSeconds: length / 1000,
    programs: [...programs].map(([pid, program]) => ({ program, pid })),
    ...comparison,
  };
}

/** @throws UserError */
function requireController({ settings }: Datapath, pinDir: string): void {
  if (!settings.paused && !settings.leave && isHeld(pinDir)) return;
  throw new UserError(
    'no controller runs that could take the connections to TCP and back: start one with "slipstream-bpf up"',
  );
}

/** What was seen at one moment. */
interface Look {
  at: bigint;
  records: ReadonlyMap<string, PairRecord>;
  /** Undefined: a process could not be seen. */
  cpu: ReadonlyMap<number, number> | undefined;
}

/** The pairs of a port. */
class PortTable {
  readonly #datapath: Datapath;
  readonly #port: number;
  /** Pairs that did not change over in time: nobody waits for them until they have. */
  readonly #late = new Set<string>();

  constructor(datapath: Datapath, port: number) {
    this.#datapath = datapath;
    this.#port = port;
  }

  records(...states: State[]): PairRecord[] {
    const { pairs } = this.#datapath;
    return [...pairs.slots(...states)].flatMap(([slot, control]) =>
      pairs.hasPort(slot, this.#port) ? (pairs.read(slot, control) ?? []) : [],
    );
  }

  /** Whether the controller has taken a pair to TCP. There, until it has been looked at again, it may be a candidate. */
  isMoved(): boolean {
    return this.records(...ON.tcp, 'draining', 'leaving').some(({ demotion }) => demotion === 'measured');
  }

  /** Waits until all pairs that take part are on the path, or it has taken too long. */
  async settle(path: Measurement['path'], signal?: AbortSignal): Promise<void> {
    const deadline = performance.now() + SETTLE_LIMIT;
    for (;;) {
      const onTheWay = new Set(this.#onTheWay(path).map(idOf));
      for (const id of this.#late) if (!onTheWay.has(id)) this.#late.delete(id);
      const awaited = [...onTheWay].filter((id) => !this.#late.has(id));
      if (awaited.length === 0) return;
      if (performance.now() >= deadline) {
        for (const id of awaited) this.#late.add(id);
        return;
      }
      await pause(POLL, undefined, { signal });
    }
  }

  look(path: Measurement['path']): Look {
    const records = this.records(...ON[path]).filter(({ demotion }) => path === 'direct' || demotion === 'measured');
    const programs = new Map(records.flatMap(({ ends }) => ends.map(({ pid, program }) => [pid, program] as const)));
    const cpu = new Map<number, number>();
    for (const [pid, program] of programs) {
      const time = processorTime(pid, program);
      if (time !== undefined) cpu.set(pid, time);
    }
    return {
      at: process.hrtime.bigint(),
      records: new Map(records.map((record) => [idOf(record), record])),
      cpu: cpu.size === programs.size ? cpu : undefined,
    };
  }

  #onTheWay(path: Measurement['path']): PairRecord[] {
    // What is a candidate is kept on TCP, or was approved before the request came.
    if (path === 'tcp') return this.records('candidate', 'approved', 'inserted', 'draining', 'leaving');
    return this.records('observed', 'candidate', 'approved', 'draining', 'leaving').filter(
      ({ demotion, refusal, retryNs }) => demotion === 'measured' && (refusal === 'none' || retryNs !== NEVER),
    );
  }
}

const idOf = ({ slot, control }: PairRecord): string => `${String(slot)}.${String(control.generation)}`;

/** Only of pairs that were there at both moments, and did what the path says. */
function difference(path: Window['path'], before: Look, after: Look): Window {
  const pairs = new Map<string, PairTraffic>();
  for (const [id, record] of after.records) {
    const start = before.records.get(id);
    if (start?.insertedNs !== record.insertedNs) continue;
    const sum = (of: (pair: PairRecord, side: 0 | 1) => number): number =>
      SIDES.reduce<number>((all, side) => all + of(record, side) - of(start, side), 0);
    pairs.set(id, {
      bytes: sum(({ ends }, side) => ends[side].receivedBytes),
      receives: sum(({ ends }, side) => ends[side].receives),
      redirectedMessages: sum(({ directions }, side) => directions[side].redirectedMessages),
      passedMessages: sum(({ directions }, side) => directions[side].passedMessages),
    });
  }
  let cpu: number | null = before.cpu === undefined || after.cpu === undefined ? null : 0;
  for (const [pid, time] of after.cpu ?? []) {
    const start = before.cpu?.get(pid);
    cpu = cpu === null || start === undefined ? null : cpu + time - start;
  }
  return { path, seconds: Number(after.at - before.at) / 1e9, pairs, cpu };
}
