/** `down`: drains, detaches, unpins. */
import { readdirSync, rmdirSync } from 'node:fs';

import type { Logger } from 'pino';

import { DirectoryLock } from '../../addon/index.js';
import { CgroupNames } from '../datapath/cgroups.js';
import { Datapath } from '../datapath/datapath.js';
import { UserError } from '../errors.js';
import { compilePolicy } from '../policy/evaluate.js';
import { defaultPolicy } from '../policy/schema.js';
import { removeGateLeftovers } from '../probe/gate.js';
import { cgroupRoot, isBpffsDirectory, mountedCgroupRoot, requireRoot, requireRootUser } from '../probe/host.js';
import { Controller } from './controller.js';
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
  log: Logger;
  say: (line: string) => void;
}

/** How often a running controller is looked for while it leaves, milliseconds. */
const LEAVE_POLL = 20;

/** @throws UserError if pairs could not be drained, or a controller does not let go. */
export async function down(options: DownOptions, environment: DownEnvironment): Promise<void> {
  const { pinDir } = options;
  const { log, say } = environment;
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
  if (Datapath.pinState(pinDir) !== 'complete') {
    const lock = await takeOver(pinDir, undefined, options.timeout);
    Datapath.removePinDir(pinDir);
    lock.release();
    say(`removed what an interrupted start left in ${pinDir}`);
    return;
  }
  const datapath = Datapath.adopt(environment.objectFile, pinDir);
  const lock = await takeOver(pinDir, datapath, options.timeout);
  try {
    const controller = new Controller({
      datapath,
      cgroups: new CgroupNames(cgroupRoot()),
      policy: compilePolicy(defaultPolicy),
      log,
    });
    const before = datapath.pairs.tally().inserted;
    const kept = await controller.takeDown(options.timeout * 1000);
    await controller.stop();
    if (kept.length > 0 && !options.force) throw keptError(kept.length, pinDir, options.timeout);
    datapath.remove();
    say(
      kept.length > 0
        ? `detached, nothing is left loaded; cut off ${countPairs(kept.length)} with redirected data unread`
        : `drained ${countPairs(before, 'promoted ')} and detached, nothing is left loaded`,
    );
  } finally {
    lock.release();
  }
}

/** Asks a running controller to leave and waits until it has. */
async function takeOver(pinDir: string, datapath: Datapath | undefined, timeout: number): Promise<DirectoryLock> {
  const deadline = Date.now() + Math.max(5, timeout) * 1000;
  for (;;) {
    const lock = DirectoryLock.acquire(pinDir);
    if (lock !== undefined) return lock;
    if (datapath !== undefined) datapath.settings.leave = true;
    if (Date.now() > deadline) {
      if (datapath !== undefined) datapath.settings.leave = false;
      throw new UserError(`the controller of ${pinDir} does not let go: end it, then run down again`);
    }
    await new Promise((resolve) => setTimeout(resolve, LEAVE_POLL));
  }
}
