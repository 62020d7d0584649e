/** Files that commands make: new ones only, and whole or not at all. */
import { accessSync, constants, linkSync, lstatSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';

import { EXIT, UserError } from '../errors.js';

/** @throws UserError (exit code 2) if something has this name, or it can't be made there */
export function requireNew(file: string): void {
  let isThere: boolean;
  try {
    isThere = lstatSync(file, { throwIfNoEntry: false }) !== undefined;
    if (!isThere) accessSync(dirname(file), constants.W_OK);
  } catch (error) {
    throw refusal(file, error as NodeJS.ErrnoException);
  }
  if (isThere) {
    throw new UserError(`--output ${file}: it is there already, and stays as it is: give another name`, EXIT.usage);
  }
}

/** @throws UserError if it is there, or can't be written */
export function writeNew(file: string, text: string): void {
  const draft = `${file}.${String(process.pid)}`;
  try {
    writeFileSync(draft, text, { flag: 'wx', mode: 0o644 });
    // Unlike rename(2) it replaces nothing.
    linkSync(draft, file);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST') requireNew(file);
    throw refusal(file, error as NodeJS.ErrnoException);
  } finally {
    rmSync(draft, { force: true });
  }
}

function refusal(file: string, error: NodeJS.ErrnoException): UserError {
  const known = REASONS[error.code ?? ''];
  const reason = known ?? `it can't be written (${error.message})`;
  return new UserError(`--output ${file}: ${reason}`, known === undefined ? EXIT.failed : EXIT.usage, { cause: error });
}

const REASONS: Readonly<Record<string, string>> = {
  EACCES: 'permission denied: choose a directory that you may write to',
  ENOENT: 'there is no such directory: make it, or give another name',
  ENOTDIR: 'a part of the path is no directory: give another name',
  EROFS: 'the file system is read-only: give another name',
};
