/** Whether a reader has stalled, and what follows. Pure. */

/** What is remembered of a direction with redirected bytes that wait. */
export interface Waiting {
  /** Bytes of all that was redirected that its reader has taken. */
  consumed: number;
  /** Since when it has taken nothing, milliseconds. */
  since: number;
  stalled: boolean;
}

/**
 * @param before what was found at the last look; undefined if nothing waited
 * @param after a reader that takes nothing for this long has stalled, milliseconds
 */
export function judgeWaiting(before: Waiting | undefined, consumed: number, now: number, after: number): Waiting {
  const since = before?.consumed === consumed ? before.since : now;
  return { consumed, since, stalled: now - since >= after };
}

/**
 * Whether a stalled reader's program is to be refused from now on. A process that
 * somebody has stopped (T or t in proc_pid_stat(5)) is no evidence against its
 * program.
 */
export function isEvidence(processState: string | undefined): boolean {
  return processState === undefined || !/^[Tt]/.test(processState);
}
