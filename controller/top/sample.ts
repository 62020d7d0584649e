/** What `top` knows of the datapath at one moment, and the rates between two. */
import type { CgroupNames } from '../datapath/cgroups.js';
import type { Datapath } from '../datapath/datapath.js';
import { otherSide, SIDES, STATES } from '../datapath/pair-table.js';
import { describeMasks } from '../probe/findings.js';
import { type PairRow, toRow } from '../view/pairs.js';

/** Counts of one direction, named by its sender. */
interface DirectionSample {
  redirectedBytes: number;
  /** Of redirected bytes, by the controller's last look, whose number comes with it. */
  drained: { pass: number; bytes: number };
}

export interface PairSample {
  row: PairRow;
  /** Of both readers together, since establishment. */
  receives: number;
  receivedBytes: number;
  directions: readonly DirectionSample[];
}

export interface Sample {
  /** Milliseconds of any clock that runs evenly. */
  at: number;
  pairs: readonly PairSample[];
  slots: number;
  loadedSeconds: number;
  controllerRunning: boolean;
  gate: string;
  refusals: Record<string, number>;
  demotions: Record<string, number>;
}

/** A pair with what it did between two samples. */
export interface TopRow {
  row: PairRow;
  /** Receives a second; null while there is no earlier sample. */
  messages: number | null;
  bytes: number | null;
  /** Part of the bytes received that were redirected, 0 to 1; null where nothing moved. */
  redirected: number | null;
  /** At least so many bytes waited when the controller last looked; null before its first look. */
  backlog: number | null;
}

export function takeSample(datapath: Datapath, cgroups: CgroupNames, controllerRunning: boolean): Sample {
  const { pairs, settings, controllerCounters } = datapath;
  const now = process.hrtime.bigint();
  const found: PairSample[] = [];
  for (const [slot, control] of pairs.slots(...STATES.filter((state) => state !== 'free'))) {
    const record = pairs.read(slot, control);
    if (record === undefined) continue;
    const [client, server] = record.ends;
    found.push({
      row: toRow(record, cgroups, now),
      receives: client.receives + server.receives,
      receivedBytes: client.receivedBytes + server.receivedBytes,
      directions: SIDES.map((side) => ({
        redirectedBytes: record.directions[side].redirectedBytes,
        drained: pairs.lastDrained(slot, otherSide(side)),
      })),
    });
  }
  return {
    at: performance.now(),
    pairs: found,
    slots: pairs.capacity,
    loadedSeconds: Number(now - settings.loadedNs) / 1e9,
    controllerRunning,
    gate: describeMasks(settings.gate),
    refusals: controllerCounters.refusals,
    demotions: controllerCounters.demotions,
  };
}

/** @param earlier rows of the sample before, whose backlog holds until the controller looks again */
export function topRows(before: Sample | undefined, now: Sample, earlier: readonly TopRow[] = []): TopRow[] {
  const samples = new Map(before?.pairs.map((pair) => [pair.row.id, pair]));
  const rows = new Map(earlier.map((row) => [row.row.id, row]));
  const seconds = before === undefined ? 0 : (now.at - before.at) / 1000;
  return now.pairs.map((pair) => {
    const known = samples.get(pair.row.id);
    const backlog = known === undefined ? null : (newBacklog(known, pair) ?? rows.get(pair.row.id)?.backlog ?? null);
    if (before === undefined || seconds <= 0)
      return { row: pair.row, messages: null, bytes: null, redirected: null, backlog };
    // A pair that is new since then did all of it in between.
    const bytes = pair.receivedBytes - (known?.receivedBytes ?? 0);
    const redirected = redirectedBytes(pair) - (known === undefined ? 0 : redirectedBytes(known));
    return {
      row: pair.row,
      messages: (pair.receives - (known?.receives ?? 0)) / seconds,
      bytes: bytes / seconds,
      redirected: bytes > 0 ? Math.min(1, redirected / bytes) : null,
      backlog,
    };
  });
}

const redirectedBytes = ({ directions }: PairSample): number =>
  directions.reduce((sum, direction) => sum + direction.redirectedBytes, 0);

/**
 * Undefined if nobody has looked since. What was redirected by the sample before, and not drained at a look after it,
 * surely waits. Only the controller may look: running its iterator beside it could insert a socket twice.
 */
function newBacklog(before: PairSample, now: PairSample): number | undefined {
  const looked = now.directions.some(
    ({ drained }, side) => drained.pass !== 0 && drained.pass !== before.directions[side]?.drained.pass,
  );
  if (!looked) return undefined;
  return now.directions.reduce(
    (sum, { drained }, side) => sum + Math.max(0, (before.directions[side]?.redirectedBytes ?? 0) - drained.bytes),
    0,
  );
}
