/** `doctor`: whether this host and its kernel can do it, with the remedy for what they can't. Changes nothing. */
import { existsSync, readFileSync } from 'node:fs';

import type { Logger } from 'pino';

import { attachedPrograms, DirectoryLock, NativeError } from '../../addon/index.js';
import { isOurs } from '../daemon/other-instances.js';
import { Datapath } from '../datapath/datapath.js';
import { MEANING, TRY_AGAIN } from './findings.js';
import { GateError, type GateResult, runGate } from './gate.js';
import {
  isBpffsDirectory,
  isHostCgroupRoot,
  missingCapabilities,
  mountedCgroupRoot,
  PART_OF_CGROUPS,
  PART_OF_CGROUPS_REMEDY,
  PROMOTION_REMEDY,
  WAKING_REMEDY,
  whyNotPromote,
  whyNotWake,
  WITHOUT_PROMOTION,
  WITHOUT_WAKING,
} from './host.js';
import { FEATURES, missingFeature, promotionSource } from './kernel.js';
import { kernelNames, parseKernel } from './kernel-version.js';
import { knownBugs } from './known-bugs.js';
import { BPF_ROOT } from './paths.js';

/** `skipped`: an earlier failure, or a container, leaves nothing to ask. */
export type CheckStatus = 'ok' | 'warn' | 'fail' | 'skipped';

export interface Check {
  readonly id: string;
  readonly status: CheckStatus;
  /** What was found: one sentence without its full stop. */
  readonly detail: string;
  /** What a person can do about it, for `warn` and `fail`. */
  readonly remedy?: string;
}

export interface DoctorOptions {
  pinDir: string;
  objectFile: string;
  socketsProgram: string;
  log: Logger;
}

export interface Diagnosis {
  /** No check failed. */
  readonly able: boolean;
  readonly kernel: string;
  readonly checks: readonly Check[];
}

export async function diagnose(options: DoctorOptions): Promise<Diagnosis> {
  const kernel = parseKernel(kernelNames());
  const privileges = checkPrivileges();
  const features =
    privileges.status === 'ok' ? checkFeatures() : skipped('kernel features', 'asking for them needs root');
  const promotion =
    features.status === 'ok' ? checkPromotion() : skipped('promotion', 'the kernel features come first');
  const host = [
    privileges,
    checkCgroups(),
    checkBpffs(options.pinDir),
    features,
    promotion,
    checkMemory(),
    checkWaking(),
  ];
  const fit = host.every(({ status }) => status !== 'fail');
  const checks = [
    ...host,
    ...(fit ? [checkCgroupPrograms(options.pinDir), checkDatapath(options.pinDir)] : []),
    ...(fit ? await checkGate(options) : [skipped('self-test', 'the checks above come first')]),
    ...checkHarmlessBugs(),
  ];
  return { able: checks.every(({ status }) => status !== 'fail'), kernel: kernel.name, checks };
}

const ok = (id: string, detail: string): Check => ({ id, status: 'ok', detail });
const warn = (id: string, detail: string, remedy: string): Check => ({ id, status: 'warn', detail, remedy });
const fail = (id: string, detail: string, remedy: string): Check => ({ id, status: 'fail', detail, remedy });
const skipped = (id: string, detail: string): Check => ({ id, status: 'skipped', detail });

function checkPrivileges(): Check {
  if (process.geteuid?.() !== 0) return fail('privileges', 'not root', 'run it with sudo');
  const missing = missingCapabilities(readFileSync('/proc/self/status', 'utf8'));
  return missing.length === 0
    ? ok('privileges', 'root with all that BPF needs')
    : fail(
        'privileges',
        `root without ${missing.join(', ')}`,
        'run it on the host, or give the container what docs/operations.md lists',
      );
}

