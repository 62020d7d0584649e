/**
 * How a policy names units, containers and pods. Each pattern is compared with every name on an end's path, so that it
 * covers what runs inside what it names, as a cgroup does.
 */
import { glob, type Matcher, patternProblem, sets, wildcard } from './glob.js';
import { isPodUid, isUnitName, misnamedContainer, type Name, unitTypes } from './names.js';

/** Tells whether one of the names of an end matches. */
export type NameMatcher = (names: readonly Name[]) => boolean;

/** Units that have no cgroup. */
const idleTypes = ['automount', 'device', 'path', 'target', 'timer'];

/** What is wrong with the name or glob of a unit, as the end of a sentence with its remedy. */
export function unitProblem(pattern: string): string | undefined {
  if (pattern === '') return 'is empty: write a unit such as redis.service';
  if (pattern.includes('/')) return 'is a path: write the name of the unit alone, or use cgroup';
  const foreign = 'is no name of a unit: write it as systemctl prints it';
  if (isGlob(pattern)) return /^[\w:.@\\*?[-]*$/.test(pattern.replace(sets, '?')) ? patternProblem(pattern) : foreign;
  const name = withType(pattern);
  const [, prefix, type = ''] = /^(.*)\.(.*)$/.exec(name) ?? [];
  if (idleTypes.includes(type)) return `never has processes: name the unit that it starts, such as ${prefix}.service`;
  if (/^[^@]+@\.\w+$/.test(name)) return `is a template: write ${name.replace('@', '@*')} for all its instances`;
  return isUnitName(name) ? undefined : foreign;
}

/** What is doubtful about the valid name or glob of a unit, as the end of a sentence with its remedy. */
export function unitDoubt(pattern: string): string | undefined {
  const id = isGlob(pattern) ? undefined : misnamedContainer(pattern);
  if (id === undefined) return undefined;
  const read = pattern === withType(pattern) ? '' : `is read as ${withType(pattern)} and `;
  return `${read}never matches, as a container's unit is a scope with all 64 digits: write container: ${id}`;
}

/**
 * Matches units, slices among them, as systemctl(1) does: a name without a type is that of a service, a glob stands for
 * the whole name.
 */
export function unitMatcher(pattern: string): NameMatcher {
  const matches = isGlob(pattern) ? glob(pattern) : equals(withType(pattern));
  return (names) => names.some((name) => (name.kind === 'unit' || name.kind === 'slice') && matches(name.name));
}

/** What is wrong with the id or glob of a container, as the end of a sentence with its remedy. */
export function containerProblem(pattern: string): string | undefined {
  if (isGlob(pattern) ? isHex(pattern) : /^[0-9a-f]{12,64}$/.test(pattern)) return patternProblem(pattern);
  return 'is no container id: write 12 to 64 of its digits (0-9, a-f), or a glob such as 3f2a*; names of containers are not known here';
}

/** Matches containers by their id, its first 12 digits or more, or a glob. */
export function containerMatcher(pattern: string): NameMatcher {
  const matches: Matcher = isGlob(pattern) ? glob(pattern) : (id) => id.startsWith(pattern);
  return (names) => names.some((name) => name.kind === 'container' && matches(name.id));
}

/** What is wrong with the uid or glob of a pod, as the end of a sentence with its remedy. */
export function podProblem(pattern: string): string | undefined {
  if (isGlob(pattern) ? isHex(pattern.replaceAll('-', '')) : isPodUid(pattern)) return patternProblem(pattern);
  return 'is no uid of a pod: write metadata.uid (of a static pod, its annotation kubernetes.io/config.hash), or a glob such as 3f2a*';
}

/** Matches pods by their uid or a glob. */
export function podMatcher(pattern: string): NameMatcher {
  const matches = isGlob(pattern) ? glob(pattern) : equals(pattern);
  return (names) => names.some((name) => name.kind === 'pod' && matches(name.uid));
}

const isGlob = (pattern: string): boolean => wildcard.test(pattern);

/** Whether a glob, apart from its wildcards, has only digits that ids have. */
const isHex = (pattern: string): boolean => /^[0-9a-f*?[]*$/.test(pattern.replace(sets, '?'));

const withType = (pattern: string): string =>
  [...unitTypes, ...idleTypes].some((type) => pattern.endsWith(`.${type}`)) ? pattern : `${pattern}.service`;

const equals =
  (expected: string): Matcher =>
  (text) =>
    text === expected;
