/** `up`: from nothing to an attached datapath with a controller, and back. */
import { existsSync, mkdirSync, rmdirSync } from 'node:fs';
import { release } from 'node:os';

import type { Logger } from 'pino';

import { cgroupId, DirectoryLock, NativeError } from '../../addon/index.js';
import { CgroupNames } from '../datapath/cgroups.js';
import { Datapath, requireAbi } from '../datapath/datapath.js';
import { OlderDatapath } from '../datapath/older.js';
import type { GateMasks } from '../datapath/settings.js';
import { EXIT, UserError } from '../errors.js';
import { Metrics } from '../metrics/metrics.js';
import { PolicyRecord } from '../policy/in-force.js';
import { LearnedPrograms } from '../policy/learned.js';
import { formatProblem } from '../policy/parse.js';
import {
  cgroupRoot,
  mountBpffsFor,
  requireCgroup,
  requirePinDir,
  requireRoot,
  PROMOTION_REMEDY,
  WAKING_REMEDY,
  wholeHost,
  whyNotPromote,
  whyNotWake,
  WITHOUT_PROMOTION,
  WITHOUT_WAKING,
} from '../probe/host.js';
import { type GateFacts, gateFacts, MEANING, TRY_AGAIN } from '../probe/findings.js';
import { GateError, type GateResult, runGate } from '../probe/gate.js';
import { ADOPT_FEATURES, requireKernel } from '../probe/kernel.js';
import { type KernelNames, kernelNames, parseKernel } from '../probe/kernel-version.js';
import { knownBugs } from '../probe/known-bugs.js';
import { Adoption } from '../adopt/adopt.js';
import { Activity } from './activity.js';
import { Api } from './api.js';
import { refuseSecondInstance } from './other-instances.js';
import { Controller } from './controller.js';
import { drainAll } from './drain.js';
import { type HttpSources, HttpServer } from './http.js';
import { parseListenAddress } from './listen-address.js';
import { Notifier } from './notify.js';
import { type LoadedPolicy, PolicySource, readPolicy } from './policy-source.js';
import { WebConfigFile } from './web-config.js';

export interface UpOptions {
  policy: string | undefined;
  /** Directory of a cgroup v2; undefined: its root. */
  cgroup: string | undefined;
  pinDir: string;
  /** `ADDR:PORT` */
  metrics: string;
  /** TLS and users of the HTTP server, in exporter-toolkit's format; undefined: none of either. */
  webConfig?: string | undefined;
  maxPairs: number;
  detachOnExit: boolean;
  /** Directory for what is learned. */
  stateDir: string;
  /** A reader that takes nothing of what waits for this long has stalled, seconds. */
  stallAfter: number;
  /** Promote although this kernel release has a bug that may strike. */
  acceptKnownBugs?: boolean;
  /**
   * The compiled bpf/adopt.bpf.c: connections that are there already become pairs. Undefined: they do not.
   */
  adopt?: string | undefined;
  /** With detachOnExit: how long to drain, seconds. */
  timeout: number;
}

export interface UpEnvironment {
  objectFile: string;
  version: string;
  log: Logger;
  /** Lines for the person who started it. */
  say: (line: string) => void;
  /** The program that makes the kernel gate's connections. */
  socketsProgram: string;
  /** The compiled probe/slipstream-borrow.c. */
  borrowProgram: string;
  /** Another kernel's names than the running one's, for tests. */
  kernel?: KernelNames;
}

/** Why the daemon ended. */
type End = 'signal' | 'taken down';

/**
 * Runs until SIGINT, SIGTERM or another process's `down`.
 * @throws UserError; then nothing is left attached that was not before.
 */
