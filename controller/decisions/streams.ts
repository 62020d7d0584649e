/**
 * Whether a stream is redirected: what was measured of this very connection decides. Pure.
 *
 * A stream of large messages between namespaces may be twice as fast redirected, or slower, by how the two ends share
 * CPUs and caches. So its rate is taken on TCP and then redirected, in windows right after each other, and again later.
 */

/** Length of a window, milliseconds, and how many are taken of each way. */
export const WINDOW = 25;
export const WINDOWS = 4;

/** So many times faster it must be, for the effort and for what is chance. */
export const GAIN = 1.1;
/** Messages below so many bytes on average cost more redirected than they do in TCP, which joins them. */
const LEAST_MESSAGE = 8192;
/** Between two measurements of a stream that has shown to be faster redirected, milliseconds: doubling. */
const [AGAIN, AGAIN_LIMIT] = [10_000, 600_000];
/** After one that has not: likewise. */
const [RETRY, RETRY_LIMIT] = [1000, 600_000];
/** Below this part of its rate on TCP a redirected stream is measured again. */
const SLOWED = 0.9;

/** How often a redirected stream backlog may be larger than the policy's for messages, and its limit in bytes. */
const BACKLOG_FACTOR = 8;
const BACKLOG_LIMIT = 64 * 1024 * 1024;

/** Whether a connection talked all the time: what pauses is not limited by its transport. @param rates bytes a second */
export function isSteady(rates: readonly number[]): boolean {
  return rates.length >= WINDOWS && rates.every((rate) => rate > 0);
}

/**
 * @param tcp rates in windows of the same length, bytes a second
 * @param direct likewise, redirected
 * @param gain so many times faster
 */
export function isFaster(tcp: readonly number[], direct: readonly number[], gain = GAIN): boolean {
  const [, nextToLowest = 0] = direct.toSorted((a, b) => a - b);
  return middle(direct) >= gain * middle(tcp) && nextToLowest >= Math.min(1, gain) * middle(tcp);
}

/** @param messages in which `bytes` were sent */
export function areSmall(bytes: number, messages: number): boolean {
  return messages > 0 && bytes / messages < LEAST_MESSAGE;
}

/** Whether a redirected stream has become so slow that TCP may be the better way. @param tcp rate when last measured */
export function hasSlowed(rate: number, tcp: number): boolean {
  return rate < SLOWED * tcp;
}

/** @param successes measurements before this one that found the same; @returns milliseconds */
export function measureAgainAfter(successes: number): number {
  return Math.min(AGAIN_LIMIT, AGAIN * 2 ** Math.min(successes, 10));
}

/** @param failures measurements in a row before this one that found TCP as fast or faster; @returns milliseconds */
export function retryAfter(failures: number): number {
  return Math.min(RETRY_LIMIT, RETRY * 2 ** Math.min(failures, 10));
}

/** @param backlog the policy's limit for messages; @returns that for a stream, bytes */
export function streamBacklog(backlog: number): number {
  return Math.max(backlog, Math.min(BACKLOG_LIMIT, BACKLOG_FACTOR * backlog));
}

/** 0 of no rates. */
export function middle(rates: readonly number[]): number {
  const sorted = rates.toSorted((a, b) => a - b);
  const half = Math.floor(sorted.length / 2);
  const upper = sorted[half] ?? 0;
  return sorted.length % 2 === 1 ? upper : ((sorted[half - 1] ?? 0) + upper) / 2;
}
