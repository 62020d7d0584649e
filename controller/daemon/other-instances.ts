/** Instances of others whose cgroup shares sockets with ours: programs of both would run on them. */
import { basename, dirname, join, resolve } from 'node:path';

import { type AttachedProgram, attachedPrograms, listCgroupsSync, NativeError } from '../../addon/index.js';
import { Datapath } from '../datapath/datapath.js';
import { EXIT, UserError } from '../errors.js';
import { CGROUP_PREFIX } from '../probe/gate.js';
import { isBpffsDirectory } from '../probe/host.js';

/** Some maps of our sockops program. */
const MAPS = ['pairs', 'handshakes', 'settings'];

/** Whether a sockops program is ours, by what the kernel says of it. */
export function isOurs({ name, maps = [] }: AttachedProgram): boolean {
  return name === 'identify' && MAPS.every((map) => maps.includes(map));
}

/**
 * @param root where the cgroup v2 file system is mounted
 * @throws UserError if programs of ours that are not pinned in `pinDir` are attached to the cgroup, above or below it
 */
export function refuseSecondInstance(pinDir: string, cgroupDir: string, root: string): void {
  const own = isBpffsDirectory(pinDir) ? Datapath.pinnedProgramId(pinDir) : undefined;
  // Programs have no names without CAP_SYS_ADMIN.
  const beside = Datapath.programsPinnedBeside(pinDir);
  const other = (dir: string, effective = false): number | undefined =>
    programsOf(dir, effective).find((program) => program.id !== own && (isOurs(program) || beside.has(program.id)))?.id;
  const refuse = (id: number, where: string): never => {
    const pins = beside.get(id);
    const remedy = pins === undefined ? 'its own --pin-dir' : `--pin-dir ${pins}`;
    throw new UserError(
      `another instance is attached to ${where}: take it down with ${remedy}, or give this one another --cgroup`,
      EXIT.failed,
    );
  };
  const above = other(cgroupDir, true);
  if (above !== undefined) {
    let at = resolve(cgroupDir);
    while (!programsOf(at).some(({ id }) => id === above) && at !== root && at !== '/') at = dirname(at);
    const found = programsOf(at).some(({ id }) => id === above);
    refuse(
      above,
      found ? (at === resolve(cgroupDir) ? cgroupDir : `${at}, above ${cgroupDir}`) : `a cgroup above ${cgroupDir}`,
    );
  }
  for (const path of listCgroupsSync(cgroupDir).paths) {
    if (path === '/' || basename(path).startsWith(CGROUP_PREFIX)) continue; // a gate is over at once
    const below = other(join(cgroupDir, path));
    if (below !== undefined) refuse(below, `${join(cgroupDir, path)}, below ${cgroupDir}`);
  }
}

/** None for a cgroup that was removed meanwhile. */
function programsOf(dir: string, effective = false): AttachedProgram[] {
  try {
    return attachedPrograms(dir, 'sock_ops', effective);
  } catch (error) {
    if (error instanceof NativeError && (error.code === 'ENOENT' || error.code === 'ENODEV')) return [];
    throw error;
  }
}
