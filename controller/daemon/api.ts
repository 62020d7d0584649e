/** What /api answers: the datapath's status and its pairs, as JSON. */
import { setImmediate } from 'node:timers/promises';

import type { CgroupNames } from '../datapath/cgroups.js';
import type { Datapath } from '../datapath/datapath.js';
import { type Control, type State, STATES } from '../datapath/pair-table.js';
import type { Metrics } from '../metrics/metrics.js';
import { cgroupMatcher, cgroupProblem } from '../policy/glob.js';
import { anyOf, quote, suggest } from '../policy/words.js';
import type { BugReport, KnownBug } from '../probe/known-bugs.js';
import { type FindingId, type FindingStatus, gateFacts, MEANING } from '../probe/findings.js';
import { totalBacklog } from '../view/backlog.js';
import { type EndRow, type PairRow, toRow } from '../view/pairs.js';
import { type Rate, RateMeter } from '../view/rates.js';
import { shortName } from '../view/short-name.js';
import { datapathStatus, type Status } from '../view/status.js';

export interface GateView {
  id: FindingId;
  status: FindingStatus;
  asks: string;
  /** What it means and what to do, unless all is well. */
  consequence: string | null;
  remedy: string | null;
  /** Whether it forbids every promotion. */
  forbids: boolean;
}

/** What /api/status answers. */
export interface ApiStatus extends Status {
  /** Unix time, milliseconds. */
  now: number;
  controller: { started: number; stalled: number; learned: number; backlogBytes: number; dropped: number };
  policy: {
    file: string;
    hash: string;
    rules: number;
    readAt: number;
    reloads: { success: number; failure: number };
    /** Of the last reading; problem: why the file is not in force. */
    lastReading: { at: number; problem: string | null };
  } | null;
  kernel: { name: string; findings: GateView[]; bugs: Pick<KnownBug, 'id' | 'summary' | 'needs' | 'consequence'>[] };
  /** Over all open pairs; null until there are two readings. */
  rate: Rate | null;
}

export interface ApiEnd extends EndRow {
  /** The cgroup as people know it: its unit, container or pod, as `pairs` shows it; null once it is gone. */
  name: string | null;
}

export interface ApiPair extends PairRow {
  client: ApiEnd;
  server: ApiEnd;
  /** Null until there are two readings. */
  rate: Rate | null;
}

export interface PairQuery {
  state: State | undefined;
  reason: string | undefined;
  /** Of either end, like the rest. */
  program: string | undefined;
  cgroup: string | undefined;
  port: number | undefined;
  sort: 'table' | 'rate';
  limit: number;
}

export interface PairList {
  pairs: ApiPair[];
  /** The limit left some out. */
  more: boolean;
}

const LIMIT = { usual: 1000, most: 10_000 };
const SORTS = ['table', 'rate'] as const;
const KEYS = ['state', 'reason', 'program', 'cgroup', 'port', 'sort', 'limit'] as const;
const SHOWN = STATES.filter((state) => state !== 'free');
/** Pairs that are read without letting the controller do something else. */
const BATCH = 200;

/** A query that makes no sense: one sentence. */
export class QueryError extends Error {}

/** @throws QueryError */
export function parsePairQuery(parameters: URLSearchParams): PairQuery {
  for (const key of parameters.keys()) {
    if (!(KEYS as readonly string[]).includes(key)) {
      throw new QueryError(`unknown parameter ${quote(key)}: ${suggest(key, KEYS)}`);
    }
    if (parameters.getAll(key).length > 1) throw new QueryError(`${key} is given more than once: give it once`);
    if (parameters.get(key) === '') throw new QueryError(`${key} is empty: fill it or leave it out`);
  }
  const get = (key: (typeof KEYS)[number]): string | undefined => parameters.get(key) ?? undefined;
  const number = (key: 'port' | 'limit', most: number): number | undefined => {
    const text = get(key);
    if (text === undefined) return undefined;
    if (!/^\d{1,9}$/.test(text) || Number(text) < 1 || Number(text) > most) {
      throw new QueryError(`${key} ${quote(text)}: give a whole number from 1 to ${most}`);
    }
    return Number(text);
  };
  const word = <T extends string>(key: 'state' | 'sort', known: readonly T[]): T | undefined => {
    const text = get(key);
    if (text === undefined || (known as readonly string[]).includes(text)) return text as T | undefined;
    throw new QueryError(`unknown ${key} ${quote(text)}: write ${anyOf(known)}`);
  };
  const cgroup = get('cgroup');
  const problem = cgroup === undefined ? undefined : cgroupProblem(cgroup);
  if (problem !== undefined) throw new QueryError(`cgroup ${quote(cgroup ?? '')} ${problem}`);
  return {
    state: word('state', SHOWN),
    reason: get('reason'),
    program: get('program'),
    cgroup,
    port: number('port', 65_535),
    sort: word('sort', SORTS) ?? 'table',
    limit: number('limit', LIMIT.most) ?? LIMIT.usual,
  };
}

