/** Asks the daemon again and again, but not while nobody looks, and ever more rarely while it does not answer. */

const INTERVAL = 1000;
const LONGEST = 30_000;
/** An answer that takes longer is none. */
const TIMEOUT = 5000;

/** The daemon answers, but not with data: its own sentence. */
export class AnswerError extends Error {}

/**
 * @template T
 * @typedef {object} Handlers
 * @property {() => Promise<T>} read
 * @property {(data: T) => void} onData
 * @property {(error: unknown, retryIn: number) => void} onFailure milliseconds until the next attempt
 */

/**
 * @template T
 * @param {Handlers<T>} handlers
 */
export function poll({ read, onData, onFailure }) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  let failures = 0;
  let busy = false;

  const run = async () => {
    timer = undefined;
    if (busy || document.hidden) return;
    busy = true;
    const began = performance.now();
    let wait;
    try {
      onData(await read());
      failures = 0;
      wait = Math.max(0, INTERVAL - (performance.now() - began));
    } catch (error) {
      wait = Math.min(LONGEST, INTERVAL * 2 ** failures++);
      onFailure(error, wait);
    } finally {
      busy = false;
    }
    // It may have been hidden meanwhile; then run() does nothing, and visibilitychange starts it again.
    timer = setTimeout(() => void run(), wait);
  };

  document.addEventListener('visibilitychange', () => {
    clearTimeout(timer);
    timer = undefined;
    if (!document.hidden) void run();
  });
  void run();
}

/**
 * @param {string} path
 * @returns {Promise<unknown>}
 */
export async function getJson(path) {
  const response = await fetch(path, { signal: AbortSignal.timeout(TIMEOUT), cache: 'no-store' });
  if (!response.ok) throw new AnswerError((await response.text()).trim());
  return response.json();
}
