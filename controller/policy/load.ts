import { isUtf8 } from 'node:buffer';
import { MAX_FILE_BYTES, readRegularFile, UnreadableFile } from '../read-file.js';
import { parsePolicy } from './parse.js';
import type { PolicyResult } from './parse.js';
import { defaultPolicy } from './schema.js';

/** Reads and parses a policy file; without one, the default policy. Whatever is wrong becomes a problem. */
export function loadPolicy(file: string | undefined): PolicyResult {
  if (file === undefined) {
    return {
      ok: true,
      policy: structuredClone(defaultPolicy),
      warnings: [],
      places: { defaults: undefined, rules: [] },
    };
  }
  const unreadable = (message: string): PolicyResult => ({
    ok: false,
    problems: [{ file, line: 0, column: 0, message }],
  });
  let bytes: Buffer;
  try {
    bytes = readRegularFile(file);
  } catch (error) {
    if (!(error instanceof UnreadableFile)) throw error;
    const remedy = error.code === 'ENOENT' ? ', or leave --policy out for the default policy' : '';
    return unreadable(`${error.message}${remedy}`);
  }
  if (bytes.length <= MAX_FILE_BYTES && (!isUtf8(bytes) || bytes.includes(0)))
    return unreadable('this is not text in UTF-8: give a YAML file');
  return parsePolicy(bytes.toString(), file);
}
