/** The cgroup of a place that a person has named. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import { EXIT, UserError } from '../errors.js';
import type { NameMatcher } from '../policy/name-patterns.js';
import { namesOf } from '../policy/names.js';
import { cgroupRoot } from '../probe/host.js';
import type { Place } from './place.js';

/**
 * Its path below the cgroup v2 root; a path need not be there.
 * @throws UserError if there is none by this name on this host, or more than one
 */
export function findPlace(place: Place): { cgroup: string; program: string | null } {
  if (place.kind === 'path') return { cgroup: place.path, program: null };
  if (place.kind === 'process') return ofProcess(place.pid);
  const found = [...search(cgroupRoot(), '', place.matches)];
  const [first, second] = found;
  if (first !== undefined && second === undefined) return { cgroup: first, program: null };
  if (first === undefined) {
    throw new UserError(`${place.text} has no cgroup on this host: start it, or give the path that it will have`);
  }
  throw new UserError(
    `${place.text} stands for ${String(found.length)} cgroups, such as ${first} and ${second ?? ''}: give one path`,
    EXIT.usage,
  );
}

/** Cgroups whose own segment has such a name; not those below them. */
function* search(root: string, path: string, matches: NameMatcher): Generator<string> {
  for (const name of directories(join(root, path))) {
    const below = `${path}/${name}`;
    const names = namesOf(below);
    const depth = below.split('/').length - 2;
    if (matches(names.filter((one) => one.depth === depth))) yield below;
    else yield* search(root, below, matches);
  }
}

function directories(path: string): string[] {
  try {
    return readdirSync(path, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map(({ name }) => name);
  } catch {
    return []; // removed meanwhile
  }
}

function ofProcess(pid: number): { cgroup: string; program: string } {
  const dir = `/proc/${String(pid)}`;
  let text: string;
  let program: string;
  try {
    text = readFileSync(join(dir, 'cgroup'), 'utf8');
    program = readFileSync(join(dir, 'comm'), 'utf8').trimEnd();
  } catch (error) {
    throw new UserError(`there is no process ${String(pid)} here that can be seen`, EXIT.failed, { cause: error });
  }
  const cgroup = /^0::(.*)$/m.exec(text)?.[1];
  if (cgroup === undefined || cgroup.startsWith('/..')) {
    throw new UserError(
      `the cgroup of process ${String(pid)} is outside of what can be seen here: run this on the host`,
    );
  }
  return { cgroup, program };
}
