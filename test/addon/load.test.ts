// Opening and loading objects, and what a person reads when that fails.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { BpfObject, NativeError } from '../../addon/index.js';
import { cleanUpAfterEach, fixture, loadFixture, needsRoot, script, temporaryFolder } from './support.js';

function failure(action: () => unknown): NativeError {
  try {
    action();
  } catch (error) {
    assert(error instanceof NativeError);
    return error;
  }
  assert.fail('nothing was thrown');
}

describe('loading an object', () => {
  const later = cleanUpAfterEach();

  function open(path: string): BpfObject {
    const object = BpfObject.open(path);
    later(() => {
      object.close();
    });
    return object;
  }

  it('says in one line which program the verifier refused and why', function () {
    needsRoot(this);
    const object = open(fixture('REJECTED'));
    const error = failure(() => {
      object.load();
    });
    assert.match(
      error.message,
      /^load program "fixture_rejected": EACCES: R\d invalid mem access 'map_value_or_null'$/,
    );
    assert.deepEqual(
      [error.code, error.errno, error.operation, error.object],
      ['EACCES', 13, 'load', 'fixture_rejected'],
    );
  });

  it('keeps the whole verifier log', function () {
    needsRoot(this);
    const object = open(fixture('REJECTED'));
    const { log } = failure(() => {
      object.load();
    });
    assert.match(log ?? '', /BEGIN PROG LOAD LOG[^]*\n0: [^]*\nprocessed \d+ insns/);
  });

  it('prints nothing on stderr', function () {
    needsRoot(this);
    const child = spawnSync(process.execPath, ['--import', 'tsx', script('load.ts'), fixture('REJECTED')], {
      encoding: 'utf8',
      cwd: import.meta.dirname,
    });
    assert.equal(child.stderr, '');
    assert.match(child.stdout, /^load program "fixture_rejected": EACCES/);
  });

  it('explains a file that is not there or not an object', () => {
    const missing = failure(() => BpfObject.open('/nowhere/x.o'));
    assert.equal(missing.code, 'ENOENT');
    assert.match(missing.message, /^open "\/nowhere\/x.o": ENOENT: No such file or directory$/);
    const text = join(temporaryFolder(later), 'text.o');
    writeFileSync(text, 'not an object');
    const { message } = failure(() => BpfObject.open(text));
    assert.match(message, /^open ".*text\.o": ELIBBPF: .*not a proper ELF/);
  });

  it('lists programs and maps by their full names', () => {
    const object = open(fixture());
    assert.deepEqual(object.programNames().sort(), [
      'fixture_iterator',
      'fixture_sock_ops_with_a_long_name',
      'fixture_syscall',
      'fixture_verdict',
    ]);
    assert.deepEqual(object.mapNames().sort(), [
      'calls_per_cpu',
      'control',
      'events',
      'numbers',
      'shapes',
      'sockets',
      'storage',
      'table',
    ]);
  });

  it('gives maps and programs after loading, under the names it lists', function () {
    needsRoot(this);
    const object = loadFixture(later);
    for (const name of object.mapNames()) assert.equal(object.map(name).info().name, name);
    for (const name of object.programNames()) assert.equal(object.program(name).name, name);
    const ids = object.programNames().map((name) => object.program(name).id);
    assert.equal(new Set(ids).size, ids.length);
  });

  it('refuses maps and programs before loading', () => {
    const object = open(fixture());
    assert.throws(() => object.map('table'), { code: 'EINVAL', object: 'table' });
    assert.throws(() => object.program('fixture_verdict'), { code: 'EINVAL', object: 'fixture_verdict' });
  });

  it('refuses names that are not in the object', () => {
    const object = open(fixture());
    assert.throws(() => object.map('other'), { code: 'ENOENT', object: 'other' });
    assert.throws(() => object.program('other'), { code: 'ENOENT', object: 'other' });
    assert.throws(
      () => {
        object.setMaxEntries('other', 1);
      },
      { code: 'ENOENT', object: 'other' },
    );
  });

  it('sizes a map before loading only', function () {
    needsRoot(this);
    const object = open(fixture());
    object.setMaxEntries('table', 77);
    object.load();
    assert.equal(object.map('table').info().maxEntries, 77);
    assert.throws(
      () => {
        object.setMaxEntries('table', 78);
      },
      { code: 'EBUSY', object: 'table' },
    );
  });

  it('says which map cannot be made', function () {
    needsRoot(this);
    const object = open(fixture());
    object.setMaxEntries('shapes', 2 ** 32 - 1);
    const { message } = failure(() => {
      object.load();
    });
    assert.match(message, /^load ".*fixture\.bpf\.o": [A-Z]+: map 'shapes': failed to create/);
  });
});
