/** What would become of a pair if every `observe` of the policy were `accelerate`. Pure. */
import type { PairRecord } from '../datapath/pair-table.js';
import { type CompiledPolicy, compilePolicy } from '../policy/evaluate.js';
import type { Policy } from '../policy/schema.js';
import { type CandidateFacts, type EvidenceBits, judgeCandidate } from './promotion.js';

export const OUTLOOKS = ['accelerated', 'would', 'stream', 'young', 'refused'] as const;
/**
 * accelerated: it is promoted. would: it has shown request and response, and nothing that is known speaks against it.
 * stream: it has not shown them in all it received. young: it has not received enough to tell. refused: see the reason.
 */
export type Outlook = (typeof OUTLOOKS)[number];

export interface PairOutlook {
  outlook: Outlook;
  /** A value of enum refusal_reason, in lower case; null unless it is refused. */
  reason: string | null;
}

/** Reasons that a look at the facts finds again; others were found by the attempt to promote, and stand. */
const JUDGED = ['none', 'policy', 'observe', 'program', 'blocking', 'reader', 'kernel', 'learned', 'helper', 'forged'];

/** Windows of observation that must have come to nothing before traffic counts as a stream; likewise `explain`. */
const WINDOWS = 4;

/** The policy with every `observe` turned into `accelerate`. */
export function withoutObserve(policy: Policy): CompiledPolicy {
  const open = <T extends { action?: Policy['defaults']['action'] | undefined }>(of: T): T =>
    of.action === 'observe' ? { ...of, action: 'accelerate' } : of;
  return compilePolicy({ ...policy, defaults: open(policy.defaults), rules: policy.rules.map(open) });
}

/**
 * @param open from `withoutObserve`
 * @param turnsWanted turns each way that make a candidate
 */
export function judgeOutlook(
  record: Pick<PairRecord, 'control' | 'refusal' | 'demotion' | 'promotions' | 'ends'>,
  facts: Omit<CandidateFacts, 'turnsShown'>,
  open: CompiledPolicy,
  bits: EvidenceBits,
  turnsWanted: number,
): PairOutlook {
  const { control, refusal, demotion, promotions, ends } = record;
  if (control.state === 'inserted' || control.state === 'approved') return { outlook: 'accelerated', reason: null };
  if (!JUDGED.includes(refusal)) return { outlook: 'refused', reason: refusal };
  if (demotion === 'stream') return { outlook: 'stream', reason: null };
  if (refusal === 'none' && promotions === 0 && control.state !== 'candidate') {
    const receives = ends[0].receives + ends[1].receives;
    return { outlook: receives > 2 * WINDOWS * turnsWanted ? 'stream' : 'young', reason: null };
  }
  const verdict = judgeCandidate({ ...facts, turnsShown: Infinity }, open, bits);
  return verdict.kind === 'refuse'
    ? { outlook: 'refused', reason: verdict.reason }
    : { outlook: 'would', reason: null };
}
