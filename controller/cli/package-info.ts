/** Where this installation lives and which version it is. */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { EXIT, UserError } from '../errors.js';

/** The directory of package.json: above both the sources and the compiled files. */
export const PACKAGE_ROOT = findRoot(dirname(fileURLToPath(import.meta.url)));

export const VERSION = (JSON.parse(readFileSync(join(PACKAGE_ROOT, 'package.json'), 'utf8')) as { version: string })
  .version;

/** The compiled datapath. @throws UserError if it was not built. */
export function objectFile(): string {
  return builtFile('bpf', 'slipstream.bpf.o');
}

/** The programs of `capture`. @throws UserError if they were not built. */
export function captureObjectFile(): string {
  return builtFile('bpf', 'capture.bpf.o');
}

/** The program of `up --adopt`. @throws UserError if it was not built. */
export function adoptObjectFile(): string {
  return builtFile('bpf', 'adopt.bpf.o');
}

/** The program that wakes sockets, and with which `up --adopt` asks them. @throws UserError if it was not built. */
export function borrowProgram(): string {
  return builtFile('probe', 'slipstream-borrow');
}

/** The program that makes the kernel gate's connections. @throws UserError if it was not built. */
export function socketsProgram(): string {
  return builtFile('probe', 'slipstream-gate');
}

function builtFile(...path: string[]): string {
  const file = join(PACKAGE_ROOT, 'build', ...path);
  if (!existsSync(file)) throw new UserError(`${file} is missing: run scripts/build`, EXIT.failed);
  return file;
}

function findRoot(from: string): string {
  for (let dir = from; ; dir = dirname(dir)) {
    if (existsSync(join(dir, 'package.json'))) return dir;
    if (dir === dirname(dir)) throw new Error('package.json not found above the program');
  }
}