export async function up(options: UpOptions, environment: UpEnvironment): Promise<void> {
  const { log } = environment;
  const notifier = new Notifier(log);
  // Signals count from the first moment on, also while things are being set up.
  const signals = new Signals();
  const policy = readPolicy(options.policy);
  for (const warning of policy.warnings) log.warn(formatProblem(warning));
  const address = parseListenAddress(options.metrics);
  const webConfig = options.webConfig === undefined ? undefined : new WebConfigFile(options.webConfig);
  requireRoot('up');
  const learned = new LearnedPrograms(options.stateDir);
  const sleeping = whyNotWake();
  if (sleeping !== undefined) log.warn(`${WITHOUT_WAKING}: ${sleeping}; ${WAKING_REMEDY}`);
  const root = cgroupRoot();
  const cgroupDir = options.cgroup === undefined ? wholeHost() : requireCgroup(options.cgroup);
  requireKernel(environment.kernel?.release ?? release());
  const unseen = whyNotPromote();
  if (unseen !== undefined) log.warn(`${WITHOUT_PROMOTION}: ${unseen}; ${PROMOTION_REMEDY}`);
  if (options.adopt !== undefined) requireKernel(environment.kernel?.release ?? release(), ADOPT_FEATURES);

  requirePinDir(options.pinDir);
  refuseSecondInstance(options.pinDir, cgroupDir, root);

  const sources: HttpSources = {
    metrics: undefined,
    api: undefined,
    notReady: () => 'the datapath is not attached yet',
  };
  const http = await HttpServer.listen(address, sources, { webConfig, log });
  try {
    mountBpffsFor(options.pinDir);
    const lock = await acquireLock(options.pinDir);
    try {
      await serve(options, { ...environment, policy, learned, root, cgroupDir, http, sources, signals, notifier });
    } finally {
      removeIfEmpty(options.pinDir);
      lock.release();
    }
  } finally {
    await http.close();
    signals.close();
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
  notifier: Notifier;
}

async function serve(options: UpOptions, context: Context): Promise<void> {
  const { log, say, sources, signals, notifier } = context;
  notifier.status('trying the kernel out');
  const state = Datapath.pinState(options.pinDir);
  if (state === 'newer') requireAbi(options.pinDir);
  const adopted = state === 'complete' ? adopt(options, context) : undefined;
  const older = state === 'older' ? openOlder(options, context) : undefined;
  const gate = await passGate(options, context, adopted);
  if (older !== undefined) await takeOut(older, options, context);
  const datapath = adopted ?? load(options, context);
  datapath.settings.gate = gate.masks;
  const cgroups = new CgroupNames(context.root, {
    onFound: () => {
      controller.judgeAgain();
    },
    onError: (error) => {
      log.error({ error: String(error) }, 'cgroups could not be looked through: new ones stay on TCP');
    },
  });
  let leave = (): void => undefined;
  const left = new Promise<End>((resolve) => {
    leave = (): void => {
      resolve('taken down');
    };
  });
  const shown = {
    datapath,
    cgroups,
    version: context.version,
    stalled: () => controller.stalled,
    learned: () => context.learned.list.length,
  };
  const metrics = new Metrics(shown);
  const controller = new Controller({
    datapath,
    cgroups,
    policy: context.policy.compiled,
    log,
    borrowProgram: context.borrowProgram,
    learned: context.learned,
    stallAfter: options.stallAfter * 1000,
    gate: gate.facts,
    // TCP bytes often follow redirected ones in a stream, and each time a reader may have to be woken.
    ...(whyNotWake() !== undefined && { tuning: { streamBytes: 0 } }),
    onPromoted: (seconds, pair) => {
      metrics.promoted(seconds, pair);
    },
    onSweep: () => {
      metrics.swept();
      notifier.alive(standing);
    },
    onLeave: leave,
  });
  const standing = (): string => `attached to ${context.cgroupDir}, ${countPairs(controller.inserted, 'promoted ')}`;
  const record = new PolicyRecord(options.stateDir, options.pinDir, datapath.settings.loadedNs);
  const source = followPolicy(options.policy, context, controller, metrics, datapath, record);
  controller.start();
  const activity = new Activity(log, datapath.controllerCounters);
  const adoption = adoptConnections(options, context, datapath);
  sources.metrics = (format) => metrics.render(format);
  const kernel = parseKernel(context.kernel ?? kernelNames());
  sources.api = new Api({
    ...shown,
    metrics,
    pinDir: options.pinDir,
    kernel: { name: kernel.name, bugs: knownBugs(kernel).bugs },
  });
  sources.notReady = () => undefined;
  notifier.ready(standing());
  say(
    `${adopted !== undefined ? 'adopted the datapath at' : 'attached to'} ${context.cgroupDir}, pinned in ${options.pinDir}, ` +
      `metrics at ${context.http.origin}/metrics, dashboard at ${context.http.origin}/`,
  );

  const end = await Promise.race([signals.ended, left]);
  sources.notReady = () => 'shutting down';
  activity.close();
  await adoption?.close();
  notifier.stopping(end === 'signal' && !options.detachOnExit ? 'leaving the datapath in place' : 'draining');
  source?.close();
  if (end === 'signal' && options.detachOnExit) {
    const kept = await controller.takeDown(options.timeout * 1000);
    await controller.stop();
    if (kept.length > 0) {
      datapath.close();
      throw keptError(kept.length, options.pinDir, options.timeout);
    }
    datapath.remove();
    record.remove();
    say('detached, nothing is left loaded');
    return;
  }
  await controller.stop();
  if (end === 'taken down') {
    record.remove();
    say('taken down by another process');
  } else {
    say(
      `stopped; the datapath stays attached to ${context.cgroupDir} with ` +
        `${countPairs(controller.inserted, 'promoted ')}: "slipstream-bpf down --pin-dir ${options.pinDir}" removes it, "up" takes it over`,
    );
  }
  datapath.close();
}

function adoptConnections(
  { adopt: objectFile }: UpOptions,
  { cgroupDir, log, borrowProgram }: Context,
  datapath: Datapath,
): Adoption | undefined {
  if (objectFile === undefined) return undefined;
  const adoption = new Adoption({ objectFile, borrowProgram, datapath, cgroupDir, log });
  adoption.start();
  return adoption;
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

/** Takes over what is pinned. @throws UserError if it belongs to another cgroup or version. */
function adopt(options: UpOptions, context: Context): Datapath {
  const { objectFile, log } = context;
  const datapath = Datapath.adopt(objectFile, options.pinDir);
  requireSameCgroup(datapath, options, context);
  const { maxPairs } = datapath.settings;
  if (maxPairs !== options.maxPairs) {
    log.warn(`the adopted datapath keeps its table of ${String(maxPairs)} pairs; --max-pairs takes effect after down`);
  }
  return datapath;
}

/** @throws UserError if it is attached elsewhere; then it is closed. */
function requireSameCgroup(
  datapath: Datapath | OlderDatapath,
  { pinDir }: UpOptions,
  { cgroupDir, root }: Context,
): void {
  const { attachedCgroup } = datapath.settings;
  if (attachedCgroup === cgroupId(cgroupDir)) return;
  const path = new CgroupNames(root).path(attachedCgroup) ?? 'a cgroup that is gone';
  datapath.close();
  throw new UserError(
    `${pinDir} holds a datapath attached to ${path}, not to ${cgroupDir}: give that --cgroup, ` +
      'take it down first, or use another --pin-dir',
  );
}

/** @throws UserError if what an earlier ABI version pinned can't be drained, or belongs to another cgroup. */
function openOlder(options: UpOptions, context: Context): OlderDatapath {
  const older = OlderDatapath.open(options.pinDir);
  requireSameCgroup(older, options, context);
  return older;
}

/** Drains and removes what an earlier ABI version pinned. @throws UserError if readers leave data unread. */
async function takeOut(older: OlderDatapath, options: UpOptions, { say, notifier }: Context): Promise<void> {
  const promoted = countPairs(older.pairs.tally().inserted, 'promoted ');
  const version = String(older.settings.abiVersion);
  notifier.status(`draining the datapath of ABI version ${version}`);
  const kept = await drainAll(older, options.timeout * 1000);
  if (kept.length > 0) {
    older.close();
    throw keptError(kept.length, options.pinDir, options.timeout);
  }
  older.remove();
  say(`drained ${promoted} and removed the datapath of ABI version ${version}; their connections stay on TCP`);
}

function load(options: UpOptions, context: Context): Datapath {
  const { pinDir } = options;
  if (Datapath.pinState(pinDir) === 'partial') {
    context.log.warn(`removing what an interrupted start left in ${pinDir}`);
    Datapath.removePins(pinDir);
  }
  let datapath: Datapath;
  try {
    datapath = Datapath.load({ ...options, ...context });
  } catch (error) {
    throw explainLoadError(error, context);
  }
  try {
    // One that started at the same moment: whoever is later sees the other.
    refuseSecondInstance(pinDir, context.cgroupDir, context.root);
  } catch (error) {
    datapath.remove();
    throw error;
  }
  return datapath;
}

/** Puts the kernel's refusal of the datapath into a sentence. */
function explainLoadError(error: unknown, { objectFile, log }: Pick<UpEnvironment, 'objectFile' | 'log'>): unknown {
  if (!(error instanceof NativeError)) return error;
  if (error.operation === 'open') {
    return new UserError(`${objectFile} is no BPF object (${error.message}): run scripts/build --force`, EXIT.failed, {
      cause: error,
    });
  }
  log.debug({ verifier: error.log }, 'load failed');
  return new UserError(
    `the kernel refused the datapath (${error.message}): nothing was attached, --log-level debug shows all it said`,
    error.code === 'EPERM' || error.code === 'EBUSY' ? EXIT.failed : EXIT.unsupported,
    { cause: error },
  );
}

/**
 * Runs the kernel gate and tells what it found.
 * @param adopted a datapath that lives already: its connections are served whatever the gate says, but a kernel that
 *   fails promotes nothing more
 * @throws UserError (exit code 3) if nothing can be accelerated and nothing is attached yet
 */
async function passGate(
  options: UpOptions,
  context: Context,
  adopted: Datapath | undefined,
): Promise<{ masks: GateMasks; facts: GateFacts }> {
  const { log, say } = context;
  let result: GateResult;
  try {
    result = await runGate({ ...context, acceptKnownBugs: options.acceptKnownBugs ?? false, cgroupRoot: context.root });
  } catch (error) {
    if (adopted !== undefined) {
      log.warn(
        `the kernel gate could not be run (${error instanceof Error ? error.message : String(error)}): what it found last time stays in force`,
      );
      const masks = adopted.settings.gate;
      return { masks, facts: gateFacts(masks) };
    }
    if (!(error instanceof GateError)) throw explainLoadError(error, context);
    throw new UserError(
      `the kernel gate could not be run: ${error.message}; nothing was attached, "slipstream-bpf doctor" checks the host`,
      EXIT.unsupported,
      { cause: error },
    );
  }
  const { findings, masks, kernel, milliseconds } = result;
  log.info({ kernel: kernel.name, ...masks, milliseconds: Math.round(milliseconds) }, 'kernel gate');
  for (const { id, summary } of result.bugs.warned)
    log.warn(`kernel ${kernel.name} has, or may have, ${id}: ${summary}`);
  for (const { id, status, detail } of findings) {
    if (status === 'ok') continue;
    const { effect, asks, consequence, remedy } = MEANING[id];
    if (effect === 'refuse' && adopted === undefined) {
      throw new UserError(
        `kernel ${kernel.name} ${status === 'failed' ? 'fails' : 'could not be put to'} the self-test "${id}" (${asks}): ` +
          `${detail}; nothing was attached, ${status === 'failed' ? remedy : TRY_AGAIN}`,
        EXIT.unsupported,
      );
    }
    if (effect === 'refuse' && status === 'failed') {
      say(`kernel ${kernel.name} fails the self-test "${id}" (${detail}): nothing is promoted any more, ${remedy}`);
    } else if (effect === 'no-promotion' && status === 'failed') {
      say(`${detail}: ${consequence}, ${remedy}`);
    } else {
      // What today's kernels all lack is no warning.
      const level = status === 'failed' && (effect === 'hazard' || id === 'signal') ? 'info' : 'warn';
      log[level]({ finding: id, status }, `${detail}: ${consequence}`);
    }
  }
  return { masks, facts: gateFacts(masks) };
}

/** Reloads on SIGHUP and on change; what is invalid is logged and leaves the old policy in force. */
function followPolicy(
  file: string | undefined,
  context: Context,
  controller: Controller,
  metrics: Metrics,
  datapath: Datapath,
  record: PolicyRecord,
): PolicySource | undefined {
  const { log, signals, notifier } = context;
  const show = (policy: LoadedPolicy): void => {
    metrics.setPolicy({ file: file ?? '(default)', hash: policy.hash, rules: policy.policy.rules.length });
    try {
      record.write(file, policy.policy);
    } catch (error) {
      log.warn({ error: String(error) }, 'the policy in force could not be kept: "explain" needs --policy');
    }
  };
  show(context.policy);
  if (file === undefined) {
    signals.onReload = () => {
      log.info('SIGHUP: no policy file was given, nothing to reload');
      notifier.reloading();
      notifier.ready('no policy file was given, nothing to reload');
    };
    return undefined;
  }
  const source = new PolicySource(file, context.policy);
  let result = '';
  source.on('loaded', (policy) => {
    for (const warning of policy.warnings) log.warn(formatProblem(warning));
    controller.applyPolicy(policy.compiled);
    datapath.controllerCounters.policyReloaded(true);
    show(policy);
    log.info({ file, hash: policy.hash, rules: policy.policy.rules.length }, 'policy reloaded');
    result = 'policy reloaded';
  });
  source.on('invalid', (problems) => {
    datapath.controllerCounters.policyReloaded(false);
    metrics.policyFailed(problems);
    result = `policy not reloaded, the old one stays in force: ${problems}`;
    log.error(result);
  });
  signals.onReload = () => {
    notifier.reloading();
    source.reload(true);
    notifier.ready(result);
  };
  source.watch();
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
