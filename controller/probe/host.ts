/** The host's set-up: privileges, cgroup v2, the BPF file system. */
import { existsSync, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';

import { cgroupId, fileSystemType, mountBpf, NativeError } from '../../addon/index.js';
import { EXIT, UserError } from '../errors.js';
import { promotionSource } from './kernel.js';
import { BPF_ROOT } from './paths.js';

/** Bits of capabilities(7). CAP_SYS_ADMIN stands for all of the others. */
const CAP_SYS_ADMIN = 21n;
const CAP_SYS_PTRACE = 19n;
/** PROC_PID_INIT_INO of include/linux/proc_ns.h. */
const INITIAL_PID_NAMESPACE = 'pid:[4026531836]';
/** PROC_CGROUP_INIT_INO of the same. */
const INITIAL_CGROUP_NAMESPACE = 'cgroup:[4026531835]';
/** The root of the hierarchy has the first id that kernfs gives (kernfs_create_root). */
const ROOT_CGROUP_ID = 1n;
const CAPABILITIES = { CAP_NET_ADMIN: 12n, CAP_PERFMON: 38n, CAP_BPF: 39n };

/** @throws UserError unless run by root, whatever root may do here. */
export function requireRootUser(command: string): void {
  if (process.geteuid?.() !== 0) {
    throw new UserError(`${command} needs root to work with BPF: run it with sudo`);
  }
}

/** @throws UserError unless run by root with root's power over BPF. */
export function requireRoot(command: string): void {
  requireRootUser(command);
  const missing = missingCapabilities(readFileSync('/proc/self/status', 'utf8'));
  if (missing.length > 0) {
    throw new UserError(
      `${command} needs ${missing.join(', ')}, which root has been deprived of here: run it on the host, ` +
        'or give the container what docs/operations.md lists',
    );
  }
}

/** Capabilities that a process lacks for BPF, by its proc_pid_status(5). */
export function missingCapabilities(status: string): string[] {
  const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0'}`);
  const has = (bit: bigint): boolean => ((effective >> bit) & 1n) === 1n;
  return has(CAP_SYS_ADMIN)
    ? []
    : Object.entries(CAPABILITIES)
        .filter(([, bit]) => !has(bit))
        .map(([name]) => name);
}

/** What follows where readers can't be woken. */
export const WITHOUT_WAKING =
  'an edge-triggered reader that stops at a short receive may wait for more than is there, after the backlog limit, and streams stay on TCP';
export const WAKING_REMEDY =
  "run it with CAP_SYS_PTRACE in the host's PID namespace and kernel.yama.ptrace_scope below 3";

/**
 * Why readers in other processes can't be woken (daemon/waker.ts), as one sentence without its full stop;
 * undefined if they can.
 */
export function whyNotWake(
  status = readFileSync('/proc/self/status', 'utf8'),
  yama = readIfThere('/proc/sys/kernel/yama/ptrace_scope'),
  pidNamespace = readlinkSync('/proc/self/ns/pid'),
): string | undefined {
  const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0'}`);
  if (((effective >> CAP_SYS_PTRACE) & 1n) === 0n) return 'CAP_SYS_PTRACE is missing';
  if (yama?.trim() === '3') return 'kernel.yama.ptrace_scope is 3';
  if (pidNamespace !== INITIAL_PID_NAMESPACE) return "this is not the host's PID namespace";
  return undefined;
}

/** What follows where promotion does not see the processes that have a connection's ends. */
export const WITHOUT_PROMOTION = 'connections of processes outside its own PID namespace stay on TCP';
export const PROMOTION_REMEDY = "run it in the host's PID namespace";

/**
 * Why not all connections can be promoted, as one sentence without its full stop; undefined if they can. Iterators over
 * open files see the processes of their reader's PID namespace (bpf_iter_attach_task), those over socket storage all.
 */
export function whyNotPromote(
  source = promotionSource(),
  pidNamespace = readlinkSync('/proc/self/ns/pid'),
): string | undefined {
  if (source === 'promote' || pidNamespace === INITIAL_PID_NAMESPACE) return undefined;
  return "this kernel lets their sockets be found by the open files of processes only, and this is not the host's PID namespace";
}

function readIfThere(file: string): string | null {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return null;
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
 * Where cgroup v2 is mounted; undefined if it is not. A container has its own part of it at the usual place: where the
 * host's root is mounted, too, this is that.
 */
export function mountedCgroupRoot(): string | undefined {
  const found = mounts().filter((mount) => mount.type === 'cgroup2' && isType(mount.point, 'cgroup2'));
  return (found.find(({ point }) => isHostCgroupRoot(point)) ?? found[0])?.point;
}

/** Whether this is the root of the host's cgroup v2 and not the part that a container is shown. */
export function isHostCgroupRoot(root: string): boolean {
  return cgroupId(root) === ROOT_CGROUP_ID;
}

/** What is missing in a container that sees its own part of the cgroup v2 only, and what to do. */
export const PART_OF_CGROUPS = "only this container's part of the host's cgroups is mounted";
const MOUNT_HOST_CGROUPS = "mount the host's /sys/fs/cgroup into the container, read-only will do";
export const PART_OF_CGROUPS_REMEDY = `${MOUNT_HOST_CGROUPS}, or name what to accelerate with --cgroup`;

/**
 * Where cgroup v2 is mounted, on pure and on hybrid hosts.
 * @throws UserError (exit code 3) if it is not.
 */
export function cgroupRoot(): string {
  const found = mountedCgroupRoot();
  if (found !== undefined) return found;
  throw new UserError(
    'no cgroup v2 file system is mounted: mount one with "mount -t cgroup2 none /sys/fs/cgroup/unified" ' +
      `or boot with systemd.unified_cgroup_hierarchy=1; in a container ${MOUNT_HOST_CGROUPS}; nothing was attached`,
    EXIT.unsupported,
  );
}

/**
 * The whole of what can be accelerated.
 * @throws UserError (exit code 3) if that is not in sight.
 */
export function wholeHost(): string {
  const root = cgroupRoot();
  if (isHostCgroupRoot(root)) return root;
  throw new UserError(
    `${PART_OF_CGROUPS}, at ${root}: ${PART_OF_CGROUPS_REMEDY}; nothing was attached`,
    EXIT.unsupported,
  );
}

/** Whether this process has a cgroup namespace of its own, as containers have. */
export function inCgroupNamespace(): boolean {
  return readlinkSync('/proc/self/ns/cgroup') !== INITIAL_CGROUP_NAMESPACE;
}

/**
 * The directory of the cgroup that this process is in; undefined if that is the root, or out of sight.
 * @param root where the cgroup v2 is mounted
 */
export function ownCgroup(root: string): string | undefined {
  // Inside a namespace paths are told from its own root, which says nothing of where that is.
  if (inCgroupNamespace()) return cgroupOf(process.pid, root);
  const path = /^0::\/(.+)$/m.exec(readFileSync('/proc/self/cgroup', 'utf8'))?.[1];
  return path !== undefined && existsSync(join(root, path)) ? join(root, path) : undefined;
}

/** The cgroup below `dir` with this process. */
function cgroupOf(pid: number, dir: string): string | undefined {
  for (const entry of directories(dir)) {
    const child = join(dir, entry);
    if (readIfThere(join(child, 'cgroup.procs'))?.split('\n').includes(String(pid)) === true) return child;
    const found = cgroupOf(pid, child);
    if (found !== undefined) return found;
  }
  return undefined;
}

function directories(dir: string): string[] {
  try {
    return readdirSync(dir, { withFileTypes: true }).flatMap((entry) => (entry.isDirectory() ? [entry.name] : []));
  } catch {
    return []; // removed meanwhile
  }
}

/** @throws UserError (exit code 2) unless this is a directory of a cgroup v2. */
export function requireCgroup(dir: string): string {
  const path = resolve(dir);
  if (!isDirectory(path)) {
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
 * Checks a pin directory without changing anything.
 * @throws UserError (exit code 2) if pins can't be made there, even once the BPF file system is mounted
 */
export function requirePinDir(pinDir: string): void {
  const path = resolve(pinDir);
  if (path === BPF_ROOT || path === mountPointOf(path)) {
    throw new UserError(`--pin-dir ${pinDir}: this is a mount point, choose a directory below it`, EXIT.usage);
  }
  if (awaitsMount(path)) return;
  const parent = nearestExisting(path);
  if (!isType(parent, 'bpf')) {
    throw new UserError(
      `--pin-dir ${pinDir}: not on a BPF file system, choose a directory below ${BPF_ROOT} ` +
        'or mount one there with "mount -t bpf"',
      EXIT.usage,
    );
  }
  if (!isDirectory(parent)) {
    throw new UserError(`--pin-dir ${pinDir}: ${parent} is a pin and no directory, choose another place`, EXIT.usage);
  }
  const foreign = foreignDirectory(path);
  if (foreign !== undefined) {
    throw new UserError(
      `--pin-dir ${pinDir}: others than root may change ${foreign}, so the pins would not be safe there: ` +
        'remove it if it is not yours, or choose another place',
      EXIT.usage,
    );
  }
}

/**
 * The first directory on the way to `path`, from the mount point on, in which others than root may replace what is
 * root's: anybody may make directories in a BPF file system that is mounted with its default mode, 1777.
 */
function foreignDirectory(path: string): string | undefined {
  for (let at = nearestExisting(path); ; at = dirname(at)) {
    const { uid, mode } = statSync(at);
    const writable = (mode & 0o022) !== 0 && ((mode & 0o1000) === 0 || at === path);
    if (uid !== 0 || writable) return at;
    if (mountPointOf(at) !== undefined || at === '/') return undefined;
  }
}

/**
 * Mounts the BPF file system at its usual place if the pin directory lies there and it is not.
 * @throws UserError (exit code 3)
 */
export function mountBpffsFor(pinDir: string): void {
  if (!awaitsMount(resolve(pinDir))) return;
  try {
    mountBpf(BPF_ROOT);
  } catch (error) {
    const reason = error instanceof NativeError ? error.code : String(error);
    throw new UserError(
      `the BPF file system is not mounted and mounting it at ${BPF_ROOT} failed (${reason}): ` +
        `mount it with "mount -t bpf bpf ${BPF_ROOT}" on the host`,
      EXIT.unsupported,
      { cause: error },
    );
  }
}

function awaitsMount(path: string): boolean {
  return isBelow(path, BPF_ROOT) && !isType(BPF_ROOT, 'bpf');
}

/** True for a directory in a BPF file system: elsewhere nothing is read as a pin, and nothing removed. */
export function isBpffsDirectory(path: string): boolean {
  return isType(path, 'bpf') && isDirectory(path);
}

function mountPointOf(path: string): string | undefined {
  return mounts().find((mount) => mount.point === path)?.point;
}

function nearestExisting(path: string): string {
  for (let at = path; ; at = dirname(at)) {
    if (existsSync(at) || at === '/') return at;
  }
}

function isDirectory(path: string): boolean {
  try {
    return statSync(path).isDirectory();
  } catch {
    return false;
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
