// Reading, writing and sharing maps.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';

import { BpfMap, possibleCpus } from '../../addon/index.js';
import {
  Control,
  cleanUpAfterEach,
  getppid,
  loadFixture,
  needsRoot,
  script,
  temporaryBpffs,
  u32,
  u64,
} from './support.js';

describe('a map', () => {
  const later = cleanUpAfterEach();

  before(function () {
    needsRoot(this);
  });

  function map(name: string): BpfMap {
    return loadFixture(later).map(name);
  }

  it('says what it is', () => {
    const { id, ...info } = map('table').info();
    assert(id > 0);
    assert.deepEqual(info, { name: 'table', type: 1, keySize: 8, valueSize: 4, maxEntries: 4, mapFlags: 0 });
  });

  it('keeps, finds and deletes elements', () => {
    const table = map('table');
    assert.equal(table.lookup(u64(1)), undefined);
    table.update(u64(1), u32(10));
    assert.deepEqual(table.lookup(u64(1)), u32(10));
    assert.equal(table.delete(u64(1)), true);
    assert.equal(table.delete(u64(1)), false);
    assert.equal(table.lookup(u64(1)), undefined);
  });

  it('honours update flags', () => {
    const table = map('table');
    assert.throws(
      () => {
        table.update(u64(1), u32(1), 'exist');
      },
      { code: 'ENOENT', operation: 'bpf_map_update_elem', object: 'table' },
    );
    table.update(u64(1), u32(1), 'noexist');
    assert.throws(
      () => {
        table.update(u64(1), u32(2), 'noexist');
      },
      { code: 'EEXIST' },
    );
    table.update(u64(1), u32(3), 'exist');
    assert.deepEqual(table.lookup(u64(1)), u32(3));
  });

  it('says when it is full', () => {
    const table = map('table');
    for (let key = 0; key < 4; ++key) table.update(u64(key), u32(key));
    assert.throws(
      () => {
        table.update(u64(4), u32(4));
      },
      { name: 'NativeError', code: 'E2BIG', errno: 7, message: /^bpf_map_update_elem "table": E2BIG: / },
    );
  });

  it('lists its keys, up to a limit', () => {
    const table = map('table');
    assert.deepEqual(table.keys(), []);
    for (const key of [5, 6, 7]) table.update(u64(key), u32(0));
    const keys = table.keys().map((key) => Number(key.readBigUInt64LE()));
    assert.deepEqual(keys.sort(), [5, 6, 7]);
    assert.equal(table.keys(2).length, 2);
    assert.equal(table.keys(0).length, 0);
  });

  it('takes an element out', () => {
    const table = map('table');
    table.update(u64(1), u32(9));
    assert.deepEqual(table.lookupAndDelete(u64(1)), u32(9));
    assert.equal(table.lookupAndDelete(u64(1)), undefined);
  });

  it('fills a stack so that 0 is on top, and empties it', () => {
    const numbers = map('numbers');
    numbers.fill(3);
    numbers.push(u32(77));
    const taken = [];
    for (let value = numbers.lookupAndDelete(); value; value = numbers.lookupAndDelete())
      taken.push(value.readUInt32LE());
    assert.deepEqual(taken, [77, 0, 1, 2]);
    assert.throws(
      () => {
        numbers.fill(101);
      },
      { code: 'E2BIG' },
    );
  });

  it('gives a per-CPU value for every possible CPU', () => {
    const object = loadFixture(later);
    const counters = object.map('calls_per_cpu');
    const control = new Control(object);
    const link = object.program('fixture_syscall').attachTracepoint();
    control.watch(0);
    for (let i = 0; i < 50; ++i) getppid();
    link.close();
    const value = counters.lookup(u32(0));
    assert.equal(value?.length, 8 * possibleCpus());
    let sum = 0;
    for (let cpu = 0; cpu < possibleCpus(); ++cpu) sum += value.readUInt32LE(8 * cpu);
    assert.equal(sum, 50);
    counters.update(u32(0), Buffer.alloc(value.length));
    assert.deepEqual(counters.lookup(u32(0)), Buffer.alloc(value.length));
  });

  it('shares its memory in both directions, also after close()', () => {
    const object = loadFixture(later);
    const map = object.map('control');
    const { size } = object.structLayout('fixture_control');
    const memory = map.mmap();
    assert.equal(memory.byteLength, 3 * size);
    const bytes = Buffer.from(memory);
    bytes.writeUInt32LE(123, 2 * size); // what the kernel then sees of element 2
    assert.equal(map.lookup(u32(2))?.readUInt32LE(), 123);
    const value = Buffer.alloc(size);
    value.writeUInt32LE(456);
    map.update(u32(2), value);
    assert.equal(bytes.readUInt32LE(2 * size), 456);

    const readOnly = Buffer.from(map.mmapReadOnly());
    map.close();
    object.close();
    bytes.writeUInt32LE(789, 2 * size);
    assert.equal(readOnly.readUInt32LE(2 * size), 789);
  });

  it('maps no memory that is not meant for it', () => {
    const object = loadFixture(later);
    assert.throws(() => object.map('shapes').mmap(), { code: 'EINVAL', operation: 'mmap', object: 'shapes' });
    // An errno of the kernel that no C library names.
    assert.throws(() => object.map('table').mmap(), { code: 'ENOTSUPP', errno: 524, object: 'table' });
  });

  it('unmaps memory that nothing refers to', () => {
    const path = join(temporaryBpffs(later), 'control');
    map('control').pin(path);
    const child = spawnSync(process.execPath, ['--expose-gc', '--import', 'tsx', script('mappings.ts'), path], {
      encoding: 'utf8',
    });
    assert.equal(child.stderr, '');
    const [open, collected] = JSON.parse(child.stdout) as [number, number];
    assert.equal(open, 100);
    assert(collected <= 1, `${collected} of 100 mappings are left`);
  });

  it('is found by its pin, with what it holds', () => {
    const folder = temporaryBpffs(later);
    const table = map('table');
    table.update(u64(1), u32(2));
    table.pin(join(folder, 'table'));
    const again = BpfMap.open(join(folder, 'table'));
    assert.deepEqual(again.lookup(u64(1)), u32(2));
    assert.equal(again.info().id, table.info().id);
    assert.throws(
      () => {
        table.pin(join(folder, 'table'));
      },
      { code: 'EEXIST', operation: 'bpf_obj_pin' },
    );
    again.close();
  });

  it('checks its arguments', () => {
    const table = map('table');
    const untyped = table as unknown as Record<string, (...values: unknown[]) => void>;
    const wrong: [string, unknown[], ErrorConstructor][] = [
      ['lookup', [], TypeError],
      ['lookup', ['12345678'], TypeError],
      ['lookup', [new Uint16Array(4)], TypeError],
      ['lookup', [Buffer.alloc(7)], RangeError],
      ['update', [u64(1), Buffer.alloc(5)], RangeError],
      ['update', [u64(1), u32(1), 'sometimes'], TypeError],
      ['update', [u64(1), u32(1), 1], TypeError],
      ['delete', [u32(1)], RangeError],
      ['lookupAndDelete', [], TypeError],
      ['keys', ['1'], TypeError],
      ['keys', [-1], RangeError],
      ['keys', [1.5], RangeError],
      ['keys', [2 ** 32], RangeError],
      ['keys', [NaN], RangeError],
      ['fill', [1], TypeError],
      ['pin', [1], TypeError],
      ['pin', ['a\0b'], TypeError],
    ];
    for (const [method, values, type] of wrong) {
      assert.throws(() => untyped[method]?.(...values), type, `${method}(${values.join(', ')})`);
    }
    assert.throws(() => new (BpfMap as unknown as new () => unknown)(), TypeError);
    assert.throws(() => untyped['info']?.call({}), TypeError);
  });
});