function checkCgroups(): Check {
  const root = mountedCgroupRoot();
  if (root === undefined) {
    return fail(
      'cgroup v2',
      'not mounted',
      'mount it with "mount -t cgroup2 none /sys/fs/cgroup/unified" or boot with systemd.unified_cgroup_hierarchy=1',
    );
  }
  return isHostCgroupRoot(root)
    ? ok('cgroup v2', `mounted at ${root}`)
    : warn('cgroup v2', `${PART_OF_CGROUPS}, at ${root}`, PART_OF_CGROUPS_REMEDY);
}

function checkBpffs(pinDir: string): Check {
  if (isBpffsDirectory(pinDir)) return ok('BPF file system', `${pinDir} is there`);
  return isBpffsDirectory(BPF_ROOT)
    ? ok('BPF file system', `mounted at ${BPF_ROOT}`)
    : ok('BPF file system', `not mounted at ${BPF_ROOT}; "up" mounts it`);
}

function checkFeatures(): Check {
  const missing = missingFeature();
  return missing === undefined
    ? ok('kernel features', `all ${String(FEATURES.length)} that are needed`)
    : fail('kernel features', `no ${missing.name}`, `boot a kernel that has it: mainline does since ${missing.since}`);
}

function checkPromotion(): Check {
  const source = promotionSource();
  const reason = whyNotPromote(source);
  if (reason !== undefined) return warn('promotion', `${WITHOUT_PROMOTION}: ${reason}`, PROMOTION_REMEDY);
  return ok(
    'promotion',
    source === 'promote'
      ? 'paired sockets are found by their storage'
      : 'paired sockets are found by the open files of all processes: this kernel keeps iterators from maps',
  );
}

function checkWaking(): Check {
  const reason = whyNotWake();
  return reason === undefined
    ? ok('waking', 'edge-triggered readers that must be woken can be')
    : warn('waking', `${WITHOUT_WAKING}: ${reason}`, WAKING_REMEDY);
}

/** Under memory pressure TCP's messages are not redirected (net.ipv4.tcp_mem, in pages). */
function checkMemory(): Check {
  const read = (file: string): string => (existsSync(file) ? readFileSync(file, 'utf8') : '');
  const used = Number(/^TCP:.* mem (\d+)/m.exec(read('/proc/net/sockstat'))?.[1] ?? 0);
  const pressure = Number(read('/proc/sys/net/ipv4/tcp_mem').split(/\s+/)[1] ?? 0);
  // Only the host's network namespace has it.
  if (pressure === 0) return skipped('TCP memory', "net.ipv4.tcp_mem is not shown in a container's network");
  const share = Math.round((100 * used) / pressure);
  const detail = `TCP uses ${String(share)} % of the memory from which on messages are not redirected`;
  return share < 80
    ? ok('TCP memory', detail)
    : warn('TCP memory', detail, 'raise net.ipv4.tcp_mem, or find who holds it');
}

/** Other sockops programs at the root run beside ours, and may undo what ours asks for. */
function checkCgroupPrograms(pinDir: string): Check {
  const root = mountedCgroupRoot() ?? '';
  const own = isBpffsDirectory(pinDir) ? Datapath.pinnedProgramId(pinDir) : undefined;
  const others = attachedPrograms(root, 'sock_ops').filter(({ id }) => id !== own);
  const names = others.map(({ id, name }) => `${name ?? 'no name without CAP_SYS_ADMIN'} (${String(id)})`).join(', ');
  if (others.length === 0) return ok('other programs', `no other sockops program at ${root}`);
  const beside = Datapath.programsPinnedBeside(pinDir);
  return others.some((program) => isOurs(program) || beside.has(program.id))
    ? warn(
        'other programs',
        `another instance of this datapath is attached to ${root}`,
        'give its --pin-dir, or take it down with that',
      )
    : warn(
        'other programs',
        `${root} has sockops programs of somebody else: ${names}`,
        'see that they add to the callback flags of a socket and do not replace them',
      );
}

