/** The host's set-up: privileges, cgroup v2, the BPF file system. */
import { readFileSync, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';

import { fileSystemType, mountBpf, NativeError } from '../../addon/index.js';
import { EXIT, UserError } from '../errors.js';

/** Where systemd mounts the BPF file system. */
export const BPF_ROOT = '/sys/fs/bpf';
export const DEFAULT_PIN_DIR = `${BPF_ROOT}/slipstream`;

/** @throws UserError unless run by root. */
export function requireRoot(command: string): void {
  if (process.geteuid?.() !== 0) {
    throw new UserError(`${command} needs root to work with BPF: run it with sudo`);
  }
}

interface Mount {
  type: string;
  root: string;
  point: string;
}

/** Mounts of this process's namespace, in the order of proc_pid_mountinfo(5). */
export function parseMounts(mountinfo: string): Mount[] {
  return mountinfo
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const fields = line.split(' ');
      const separator = fields.indexOf('-');
      const unescape = (text = ''): string =>
        text.replace(/\\(\d{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)));
      return { type: fields[separator + 1] ?? '', root: unescape(fields[3]), point: unescape(fields[4]) };
    });
}

function mounts(): Mount[] {
  return parseMounts(readFileSync('/proc/self/mountinfo', 'utf8'));
}

/**
 * Where cgroup v2 is mounted, on pure and on hybrid hosts.
 * @throws UserError (exit code 3) if it is not.
 */
export function cgroupRoot(): string {
  const found = mounts().find((mount) => mount.type === 'cgroup2' && isType(mount.point, 'cgroup2'));
  if (found !== undefined) return found.point;
  throw new UserError(
    'no cgroup v2 file system is mounted: mount one with "mount -t cgroup2 none /sys/fs/cgroup/unified" ' +
      'or boot with systemd.unified_cgroup_hierarchy=1; nothing was attached',
    EXIT.unsupported,
  );
}

/** @throws UserError (exit code 2) unless this is a directory of a cgroup v2. */
export function requireCgroup(dir: string): string {
  const path = resolve(dir);
  if (!statSync(path, { throwIfNoEntry: false })?.isDirectory()) {
    throw new UserError(`--cgroup ${dir}: no such directory, give one of a cgroup v2 file system`, EXIT.usage);
  }
  if (!isType(path, 'cgroup2')) {
    throw new UserError(
      `--cgroup ${dir}: not a directory of a cgroup v2 file system, which is mounted at ${cgroupRoot()}`,
      EXIT.usage,
    );
  }
  return path;
}

/**
 * Makes sure that pins can be made below `pinDir`: mounts the BPF file system at
 * its usual place if the directory lies there.
 * @throws UserError if the directory lies elsewhere and is on no BPF file system.
 */
export function requireBpffs(pinDir: string): void {
  const path = resolve(pinDir);
  if (isBelow(path, BPF_ROOT) && !isType(BPF_ROOT, 'bpf')) {
    try {
      mountBpf(BPF_ROOT);
    } catch (error) {
      const reason = error instanceof NativeError ? error.code : String(error);
      throw new UserError(
        `the BPF file system is not mounted and mounting it at ${BPF_ROOT} failed (${reason}): ` +
          `mount it with "mount -t bpf bpf ${BPF_ROOT}"`,
        EXIT.unsupported,
        { cause: error },
      );
    }
  }
  const parent = nearestExisting(path);
  if (!isType(parent, 'bpf')) {
    throw new UserError(
      `--pin-dir ${pinDir}: not on a BPF file system, choose a directory below ${BPF_ROOT} ` +
        'or mount one there with "mount -t bpf"',
      EXIT.usage,
    );
  }
  if (path === mountPointOf(path)) {
    throw new UserError(
      `--pin-dir ${pinDir}: this is the root of a BPF file system, choose a directory below it`,
      EXIT.usage,
    );
  }
}

/** True if pins made at this path would be kept by a BPF file system. */
export function isOnBpffs(path: string): boolean {
  return isType(nearestExisting(resolve(path)), 'bpf');
}

function mountPointOf(path: string): string | undefined {
  return mounts().find((mount) => mount.point === path)?.point;
}

function nearestExisting(path: string): string {
  for (let at = path; ; at = dirname(at)) {
    if (statSync(at, { throwIfNoEntry: false }) !== undefined || at === '/') return at;
  }
}

function isBelow(path: string, root: string): boolean {
  return path === root || path.startsWith(`${root}/`);
}

function isType(path: string, type: 'bpf' | 'cgroup2'): boolean {
  try {
    return fileSystemType(path) === type;
  } catch {
    return false;
  }
}
