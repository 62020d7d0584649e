/** Whether an inserted pair goes back to TCP. Pure. */

/** Messages of both directions since the last look. */
export interface Window {
  redirected: number;
  passed: number;
}

/** Fewer messages than this say nothing. */
export const WINDOW_MINIMUM = 64;

/**
 * True when a pair's traffic has become a stream: being in the sockmap then costs
 * up to 40 % and gives nothing, because most messages pass.
 */
export function isStreaming(window: Window): boolean {
  return window.redirected + window.passed >= WINDOW_MINIMUM && window.passed > 2 * window.redirected;
}

/**
 * How long a demoted pair stays on TCP, in milliseconds: doubling from a second
 * with each promotion that did not last, up to ten minutes.
 */
export function coolDown(promotions: number): number {
  return Math.min(600_000, 1000 * 2 ** Math.min(Math.max(0, promotions - 1), 10));
}
