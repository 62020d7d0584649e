/** Watches the pair table for a time: what each pair received, and what would become of it. Changes nothing. */
import { setTimeout } from 'node:timers/promises';

import { judgeOutlook, withoutObserve } from '../decisions/outlook.js';
import { candidateEnds } from '../decisions/promotion.js';
import { type PairRecord, SIDES, STATES } from '../datapath/pair-table.js';
import type { LearnedPrograms } from '../policy/learned.js';
import type { Policy } from '../policy/schema.js';
import type { WatchedEnd, WatchedPair } from '../policy/suggestion.js';
import { gateFacts } from '../probe/findings.js';
import { readHelperPorts } from '../probe/helper-ports.js';
import type { Reading } from './reader.js';

/** Between two looks, milliseconds. */
const INTERVAL = 500;
/** States of pairs whose two ends are known. */
const PAIRED = STATES.filter((state) => !['free', 'half', 'joining', 'closed'].includes(state));

export interface Traffic {
  /** How long was looked. */
  seconds: number;
  pairs: WatchedPair[];
  /** Connections that came and went between two looks. */
  unseen: number;
}

/** @param seconds 0: one look, which has no rates: what was received since establishment counts */
export async function watchTraffic(
  reading: Reading,
  policy: Policy,
  learned: LearnedPrograms,
  seconds: number,
  signal?: AbortSignal,
): Promise<Traffic> {
  const { datapath } = reading;
  const first = new Map<string, PairRecord>();
  const last = new Map<string, PairRecord>();
  const pairsBefore = datapath.counters().pairs;
  const began = process.hrtime.bigint();
  const end = began + BigInt(Math.round(seconds * 1e9));
  for (;;) {
    for (const [slot, control] of datapath.pairs.slots(...PAIRED)) {
      const record = datapath.pairs.read(slot, control);
      if (record === undefined) continue;
      const id = `${String(slot)}.${String(control.generation)}`;
      // One that is older than this began to count before it.
      if (seconds > 0 && record.createdNs < began && !first.has(id)) first.set(id, record);
      last.set(id, record);
    }
    const left = Number(end - process.hrtime.bigint()) / 1e6;
    if (left <= 0 || signal?.aborted === true) break;
    await setTimeout(Math.min(INTERVAL, left), undefined, { signal }).catch(() => undefined);
  }
  const looked = Number(process.hrtime.bigint() - began) / 1e9;
  const made = [...last.values()].filter(({ createdNs }) => createdNs >= began).length;
  const judge = pairJudge(reading, policy, learned);
  return {
    seconds: looked,
    pairs: [...last].map(([id, record]) => judge(record, first.get(id))),
    unseen: Math.max(0, datapath.counters().pairs - pairsBefore - made),
  };
}

/** Puts what the table says of a pair in words for `groupTraffic`. */
export function pairJudge(
  { datapath, cgroups }: Reading,
  policy: Policy,
  learned: LearnedPrograms,
): (record: PairRecord, before?: PairRecord) => WatchedPair {
  const open = withoutObserve(policy);
  const bits = datapath.layout.values('evidence');
  const { refusal, hazards } = gateFacts(datapath.settings.gate);
  const helperPorts = readHelperPorts();
  return (record, before) => {
    const since = (of: 'receives' | 'receivedBytes'): number =>
      SIDES.reduce<number>((all, side) => all + record.ends[side][of] - (before?.ends[side][of] ?? 0), 0);
    const end = (side: 0 | 1): WatchedEnd => {
      const { cgroupId, program, port, remotePort, netns } = record.ends[side];
      return { cgroup: cgroups.path(cgroupId) ?? null, program: program || null, port, remotePort, netns };
    };
    return {
      client: end(0),
      server: end(1),
      ...judgeOutlook(
        record,
        { ends: candidateEnds(record, cgroups, learned), kernelRefusal: refusal, hazards, helperPorts },
        open,
        bits,
        record.promoteAfter || datapath.settings.promoteAfter,
      ),
      messages: since('receives'),
      bytes: since('receivedBytes'),
      turns: record.window.turns,
      receives: record.window.receives,
    };
  };
}
