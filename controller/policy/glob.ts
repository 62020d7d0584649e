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
  const source = pattern.replace(tokens, (token, not?: string, members?: string) => {
    if (members !== undefined) return `[${not ? '^' : ''}${members.replace(/[\\\][^]/g, '\\$&')}]`;
    if (token.startsWith('*')) return '.*';
    return token === '?' ? '.' : token.replace(/[\\^$.|+(){}\]/]/, '\\$&');
  });
  const expression = new RegExp(`^${source}$`, 'su');
  return (text) => expression.test(text);
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
  const parts = segments(trimmed).map((part) => (part === '**' ? part : glob(part)));
  return (path) => reaches(parts, segments(path));
}

const segments = (path: string): string[] => path.split('/').filter((segment) => segment !== '');

/** Whether the parts of a pattern match the first segments of a path. */
function reaches([part, ...parts]: readonly (Matcher | '**')[], path: readonly string[]): boolean {
  if (part === undefined) return true;
  const [segment, ...below] = path;
  if (part === '**') return reaches(parts, path) || (segment !== undefined && reaches([part, ...parts], below));
  return segment !== undefined && part(segment) && reaches(parts, below);
}

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
