import { isUtf8 } from 'node:buffer';
import { createReadStream } from 'node:fs';
import { maxPolicyBytes, parsePolicy } from './parse.js';
import type { PolicyResult } from './parse.js';
import { defaultPolicy } from './schema.js';

const reasons: Record<string, string> = {
  EACCES: 'permission denied: make the file readable for the user that runs this',
  EISDIR: 'this is a directory: give the policy file itself',
  ELOOP: 'too many symbolic links: give the file itself',
  ENOENT: 'no such file: check the name, or leave --policy out for the default policy',
  ENOTDIR: 'a part of the path is not a directory: check the name',
};

/** Reads and parses a policy file; without one, the default policy. Whatever is wrong becomes a problem. */
export async function loadPolicy(file: string | undefined): Promise<PolicyResult> {
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
  const chunks: Buffer[] = [];
  try {
    // One byte more than allowed shows that the file is too large; pipes and devices are read no further.
    for await (const chunk of createReadStream(file, { end: maxPolicyBytes })) chunks.push(chunk as Buffer);
  } catch (error) {
    const { code = '', message } = error as NodeJS.ErrnoException;
    return unreadable(reasons[code] ?? `cannot be read (${message}): check the file`);
  }
  const bytes = Buffer.concat(chunks);
  if (bytes.length <= maxPolicyBytes && (!isUtf8(bytes) || bytes.includes(0)))
    return unreadable('this is not text in UTF-8: give a YAML file');
  return parsePolicy(bytes.toString(), file);
}
