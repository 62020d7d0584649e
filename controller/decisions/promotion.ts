/** Whether a candidate is promoted. Pure: facts in, verdict out. */
import type { CgroupNames } from '../datapath/cgroups.js';
import type { PairRecord } from '../datapath/pair-table.js';
import { type CompiledPolicy, decidePair, excludedProgram } from '../policy/evaluate.js';
import { builtInHelperPorts, unnamedHelperPort } from '../policy/helper-ports.js';
import type { LearnedPrograms } from '../policy/learned.js';
import type { Hazard } from '../policy/programs.js';
import type { Streaming } from '../policy/schema.js';

/** Bits of pair.evidence by name (enum evidence in bpf/abi.h). */
export type EvidenceBits = Readonly<Record<string, number>>;

/** What is known of one end. */
export interface CandidateEnd {
  /** cgroup path below the v2 root; undefined if it is gone. */
  cgroup: string | undefined;
  ports: [number, number];
  program: string;
  evidence: number;
  /** This program in this cgroup was seen to leave redirected data unread. */
  learned: boolean;
}

/** What the table and the list of learned programs say of a pair's two ends. */
export function candidateEnds(
  { ends }: Pick<PairRecord, 'ends'>,
  cgroups: Pick<CgroupNames, 'path'>,
  learned: Pick<LearnedPrograms, 'has'>,
): [CandidateEnd, CandidateEnd] {
  const end = ({ cgroupId, port, remotePort, program, evidence }: PairRecord['ends'][number]): CandidateEnd => {
    const cgroup = cgroups.path(cgroupId);
    return { cgroup, ports: [port, remotePort], program, evidence, learned: learned.has(program, cgroup) };
  };
  return [end(ends[0]), end(ends[1])];
}

export interface CandidateFacts {
  ends: readonly [CandidateEnd, CandidateEnd];
  /** Turns each way that were asked for when the pair became a candidate. */
  turnsShown: number;
  /** Named reason of the kernel gate if this kernel must not promote at all. */
  kernelRefusal: string | undefined;
  /** Hazards of programs on this kernel; undefined: all of them. */
  hazards?: ReadonlySet<Hazard> | undefined;
  /** TCP ports of conntrack helpers; undefined: the built-in ones. */
  helperPorts?: ReadonlySet<number> | undefined;
}

/** When a refused pair may become a candidate again. */
export type Retry = 'never' | 'policy' | { afterMs: number };

export type Verdict =
  | { kind: 'approve'; backlog: number; streams: Streaming; forbidden: number; rule: string }
  | { kind: 'wait'; turns: number }
  | { kind: 'refuse'; reason: string; retry: Retry };

/** Evidence that rules a pair out whatever the policy says. */
export function hardEvidence(bits: EvidenceBits): number {
  return mask(
    bits,
    'EVIDENCE_WAITALL',
    'EVIDENCE_OUT_OF_BAND',
    'EVIDENCE_TRUNCATE',
    'EVIDENCE_ERROR_QUEUE',
    'EVIDENCE_FORGED',
  );
}

/**
 * Evidence that keeps a pair from promotion but stops nothing that is under way:
 * a peek sees one of the two queues, and going to TCP would make it two.
 */
function softEvidence(bits: EvidenceBits): number {
  return mask(bits, 'EVIDENCE_PEEK');
}

export function judgeCandidate(facts: CandidateFacts, policy: CompiledPolicy, bits: EvidenceBits): Verdict {
  const [client, server] = facts.ends;
  const decision = decidePair(policy, [client, server]);
  if (decision.action !== 'accelerate') {
    return { kind: 'refuse', reason: decision.action === 'observe' ? 'observe' : 'policy', retry: 'policy' };
  }
  if (facts.kernelRefusal !== undefined) return { kind: 'refuse', reason: 'kernel', retry: 'never' };
  const evidence = client.evidence | server.evidence;
  if ((evidence & mask(bits, 'EVIDENCE_FORGED')) !== 0) return { kind: 'refuse', reason: 'forged', retry: 'never' };
  if (facts.ends.some((end) => excludedProgram(policy, end.program, facts.hazards) !== undefined)) {
    return { kind: 'refuse', reason: 'program', retry: 'policy' };
  }
  // A helper between the ends sees the port of either end as either end does, or another one (NAT): any of the four counts.
  const helperPorts = facts.helperPorts ?? builtInHelperPorts;
  if (facts.ends.some((end) => unnamedHelperPort(policy, end, helperPorts) !== undefined)) {
    return { kind: 'refuse', reason: 'helper', retry: 'policy' };
  }
  if (facts.ends.some(({ learned }) => learned)) return { kind: 'refuse', reason: 'learned', retry: 'policy' };
  if ((evidence & (hardEvidence(bits) | softEvidence(bits))) !== 0)
    return { kind: 'refuse', reason: 'reader', retry: 'never' };
  const blocking = mask(bits, decision.blockingReaders ? 'EVIDENCE_BLOCKING_MANY' : 'EVIDENCE_BLOCKING');
  if ((evidence & blocking) !== 0) {
    return { kind: 'refuse', reason: 'blocking', retry: decision.blockingReaders ? 'never' : 'policy' };
  }
  if (facts.turnsShown < decision.promoteAfter) return { kind: 'wait', turns: decision.promoteAfter };
  return {
    kind: 'approve',
    backlog: decision.backlog,
    streams: decision.streams,
    forbidden: hardEvidence(bits) | blocking,
    rule: decision.rule,
  };
}

/** Reasons of the iterator that may pass by themselves. */
const TRANSIENT = new Set(['accounting', 'slot_busy', 'busy', 'memory', 'gone']);

/**
 * When a pair that could not be inserted is tried again: the wait doubles with
 * every failure in a row, from 100 ms to a minute.
 */
export function retryAfterInsertFailure(reason: string, failures: number): Retry {
  if (!TRANSIENT.has(reason)) return 'never';
  return { afterMs: Math.min(60_000, 100 * 2 ** Math.min(failures, 10)) };
}

function mask(bits: EvidenceBits, ...names: string[]): number {
  return names.reduce((sum, name) => sum | (bits[name] ?? 0), 0);
}
