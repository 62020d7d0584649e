/** `up`: from nothing to an attached datapath with a controller, and back. */
import { existsSync, mkdirSync, rmdirSync } from 'node:fs';
import { release } from 'node:os';

import type { Logger } from 'pino';

import { attachedPrograms, cgroupId, DirectoryLock, NativeError } from '../../addon/index.js';
import { CgroupNames } from '../datapath/cgroups.js';
import { Datapath } from '../datapath/datapath.js';
import { EXIT, UserError } from '../errors.js';
import { Metrics } from '../metrics/metrics.js';
import { LearnedPrograms } from '../policy/learned.js';
import { formatProblem } from '../policy/parse.js';
import {
  cgroupRoot,
  isBpffsDirectory,
  mountBpffsFor,
  requireCgroup,
  requirePinDir,
  requireRoot,
} from '../probe/host.js';
import { requireKernel } from '../probe/kernel.js';
import { Controller } from './controller.js';
import { formatListenAddress, type HttpSources, HttpServer, parseListenAddress } from './http.js';
import { type LoadedPolicy, PolicySource, readPolicy } from './policy-source.js';

export interface UpOptions {
  policy: string | undefined;
  /** Directory of a cgroup v2; undefined: its root. */
  cgroup: string | undefined;
  pinDir: string;
  /** `ADDR:PORT` */
  metrics: string;
  maxPairs: number;
  detachOnExit: boolean;
  /** Directory for what is learned. */
  stateDir: string;
  /** A reader that takes nothing of what waits for this long has stalled, seconds. */
  stallAfter: number;
  /** With detachOnExit: how long to drain, seconds. */
  timeout: number;
}

export interface UpEnvironment {
  objectFile: string;
  version: string;
  log: Logger;
  /** Lines for the person who started it. */
  say: (line: string) => void;
  kernelRelease?: string;
}

/** Why the daemon ended. */
type End = 'signal' | 'taken down';

/**
 * Runs until SIGINT, SIGTERM or another process's `down`.
 * @throws UserError; then nothing is left attached that was not before.
 */
export async function up(options: UpOptions, environment: UpEnvironment): Promise<void> {
  const { log } = environment;
  // Signals count from the first moment on, also while things are being set up.
  const signals = new Signals();
  const policy = await readPolicy(options.policy);
  for (const warning of policy.warnings) log.warn(formatProblem(warning));
  const address = parseListenAddress(options.metrics);
  requireRoot('up');
  const learned = new LearnedPrograms(options.stateDir);
  const root = cgroupRoot();
  const cgroupDir = options.cgroup === undefined ? root : requireCgroup(options.cgroup);
  requireKernel(environment.kernelRelease ?? release());

  requirePinDir(options.pinDir);
  refuseSecondInstance(options.pinDir, cgroupDir);

  const sources: HttpSources = { metrics: undefined, notReady: () => 'the datapath is not attached yet' };
  const http = await HttpServer.listen(address, sources);
  try {
    mountBpffsFor(options.pinDir);
    const lock = await acquireLock(options.pinDir);
    try {
      await serve(options, { ...environment, policy, learned, root, cgroupDir, http, sources, signals });
    } finally {
      removeIfEmpty(options.pinDir);
      lock.release();
    }
  } finally {
    await http.close();
    signals.close();
  }
}

/** @throws UserError if programs of ours that are not pinned in `pinDir` are attached to the cgroup. */
function refuseSecondInstance(pinDir: string, cgroupDir: string): void {
  const own = isBpffsDirectory(pinDir) ? Datapath.pinnedProgramId(pinDir) : undefined;
  if (attachedPrograms(cgroupDir, 'sock_ops').some(({ id, name }) => name === 'identify' && id !== own)) {
    throw new UserError(
      `another instance is attached to ${cgroupDir}: take it down with its own --pin-dir, or give this one another --cgroup`,
    );
  }
}

