/**
 * What `bench --port` asks of the controller, and what that does about one pair. Pure.
 *
 * The request is a lease of one 64-bit word in shared memory, changed by compare-and-swap: whose word it is, holds it.
 * Who is killed stops renewing it, and the controller puts everything back.
 */
import type { State } from '../datapath/pair-table.js';

export interface Measurement {
  /** Of pairs that have it at either end. */
  port: number;
  /** The way that they are to use now. */
  path: 'tcp' | 'direct';
}

/** How long a request holds without being renewed, milliseconds. */
export const LEASE = 2000;

const PORT_BITS = 16n;
/** A tick is 2^20 ns, as elsewhere in bpf/abi.h: what is left of 64 bits lasts for ever. */
const TICK_BITS = 20n;
const LEASE_NS = BigInt(LEASE) * 1_000_000n;

/** A request that holds for LEASE from now on. @param nowNs CLOCK_MONOTONIC */
export function encodeMeasurement({ port, path }: Measurement, nowNs: bigint): bigint {
  const until = (nowNs + LEASE_NS) >> TICK_BITS;
  return (until << (PORT_BITS + 1n)) | (path === 'direct' ? 1n << PORT_BITS : 0n) | BigInt(port);
}

/** Undefined: nothing is asked for, or not any more. */
export function decodeMeasurement(word: bigint, nowNs: bigint): Measurement | undefined {
  if (word >> (PORT_BITS + 1n) <= nowNs >> TICK_BITS) return undefined;
  return {
    port: Number(word & ((1n << PORT_BITS) - 1n)),
    path: ((word >> PORT_BITS) & 1n) === 1n ? 'direct' : 'tcp',
  };
}

/** What the table says of a pair that is measured. */
export interface MeasuredPair {
  state: State;
  refusal: string;
  demotion: string;
  retryNs: bigint;
}

/**
 * demote: to TCP. keep: on TCP, where it is. approve: for promotion. wait: something is under way. done: it is where it
 * is wanted. drop: others have decided about it, or it has closed.
 */
export type MeasuredStep = 'demote' | 'keep' | 'approve' | 'wait' | 'done' | 'drop';

const NEVER = 2n ** 63n;

export function nextStep(
  { state, refusal, demotion, retryNs }: MeasuredPair,
  path: Measurement['path'],
  nowNs: bigint,
): MeasuredStep {
  switch (state) {
    case 'inserted':
      return path === 'direct' ? 'done' : 'demote';
    case 'observed':
      // Taken back for a reason of its own, or refused for good.
      if (demotion !== 'measured' || (refusal !== 'none' && retryNs === NEVER)) return 'drop';
      if (path === 'tcp') return 'keep';
      return refusal !== 'none' && retryNs > nowNs ? 'wait' : 'approve';
    case 'candidate':
    case 'approved':
    case 'draining':
    case 'leaving':
      return 'wait';
    default:
      return 'drop';
  }
}
