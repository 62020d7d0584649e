/** `down`: drains, detaches, unpins. */
import { readdirSync, rmdirSync } from 'node:fs';

import type { Logger } from 'pino';

import { DirectoryLock } from '../../addon/index.js';
import { CgroupNames } from '../datapath/cgroups.js';
import { Datapath } from '../datapath/datapath.js';
import { OlderDatapath, pinnedAbiVersion, removeForeignPins } from '../datapath/older.js';
import { UserError } from '../errors.js';
import { compilePolicy } from '../policy/evaluate.js';
import { defaultPolicy } from '../policy/schema.js';
import { removeGateLeftovers } from '../probe/gate.js';
import { cgroupRoot, isBpffsDirectory, mountedCgroupRoot, requireRoot, requireRootUser } from '../probe/host.js';
import { Controller } from './controller.js';
import { drainAll } from './drain.js';
import { countPairs, keptError } from './up.js';

export interface DownOptions {
  pinDir: string;
  /** How long to wait for readers, seconds. */
  timeout: number;
  /** Remove even what could not be drained: those connections lose data. */
  force: boolean;
}

export interface DownEnvironment {
  objectFile: string;
  /** The compiled probe/slipstream-borrow.c. */
  borrowProgram: string;
  log: Logger;
  say: (line: string) => void;
}

/** How often a running controller is looked for while it leaves, milliseconds. */
const LEAVE_POLL = 20;

/** @throws UserError if pairs could not be drained, or a controller does not let go. */
export async function down(options: DownOptions, environment: DownEnvironment): Promise<void> {
  const { pinDir } = options;
  const { say } = environment;
  requireRootUser('down');
  const root = mountedCgroupRoot();
  if (root !== undefined) removeGateLeftovers([root]);
  const isThere = isBpffsDirectory(pinDir);
  if (!isThere || readdirSync(pinDir).length === 0) {
    if (isThere) rmdirSync(pinDir);
    say(`nothing is loaded in ${pinDir}`);
    return;
  }
  // Only now: packages are removed in containers, too, where nothing can be loaded.
  requireRoot('down');
  const state = Datapath.pinState(pinDir);
  if (state === 'absent' || state === 'partial') {
    const lock = await takeOver(pinDir, undefined, options.timeout);
    Datapath.removePinDir(pinDir);
    lock.release();
    say(`removed what an interrupted start left in ${pinDir}`);
    return;
  }
  let datapath: Datapath | OlderDatapath;
  try {
    datapath = state === 'older' ? OlderDatapath.open(pinDir) : Datapath.adopt(environment.objectFile, pinDir);
  } catch (error) {
    if (!options.force || state === 'complete') throw error;
    const lock = await takeOver(pinDir, undefined, options.timeout);
    const version = String(pinnedAbiVersion(pinDir));
    removeForeignPins(pinDir);
    Datapath.removePinDir(pinDir);
    lock.release();
    say(`removed a datapath of ABI version ${version} without draining it, nothing is left loaded`);
    return;
  }
  const lock = await takeOver(pinDir, datapath, options.timeout);
  try {
    const before = datapath.pairs.tally().inserted;
    const kept =
      datapath instanceof Datapath
        ? await takeDown(datapath, options, environment)
        : await drainAll(datapath, options.timeout * 1000);
    if (kept.length > 0 && !options.force) throw keptError(kept.length, pinDir, options.timeout);
    datapath.remove();
    Datapath.removePinDir(pinDir);
    say(
      kept.length > 0
        ? `detached, nothing is left loaded; cut off ${countPairs(kept.length)} with redirected data unread`
        : `drained ${countPairs(before, 'promoted ')} and detached, nothing is left loaded`,
    );
  } finally {
    lock.release();
  }
}

/** Drains as the controller of a datapath; returns the slots that still hold a socket. */
async function takeDown(
  datapath: Datapath,
  { timeout }: DownOptions,
  { log, borrowProgram }: DownEnvironment,
): Promise<number[]> {
  const cgroups = new CgroupNames(cgroupRoot());
  const controller = new Controller({ datapath, cgroups, policy: compilePolicy(defaultPolicy), log, borrowProgram });
  const kept = await controller.takeDown(timeout * 1000);
  await controller.stop();
  return kept;
}

/** Asks a running controller to leave and waits until it has. */
async function takeOver(
  pinDir: string,
  datapath: Datapath | OlderDatapath | undefined,
  timeout: number,
): Promise<DirectoryLock> {
  const deadline = performance.now() + Math.max(5, timeout) * 1000;
  for (;;) {
    const lock = DirectoryLock.acquire(pinDir);
    if (lock !== undefined) return lock;
    if (datapath !== undefined) datapath.settings.leave = true;
    if (performance.now() > deadline) {
      if (datapath !== undefined) datapath.settings.leave = false;
      throw new UserError(`the controller of ${pinDir} does not let go: end it, then run down again`);
    }
    await new Promise((resolve) => setTimeout(resolve, LEAVE_POLL));
  }
}