/** Held while a controller runs, and by `down`. @throws UserError if another process has it. */
async function acquireLock(pinDir: string): Promise<DirectoryLock> {
  mkdirSync(pinDir, { recursive: true, mode: 0o700 });
  requirePinDir(pinDir); // somebody may have been quicker
  // `status` holds it for an instant to see whether a controller does.
  for (let attempt = 0; attempt < 10; attempt++) {
    const lock = DirectoryLock.acquire(pinDir);
    if (lock !== undefined) return lock;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new UserError(
    `${pinDir} belongs to an instance that is running: stop it, or give this one another --pin-dir and --cgroup`,
  );
}

/** A start that failed must not leave its directory. */
function removeIfEmpty(pinDir: string): void {
  if (Datapath.pinState(pinDir) === 'absent' && existsSync(pinDir)) rmdirSync(pinDir);
}

interface Context extends UpEnvironment {
  policy: LoadedPolicy;
  learned: LearnedPrograms;
  root: string;
  cgroupDir: string;
  http: HttpServer;
  sources: HttpSources;
  signals: Signals;
}

async function serve(options: UpOptions, context: Context): Promise<void> {
  const { log, say, sources, signals } = context;
  const { datapath, adopted } = attach(options, context);
  const cgroups = new CgroupNames(context.root);
  let leave = (): void => undefined;
  const left = new Promise<End>((resolve) => {
    leave = (): void => {
      resolve('taken down');
    };
  });
  const metrics = new Metrics({
    datapath,
    cgroups,
    version: context.version,
    stalled: () => controller.stalled,
    learned: () => context.learned.list.length,
  });
  const controller = new Controller({
    datapath,
    cgroups,
    policy: context.policy.compiled,
    log,
    learned: context.learned,
    stallAfter: options.stallAfter * 1000,
    onPromoted: (seconds) => {
      metrics.promoted(seconds);
    },
    onLeave: leave,
  });
  const source = await followPolicy(options.policy, context, controller, metrics, datapath);
  controller.start();
  sources.metrics = async () => ({ body: await metrics.render(), contentType: metrics.registry.contentType });
  sources.notReady = () => undefined;
  say(
    `${adopted ? 'adopted the datapath at' : 'attached to'} ${context.cgroupDir}, pinned in ${options.pinDir}, ` +
      `metrics at http://${formatListenAddress(context.http.address)}/metrics`,
  );

  const end = await Promise.race([signals.ended, left]);
  sources.notReady = () => 'shutting down';
  await source?.close();
  if (end === 'signal' && options.detachOnExit) {
    const kept = await controller.takeDown(options.timeout * 1000);
    await controller.stop();
    if (kept.length > 0) {
      datapath.close();
      throw keptError(kept.length, options.pinDir, options.timeout);
    }
    datapath.remove();
    say('detached, nothing is left loaded');
    return;
  }
  await controller.stop();
  if (end === 'taken down') {
    say('taken down by another process');
  } else {
    say(
      `stopped; the datapath stays attached to ${context.cgroupDir} with ` +
        `${countPairs(controller.inserted, 'promoted ')}: "slipstream-bpf down --pin-dir ${options.pinDir}" removes it, "up" takes it over`,
    );
  }
  datapath.close();
}

/** `1 pair`, `2 promoted pairs`. */
export function countPairs(count: number, kind = ''): string {
  return `${String(count)} ${kind}${count === 1 ? 'pair' : 'pairs'}`;
}

/** Pairs whose readers did not empty their queues in time. */
export function keptError(count: number, pinDir: string, seconds: number): UserError {
  return new UserError(
    `${countPairs(count)} with unread redirected data after ${String(seconds)} s: the datapath stays, taking no new ` +
      `pairs; run "slipstream-bpf down --pin-dir ${pinDir}" again, or with --force to cut them off`,
  );
}

/** Adopts what is pinned, or loads afresh. */
function attach(options: UpOptions, context: Context): { datapath: Datapath; adopted: boolean } {
  const { pinDir } = options;
  const { cgroupDir, log } = context;
  const state = Datapath.pinState(pinDir);
  if (state === 'complete') {
    const datapath = Datapath.adopt(context.objectFile, pinDir);
    const { attachedCgroup, maxPairs } = datapath.settings;
    if (attachedCgroup !== cgroupId(cgroupDir)) {
      const path = new CgroupNames(context.root).path(attachedCgroup) ?? 'a cgroup that is gone';
      datapath.close();
      throw new UserError(
        `${pinDir} holds a datapath attached to ${path}, not to ${cgroupDir}: give that --cgroup, ` +
          'take it down first, or use another --pin-dir',
      );
    }
    if (maxPairs !== options.maxPairs) {
      log.warn(
        `the adopted datapath keeps its table of ${String(maxPairs)} pairs; --max-pairs takes effect after down`,
      );
    }
    return { datapath, adopted: true };
  }
  if (state === 'partial') {
    log.warn(`removing what an interrupted start left in ${pinDir}`);
    Datapath.removePins(pinDir);
  }
  try {
    return { datapath: Datapath.load({ ...options, ...context }), adopted: false };
  } catch (error) {
    if (!(error instanceof NativeError)) throw error;
    if (error.operation === 'open') {
      throw new UserError(
        `${context.objectFile} is no BPF object (${error.message}): run scripts/build --force`,
        EXIT.failed,
        {
          cause: error,
        },
      );
    }
    log.debug({ verifier: error.log }, 'load failed');
    throw new UserError(
      `the kernel refused the datapath (${error.message}): nothing was attached, --log-level debug shows all it said`,
      error.code === 'EPERM' || error.code === 'EBUSY' ? EXIT.failed : EXIT.unsupported,
      { cause: error },
    );
  }
}

/** Reloads on SIGHUP and on change; what is invalid is logged and leaves the old policy in force. */
async function followPolicy(
  file: string | undefined,
  context: Context,
  controller: Controller,
  metrics: Metrics,
  datapath: Datapath,
): Promise<PolicySource | undefined> {
  const { log, signals } = context;
  const show = (policy: LoadedPolicy): void => {
    metrics.setPolicy({ file: file ?? '(default)', hash: policy.hash, rules: policy.policy.rules.length });
  };
  show(context.policy);
  if (file === undefined) {
    signals.onReload = () => {
      log.info('SIGHUP: no policy file was given, nothing to reload');
    };
    return undefined;
  }
  const source = new PolicySource(file, context.policy);
  source.on('loaded', (policy) => {
    for (const warning of policy.warnings) log.warn(formatProblem(warning));
    controller.applyPolicy(policy.compiled);
    datapath.controllerCounters.policyReloaded(true);
    show(policy);
    log.info({ file, hash: policy.hash, rules: policy.policy.rules.length }, 'policy reloaded');
  });
  source.on('invalid', (problems) => {
    datapath.controllerCounters.policyReloaded(false);
    log.error(`policy not reloaded, the old one stays in force: ${problems}`);
  });
  signals.onReload = () => {
    void source.reload(true);
  };
  await source.watch();
  return source;
}

/** SIGINT and SIGTERM end, SIGHUP reloads. */
class Signals {
  readonly ended: Promise<End>;
  onReload: () => void = () => undefined;
  readonly #remove: () => void;

  constructor() {
    let end = (): void => undefined;
    this.ended = new Promise<End>((resolve) => {
      end = (): void => {
        resolve('signal');
      };
    });
    const stop = (): void => {
      end();
    };
    const reload = (): void => {
      this.onReload();
    };
    process.on('SIGINT', stop).on('SIGTERM', stop).on('SIGHUP', reload);
    this.#remove = (): void => {
      process.off('SIGINT', stop).off('SIGTERM', stop).off('SIGHUP', reload);
    };
  }

  close(): void {
    this.#remove();
  }
}
