/** Numbers for people. */

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
const WHOLE = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });

/**
 * 1536 as `1.5 KiB`; three digits that matter.
 * @param {number} bytes
 */
export function formatBytes(bytes) {
  let power = 0;
  let value = bytes;
  while (power < UNITS.length - 1 && Math.round(value) >= 1000) {
    value /= 1024;
    power++;
  }
  const digits = power === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${value.toFixed(digits)} ${UNITS[power] ?? ''}`;
}

/** @param {number} rate bytes a second */
export function formatRate(rate) {
  return `${formatBytes(rate)}/s`;
}

/** @param {number} count */
export function formatCount(count) {
  return WHOLE.format(count);
}

/**
 * 12,345,678 as `12.3 M`, for where there is little room.
 * @param {number} count
 */
export function formatShort(count) {
  if (count < 10_000) return WHOLE.format(count);
  const [value, unit] = count < 1e6 ? [count / 1e3, 'k'] : count < 1e9 ? [count / 1e6, 'M'] : [count / 1e9, 'G'];
  return `${value.toFixed(value >= 100 ? 0 : 1)} ${unit}`;
}

/**
 * The two largest units: 90 as `1 min 30 s`.
 * @param {number} seconds
 */
export function formatDuration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  /** @type {[number, string][]} */
  const parts = [
    [Math.floor(whole / 86_400), 'd'],
    [Math.floor(whole / 3600) % 24, 'h'],
    [Math.floor(whole / 60) % 60, 'min'],
    [whole % 60, 's'],
  ];
  const first = parts.findIndex(([count]) => count > 0);
  if (first < 0) return '0 s';
  return parts
    .slice(first, first + 2)
    .filter(([count]) => count > 0)
    .map(([count, unit]) => `${count} ${unit}`)
    .join(' ');
}

/**
 * Time that may be far below a second: `4.50 µs`, `312 ms`, `3 min 20 s`.
 * @param {number} seconds
 */
export function formatTime(seconds) {
  if (seconds === 0) return '0 s';
  if (seconds >= 60) return formatDuration(seconds);
  const [value, unit] = seconds >= 1 ? [seconds, 's'] : seconds >= 1e-3 ? [seconds * 1e3, 'ms'] : [seconds * 1e6, 'µs'];
  return `${value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : 2)} ${unit}`;
}
