/** Reads files that people name: what they point to may be anything, and change while a daemon runs. */
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';

/** No configuration is larger. */
export const MAX_FILE_BYTES = 1 << 20;
/** Nor what we keep: 1000 learned programs, or a policy as JSON. */
export const MAX_STATE_BYTES = 16 << 20;

const REASONS: Record<string, string> = {
  EACCES: 'permission denied: make it readable for the user that runs this',
  ELOOP: 'too many symbolic links: give the file itself',
  ENOENT: 'no such file: check the name',
  ENOTDIR: 'a part of the path is not a directory: check the name',
  ENXIO: 'this is no regular file: give one', // a socket
};

/** The message says what is wrong with the file, and what to do, without its name. */
export class UnreadableFile extends Error {
  /** An errno name; undefined: it is not what was expected. */
  readonly code: string | undefined;

  constructor(message: string, code?: string) {
    super(message);
    this.code = code;
  }
}

/**
 * The whole file, or its first `limit + 1` bytes if it is larger. Opening or reading anything but a regular file could
 * wait for ever.
 * @throws UnreadableFile
 */
export function readRegularFile(file: string, limit = MAX_FILE_BYTES): Buffer {
  let descriptor: number | undefined;
  try {
    descriptor = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
    const status = fstatSync(descriptor);
    if (status.isDirectory()) throw new UnreadableFile('this is a directory: give the file itself');
    if (!status.isFile()) throw new UnreadableFile('this is no regular file: give one');
    // The size may be untrue (/proc), or change meanwhile.
    const chunks: Buffer[] = [];
    for (let length = 0; length <= limit;) {
      const chunk = Buffer.allocUnsafe(Math.min(65_536, limit + 1 - length));
      const read = readSync(descriptor, chunk);
      if (read === 0) break;
      chunks.push(chunk.subarray(0, read));
      length += read;
    }
    return Buffer.concat(chunks);
  } catch (error) {
    if (error instanceof UnreadableFile) throw error;
    const { code = '', message } = error as NodeJS.ErrnoException;
    throw new UnreadableFile(REASONS[code] ?? `it can't be read (${message}): check the file`, code);
  } finally {
    if (descriptor !== undefined) closeSync(descriptor);
  }
}

/**
 * The same for text. @throws UnreadableFile, also if it is larger than `limit`
 */
export function readTextFile(file: string, limit = MAX_FILE_BYTES): string {
  const bytes = readRegularFile(file, limit);
  if (bytes.length > limit) throw new UnreadableFile(`it is larger than ${String(limit)} bytes: give the right file`);
  return bytes.toString();
}
