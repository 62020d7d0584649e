/** Which stable release a kernel is built from, as far as its own words tell. */
import { existsSync, readFileSync } from 'node:fs';
import { release, version } from 'node:os';

/** Major, minor and patch level; -1 for a release candidate, which comes before level 0. */
export type Level = readonly [major: number, minor: number, patch: number];

/** What a kernel says of itself. */
export interface KernelNames {
  /** `uname -r` */
  readonly release: string;
  /** `uname -v`: Debian names its package there. */
  readonly build: string;
  /** /proc/version_signature of Ubuntu's kernels. */
  readonly signature?: string | undefined;
}

export interface KernelVersion {
  /** As people know it. */
  readonly name: string;
  /** The stable release it begins with; undefined if that can't be told. */
  readonly base: Level | undefined;
  /** True: that release and no later fixes. False: fixes of later releases may be in it. */
  readonly exact: boolean;
  /** Whose kernel it is, if it is not a stable release as published. */
  readonly vendor?: string;
}

const SIGNATURE_FILE = '/proc/version_signature';

/** Of the running kernel. */
export function kernelNames(): KernelNames {
  return {
    release: release(),
    build: version(),
    signature: existsSync(SIGNATURE_FILE) ? readFileSync(SIGNATURE_FILE, 'utf8').trim() : undefined,
  };
}

/** Vendors that add fixes of later releases to an old base, by what they write into `uname -r`. */
const BACKPORTERS: readonly [RegExp, string][] = [
  [/el\d+uek/, 'Oracle'],
  [/\.el\d+/, 'Red Hat or a rebuild of it'],
  [/\.amzn\d+/, 'Amazon'],
  [/-pve\b/, 'Proxmox'],
  [/microsoft-standard/i, 'Microsoft'],
  [/-(azure|aws|gcp|oracle|lowlatency|generic)\b/, 'Ubuntu'],
  [/-\d+(\.\d+)*-(default|rt|kvmsmall)\b/, 'SUSE'],
];

export function parseKernel({ release, build, signature }: KernelNames): KernelVersion {
  const ubuntu = /^Ubuntu (\S+) (\d+\.\d+\S*)$/.exec(signature ?? '');
  if (ubuntu !== null) {
    return { name: `Ubuntu ${ubuntu[1] ?? ''}`, base: level(ubuntu[2] ?? ''), exact: false, vendor: 'Ubuntu' };
  }
  const debian = /\bDebian (\d+\.\d+(?:\.\d+)?(?:~rc\d+)?\S*)/.exec(build);
  // Debian's package is a stable release with few patches; `uname -r` only names its ABI.
  if (debian !== null) return { name: `Debian ${debian[1] ?? ''}`, base: level(debian[1] ?? ''), exact: true };
  const base = level(release);
  const vendor = BACKPORTERS.find(([pattern]) => pattern.test(release))?.[1];
  if (vendor !== undefined) return { name: release, base, exact: false, vendor };
  // An unknown package of somebody's: x.y.0-N is an ABI number and no level.
  const numbered = /^\d+\.\d+\.0-\d/.test(release);
  // setlocalversion adds a plus to a tree with commits of its own.
  return { name: release, base, exact: base !== undefined && !numbered && !/^[\d.]+\+/.test(release) };
}

/** The level at the start of a version; undefined if there is none. */
function level(text: string): Level | undefined {
  const [, major, minor, patch = '0', candidate] = /^(\d+)\.(\d+)(?:\.(\d+))?(?:[-~](rc\d+))?/.exec(text) ?? [];
  if (major === undefined || minor === undefined) return undefined;
  return [Number(major), Number(minor), candidate === undefined ? Number(patch) : -1];
}

export function parseLevel(text: string): Level {
  const parsed = level(text);
  if (parsed === undefined) throw new Error(`not a kernel version: ${text}`);
  return parsed;
}

/** Negative, 0 or positive, as a comes before, with or after b. */
export function compareLevels(a: Level, b: Level): number {
  return a[0] - b[0] || a[1] - b[1] || a[2] - b[2];
}
