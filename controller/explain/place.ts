/** Which cgroup a person means: a path, the name of a unit, container or pod, or a process. */
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
import { quote } from '../policy/words.js';

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
