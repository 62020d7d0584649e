/** Which cgroup a person means: a path, the name of a unit, container or pod, or a process. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import { EXIT, UserError } from '../errors.js';
import { cgroupProblem } from '../policy/glob.js';
import {
  containerMatcher,
  containerProblem,
  type NameMatcher,
  podMatcher,
  podProblem,
  unitMatcher,
  unitProblem,
} from '../policy/name-patterns.js';
import { namesOf } from '../policy/names.js';
import { quote } from '../policy/words.js';
import { cgroupRoot } from '../probe/host.js';

export type Place =
  | { kind: 'path'; path: string }
  | { kind: 'process'; pid: number }
  | { kind: 'name'; text: string; matches: NameMatcher };

const NAMES = {
  unit: { problem: unitProblem, matcher: unitMatcher },
  container: { problem: containerProblem, matcher: containerMatcher },
  pod: { problem: podProblem, matcher: podMatcher },
} as const;

/**
 * @param text `/system.slice/redis.service`, `unit:redis`, `container:3f2a1b4c5d6e`, `pod:UID` or `pid:4711`
 * @throws UserError (exit code 2) with the remedy, without the option's name
 */
export function parsePlace(text: string): Place {
  const wrong = (problem: string): never => {
    throw new UserError(`${quote(text)} ${problem}`, EXIT.usage);
  };
  const [, kind = '', name = ''] = /^(unit|container|pod|pid):(.*)$/.exec(text) ?? [];
  if (kind === 'pid') {
    if (!/^[1-9]\d{0,6}$/.test(name)) return wrong('is no process: write for example pid:4711');
    return { kind: 'process', pid: Number(name) };
  }
  if (kind !== '') {
    const { problem, matcher } = NAMES[kind as keyof typeof NAMES];
    const found = problem(name);
    return found === undefined ? { kind: 'name', text, matches: matcher(name) } : wrong(found);
  }
  if (!text.startsWith('/')) {
    return wrong(
      'is no cgroup: give its path below the cgroup v2 root (/system.slice/redis.service), unit:NAME, container:ID, ' +
        'pod:UID, or pid:N for that of a process',
    );
  }
  const problem = cgroupProblem(text);
  return problem === undefined ? { kind: 'path', path: text.replace(/(?<=.)\/$/, '') } : wrong(problem);
}

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