export interface ApiOptions {
  datapath: Datapath;
  cgroups: CgroupNames;
  metrics: Metrics;
  version: string;
  pinDir: string;
  /** Directions that the watchdog holds for stalled. */
  stalled: () => number;
  /** Programs that are refused for what the watchdog saw. */
  learned: () => number;
  /** The running kernel and its known bugs. */
  kernel: { name: string; bugs: BugReport['bugs'] };
}

export class Api {
  readonly #options: ApiOptions;
  readonly #meter: RateMeter;

  constructor(options: ApiOptions) {
    this.#options = options;
    this.#meter = new RateMeter(options.datapath);
  }

  status(): ApiStatus {
    const { datapath, cgroups, metrics, version, pinDir, stalled, learned, kernel } = this.#options;
    const { policy } = metrics;
    return {
      version,
      pinDir,
      loaded: true,
      datapath: datapathStatus(datapath, cgroups, true),
      now: Date.now(),
      controller: {
        started: metrics.started,
        stalled: stalled(),
        learned: learned(),
        backlogBytes: totalBacklog(datapath),
        dropped: datapath.counters().dropped,
      },
      policy:
        policy === undefined
          ? null
          : {
              ...policy.info,
              readAt: policy.readAt,
              reloads: datapath.controllerCounters.reloads,
              lastReading: { at: policy.last.at, problem: policy.last.problem ?? null },
            },
      kernel: {
        name: kernel.name,
        findings: gateView(datapath.settings.gate),
        bugs: kernel.bugs.map(({ id, summary, needs, consequence }) => ({ id, summary, needs, consequence })),
      },
      rate: this.#meter.total ?? null,
    };
  }

  /** Pairs that match, in the order that was asked for. */
  async pairs(query: PairQuery): Promise<PairList> {
    const { datapath, cgroups } = this.#options;
    const matches = matcher(query);
    const now = process.hrtime.bigint();
    const found: ApiPair[] = [];
    let read = 0;
    for (const [slot, control] of this.#slots(query)) {
      if (++read % BATCH === 0) await setImmediate();
      const record = datapath.pairs.read(slot, control);
      if (record === undefined) continue;
      const row = toRow(record, cgroups, now);
      if (!matches(row)) continue;
      if (found.length === query.limit) return { pairs: found, more: true };
      found.push({
        ...row,
        client: named(row.client),
        server: named(row.server),
        rate: this.#meter.of(slot, control.generation) ?? null,
      });
    }
    return { pairs: found, more: false };
  }

  *#slots({ state, sort }: PairQuery): Generator<[number, Control]> {
    const { pairs } = this.#options.datapath;
    const states = state === undefined ? SHOWN : [state];
    const first = new Set<number>();
    if (sort === 'rate') {
      for (const slot of this.#meter.busiest()) {
        const control = pairs.control(slot);
        if (!states.includes(control.state)) continue;
        first.add(slot);
        yield [slot, control];
      }
    }
    for (const entry of pairs.slots(...states)) if (!first.has(entry[0])) yield entry;
  }
}

const named = (end: EndRow): ApiEnd => ({ ...end, name: end.cgroup === null ? null : shortName(end.cgroup) });

function matcher({ reason, program, cgroup, port }: PairQuery): (row: PairRow) => boolean {
  const isBelow = cgroup === undefined ? undefined : cgroupMatcher(cgroup);
  return (row) => {
    const either = (holds: (end: PairRow['client']) => boolean): boolean => holds(row.client) || holds(row.server);
    return (
      (reason === undefined || row.reason === reason) &&
      (program === undefined || either((end) => end.program === program)) &&
      (isBelow === undefined || either((end) => end.cgroup !== null && isBelow(end.cgroup))) &&
      (port === undefined || either((end) => end.port === port || end.remotePort === port))
    );
  };
}

function gateView(masks: { failed: readonly string[]; unknown: readonly string[] }): GateView[] {
  const { refusal } = gateFacts(masks);
  return (Object.keys(MEANING) as FindingId[]).map((id) => {
    const status = masks.failed.includes(id) ? 'failed' : masks.unknown.includes(id) ? 'unknown' : 'ok';
    const { asks, consequence, remedy } = MEANING[id];
    return {
      id,
      status,
      asks,
      consequence: status === 'ok' ? null : consequence,
      remedy: status === 'ok' ? null : remedy,
      forbids: id === refusal,
    };
  });
}
