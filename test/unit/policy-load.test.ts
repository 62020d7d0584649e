import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadPolicy } from '../../controller/policy/load.js';
import { formatProblem } from '../../controller/policy/parse.js';
import { MAX_FILE_BYTES } from '../../controller/read-file.js';
import { defaultPolicy } from '../../controller/policy/schema.js';

describe('policy: load', () => {
  let directory: string;
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'policy-'));
  });
  after(() => rm(directory, { recursive: true }));

  /** Writes the file, loads it, and returns its problems without the directory. */
  async function problems(name: string, content?: string | Buffer): Promise<string[]> {
    const file = join(directory, name);
    if (content !== undefined) await writeFile(file, content);
    const result = loadPolicy(file);
    return result.ok ? [] : result.problems.map((problem) => formatProblem(problem).replace(file, name));
  }

  it('has a default policy', () => {
    assert.deepEqual(loadPolicy(undefined), {
      ok: true,
      policy: defaultPolicy,
      warnings: [],
      places: { defaults: undefined, rules: [] },
    });
  });

  it('reads a file', async () => {
    assert.deepEqual(await problems('good.yaml', 'version: 1\n'), []);
    assert.deepEqual(await problems('bad.yaml', 'version: 1\nx: 1\n'), [
      "bad.yaml:2:1: unknown key 'x': write version, defaults, rules or exclude",
    ]);
  });

  it('says why a file cannot be read', async () => {
    assert.deepEqual(await problems('none.yaml'), [
      'none.yaml: no such file: check the name, or leave --policy out for the default policy',
    ]);
    assert.deepEqual(await problems('.'), ['.: this is a directory: give the file itself']);
    assert.deepEqual(await problems('good.yaml/x'), [
      'good.yaml/x: a part of the path is not a directory: check the name',
    ]);
    const [tooLong] = await problems('x'.repeat(300));
    assert.match(tooLong!, /^x+: it can't be read \(ENAMETOOLONG.*\): check the file$/);
  });

  it('opens and reads no further what is no regular file', async () => {
    const refused = 'this is no regular file: give one';
    execFileSync('mkfifo', [join(directory, 'fifo')]);
    const server = createServer().listen(join(directory, 'socket'));
    await once(server, 'listening');
    try {
      assert.deepEqual(await problems('fifo'), [`fifo: ${refused}`]);
      assert.deepEqual(await problems('socket'), [`socket: ${refused}`]);
    } finally {
      server.close();
    }
    for (const device of ['/dev/zero', '/dev/null']) {
      const result = loadPolicy(device);
      assert.ok(!result.ok);
      assert.deepEqual(result.problems.map(formatProblem), [`${device}: ${refused}`]);
    }
  });

  it('says when permission is missing', async () => {
    const file = join(directory, 'secret.yaml');
    await writeFile(file, 'version: 1\n', { mode: 0 });
    const isRoot = process.geteuid?.() === 0;
    if (isRoot) process.seteuid?.(65534);
    try {
      const result = loadPolicy(file);
      assert.ok(!result.ok);
      assert.match(formatProblem(result.problems[0]!), /: permission denied: make it readable/);
    } finally {
      if (isRoot) process.seteuid?.(0);
    }
  });

  it('refuses what is not text, and what is too large', async () => {
    const notText = 'this is not text in UTF-8: give a YAML file';
    assert.deepEqual(await problems('nul', 'version: 1\0'), [`nul: ${notText}`]);
    assert.deepEqual(await problems('latin1', Buffer.from('# caf\xe9', 'latin1')), [`latin1: ${notText}`]);
    assert.deepEqual(await problems('utf16', Buffer.from('version: 1', 'utf16le')), [`utf16: ${notText}`]);
    assert.deepEqual(await problems('large', '#'.repeat(MAX_FILE_BYTES + 1)), [
      'large:1:1: the file is larger than 1 MiB: shorten it, for example with globs',
    ]);
    assert.deepEqual(await problems('just-right', `version: 1\n#${'é'.repeat(MAX_FILE_BYTES / 2 - 6)}`), []);
  });
});