function checkDatapath(pinDir: string): Check {
  const state = isBpffsDirectory(pinDir) ? Datapath.pinState(pinDir) : 'absent';
  if (state === 'absent') return ok('datapath', `none loaded in ${pinDir}`);
  const lock = DirectoryLock.acquire(pinDir);
  lock?.release();
  const running = lock === undefined;
  if (state === 'older') {
    return warn(
      'datapath',
      `an earlier ABI version has pinned ${pinDir}`,
      '"up" drains and replaces it, "down" removes it',
    );
  }
  if (state === 'newer') {
    return warn('datapath', `a later ABI version has pinned ${pinDir}`, 'use that version, or run its "down" first');
  }
  if (running) return ok('datapath', `loaded in ${pinDir}, its controller runs`);
  return state === 'partial'
    ? warn('datapath', `${pinDir} holds the rest of an interrupted start`, 'run "up" or "down", both remove it')
    : warn('datapath', `loaded in ${pinDir} without a controller`, '"up" takes it over, "down" removes it');
}

async function checkGate(options: DoctorOptions): Promise<Check[]> {
  const root = mountedCgroupRoot() ?? '';
  let result: GateResult;
  try {
    result = await runGate({ ...options, cgroupRoot: root, cgroupDir: root });
  } catch (error) {
    if (error instanceof GateError) {
      return [fail('self-test', `it could not be run: ${error.message}`, 'mend that and run doctor again')];
    }
    if (!(error instanceof NativeError)) throw error;
    return [
      fail(
        'self-test',
        `the kernel refused the datapath: ${error.message}`,
        '"up --log-level debug" shows all that it said',
      ),
    ];
  }
  const where =
    result.privateNetwork === true ? 'in a network of its own' : 'on the loopback of this network namespace';
  return [
    ok('self-test', `run on real connections ${where} in ${result.milliseconds.toFixed(0)} ms`),
    ...result.findings.map(({ id, status, detail }): Check => {
      const name = id.replace('_', ' ');
      const { effect, consequence, remedy } = MEANING[id];
      if (status === 'ok') return ok(name, detail);
      const forbids = effect === 'refuse' || (effect === 'no-promotion' && status === 'failed');
      const help = effect === 'refuse' && status === 'unknown' ? TRY_AGAIN : remedy;
      return (forbids ? fail : warn)(name, `${detail}: ${consequence}`, help);
    }),
  ];
}

/** Bugs that cost nobody data, and those that this datapath does not touch. */
function checkHarmlessBugs(): Check[] {
  const { warned, bugs } = knownBugs(parseKernel(kernelNames()));
  const avoided = bugs.filter(({ consequence }) => consequence === 'avoided').map(({ id }) => id);
  return [
    ...warned.map(({ id, summary, needs }) =>
      warn('known bug', `${id}: ${summary.replace(/\.$/, '')} (needs ${needs})`, 'boot a later release where you can'),
    ),
    ok(
      'avoided bugs',
      avoided.length === 0 ? 'none in this release' : `${avoided.join(', ')}: need what is not used here`,
    ),
  ];
}

/** For a person: a line a check, and what to do below those that need it. */
export function renderDiagnosis({ able, kernel, checks }: Diagnosis): string {
  const width = Math.max(...checks.map(({ id }) => id.length));
  const lines = checks.flatMap(({ id, status, detail, remedy }) => [
    `${status.padEnd(7)}  ${id.padEnd(width)}  ${detail}`,
    ...(remedy === undefined ? [] : [`${' '.repeat(9 + width)}  → ${remedy}`]),
  ]);
  const warnings = checks.filter(({ status }) => status === 'warn').length;
  const verdict = able
    ? `kernel ${kernel}: connections can be accelerated${warnings > 0 ? `, with ${String(warnings)} reservation${warnings === 1 ? '' : 's'}` : ''}`
    : `kernel ${kernel}: connections can't be accelerated here`;
  return [...lines, verdict].join('\n');
}
