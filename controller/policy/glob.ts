import { comm, commBytes } from './programs.js';

/** Tells whether a text matches. */
export type Matcher = (text: string) => boolean;

/** What makes a text a pattern. */
export const wildcard = /[*?[]/;
const set = /\[([!^]?)(\][^\]]*|[^\]]+)\]/;
/** Every set of a pattern. */
export const sets = new RegExp(set, 'g');
const tokens = new RegExp(`${set.source}|\\*+|[^]`, 'gu');
const longestPattern = 4096;

/**
 * Compiles `*`, `?`, `[abc]`, `[a-z]` and `[!abc]`; every other character stands for itself, the backslash too, because
 * systemd writes names such as `dev-disk\x2d1.swap`. The glob packages take paths and give `\`, `{`, `(`, `!` and `@(`
 * meanings that cgroup names must not have.
 */
export function glob(pattern: string): Matcher {
  const parts = [...pattern.matchAll(tokens)].map(([token, not, members]): Part<string> => {
    if (token.startsWith('*')) return 'any';
    if (token === '?') return () => true;
    if (members === undefined) return (character) => character === token;
    const one = new RegExp(`^[${not ? '^' : ''}${members.replace(/[\\\][^]/g, '\\$&')}]$`, 'u');
    return (character) => one.test(character);
  });
  return (text) => matchesAll(parts, Array.from(text));
}

/** What one item must be, or any number of any items. */
export type Part<T> = ((item: T) => boolean) | 'any';

/**
 * Whether the parts match the items, all of them in their order. Of several places for what stands between two `any` the
 * first is as good as every later one, so that it never goes back before the last `any`: parts times items steps at most.
 */
export function matchesAll<T>(parts: readonly Part<T>[], items: readonly T[]): boolean {
  let part = 0;
  /** Where the last `any` is, and the first item that it does not stand for. */
  let last: { part: number; item: number } | undefined;
  for (let item = 0; item < items.length;) {
    const wanted = parts[part];
    if (wanted === 'any') {
      last = { part: part++, item };
      if (part === parts.length) return true;
    } else if (wanted?.(items[item] as T) === true) {
      part++;
      item++;
    } else if (last === undefined) {
      return false;
    } else {
      part = last.part + 1;
      item = ++last.item;
    }
  }
  return parts.slice(part).every((rest) => rest === 'any');
}

/** What is wrong with any pattern, as the end of a sentence with its remedy. */
export function patternProblem(pattern: string): string | undefined {
  if (pattern.length > longestPattern) return `is longer than ${longestPattern} characters: shorten it`;
  if (pattern.replace(sets, '').includes('[')) return "has a '[' without its ']': close it, or write [[] for a bracket";
  try {
    glob(pattern);
    return undefined;
  } catch {
    return 'has a range that runs backwards: write it upwards, as in [a-z]';
  }
}

/** What is wrong with a cgroup pattern, as the end of a sentence with its remedy. */
export function cgroupProblem(pattern: string): string | undefined {
  if (!pattern.startsWith('/')) return "must start with '/': write the path below the cgroup v2 root";
  if (/^\/sys\/fs\/cgroup(\/|$)/.test(pattern)) return 'must be relative to the cgroup v2 root: drop /sys/fs/cgroup';
  if (/\/(\/|\.{1,2}(\/|$))/.test(pattern)) return "must not contain '//', '/.' or '/..': write the plain path";
  if (/\[[^\]]*\//.test(pattern)) return "has a '/' inside brackets: sets stand for characters within a name";
  return patternProblem(pattern);
}

/** Matches a cgroup (path below the v2 root) and everything below it. */
export function cgroupMatcher(pattern: string): Matcher {
  const trimmed = pattern.replace(/\/$/, '');
  if (!wildcard.test(trimmed)) return (path) => path === trimmed || path.startsWith(`${trimmed}/`);
  const parts = segments(trimmed).map((part) => (part === '**' ? 'any' : glob(part)));
  return (path) => matchesAll([...parts, 'any'], segments(path));
}

const segments = (path: string): string[] => path.split('/').filter((segment) => segment !== '');

/** What is wrong with a program name or glob, as the end of a sentence with its remedy. */
export function programProblem(pattern: string): string | undefined {
  if (pattern === '') return 'is empty: write a process name such as redis-server';
  if (pattern.startsWith('/')) return 'is a path: write the process name alone, as in /proc/PID/comm';
  const shortest = pattern.replace(sets, '?').replaceAll('*', '');
  if (exactName(pattern) === undefined && Buffer.byteLength(shortest) > commBytes)
    return `needs more than the ${commBytes} bytes the kernel keeps of a name: shorten it`;
  return patternProblem(pattern);
}

/** Matches a program's name as the kernel keeps it; a longer name in the pattern counts by its first 15 bytes. */
export function programMatcher(pattern: string): Matcher {
  const exact = exactName(pattern);
  const matches: Matcher = exact === undefined ? glob(pattern) : (name) => name === exact;
  return (program) => matches(comm(program));
}

/** The one name a pattern stands for, when the kernel cuts names before the pattern's first wildcard. */
function exactName(pattern: string): string | undefined {
  const [literal = ''] = pattern.split(wildcard, 1);
  return literal === pattern || Buffer.byteLength(literal) >= commBytes ? comm(literal) : undefined;
}
