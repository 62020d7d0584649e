/** A cgroup as people know it. */
import { type Container, innermost, namesOf, type Name } from '../policy/names.js';
import { printable } from '../policy/words.js';

/** As docker(1) shortens ids. */
const CONTAINER_DIGITS = 12;
const POD_DIGITS = 8;

/**
 * The innermost pod, container and unit in a path, the outermost of them first: `redis.service`, `docker:3f2a1b4c5d6e`,
 * `pod:1858680e/3f2a1b4c5d6e`, `podman:3f2a1b4c5d6e/nginx.service`. A path without any of them stays as it is.
 */
export function shortName(path: string): string {
  const names = namesOf(path);
  const isContainer = ({ depth }: Name): boolean =>
    names.some((name) => name.kind === 'container' && name.depth === depth);
  const shown = [
    innermost(names, 'pod'),
    innermost(names, 'container'),
    // A container's own scope says nothing more.
    names.findLast((name) => name.kind === 'unit' && !isContainer(name)),
  ]
    .filter((name) => name !== undefined)
    .sort((a, b) => a.depth - b.depth);
  if (shown.length === 0) return printable(path);
  return shown.map((name, index) => short(name, shown[index - 1]?.kind === 'pod')).join('/');
}

function short(name: Name, inPod: boolean): string {
  switch (name.kind) {
    case 'container':
      return inPod ? digits(name) : `${name.engine ?? 'container'}:${digits(name)}`;
    case 'pod':
      return `pod:${name.uid.slice(0, POD_DIGITS)}`;
    default:
      return name.name;
  }
}

const digits = ({ id }: Container): string => id.slice(0, CONTAINER_DIGITS);
