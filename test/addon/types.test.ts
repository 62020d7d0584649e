// Struct layouts and enums read from an object's BTF.
import assert from 'node:assert/strict';

import { BpfObject, NativeError } from '../../addon/index.js';
import { cleanUpAfterEach, fixture } from './support.js';

describe('types of an object file', () => {
  const later = cleanUpAfterEach();

  function open(): BpfObject {
    const object = BpfObject.open(fixture());
    later(() => {
      object.close();
    });
    return object;
  }

  it('gives the layout the compiler chose', () => {
    const layout = open().structLayout('fixture_shapes');
    assert.equal(layout.size, 112);
    const row = ({ name, offset, size, kind, signed }: (typeof layout.members)[number]) =>
      `${name} ${kind} ${signed ? 'signed' : 'unsigned'} ${offset}+${size}`;
    assert.deepEqual(layout.members.map(row), [
      'first int unsigned 0+1',
      'counter int unsigned 4+4',
      'when int signed 8+8',
      'color enum signed 16+4',
      'name array signed 20+16',
      'ends array unsigned 36+8',
      'single struct unsigned 44+4',
      'whole int unsigned 48+8',
      'low int unsigned 48+4',
      'high int unsigned 52+4',
      'grid array signed 56+12',
      'pointer ptr unsigned 72+8',
      'flag bool unsigned 80+1',
      'bits bitfield unsigned 81+4',
      'wide enum unsigned 88+8',
      'unnamed enum unsigned 96+4',
      'huge enum unsigned 104+8',
    ]);
  });

  it('describes the elements of arrays, also of several dimensions', () => {
    const { members } = open().structLayout('fixture_shapes');
    const elements = Object.fromEntries(
      members
        .filter((member) => member.kind === 'array')
        .map((member) => [member.name, [member.count, member.elementSize, member.elementKind, member.typeName]]),
    );
    assert.deepEqual(elements, {
      name: [16, 1, 'int', 'char'],
      ends: [2, 4, 'struct', 'fixture_inner'],
      grid: [6, 2, 'int', 'short'],
    });
  });

  it('resolves a nested struct by the name its member gives', () => {
    const object = open();
    const single = object.structLayout('fixture_shapes').members.find((member) => member.name === 'single');
    const inner = object.structLayout(single?.typeName ?? '');
    assert.deepEqual(
      inner.members.map((member) => [member.name, member.offset]),
      [
        ['port', 0],
        ['family', 2],
      ],
    );
  });

  it('gives enum constants: negative, beyond 32 bits, of unnamed enums', () => {
    const object = open();
    assert.deepEqual(object.enumValues('fixture_color'), { FIXTURE_RED: 1, FIXTURE_BLUE: -2 });
    assert.deepEqual(object.enumValues('fixture_wide'), { FIXTURE_LARGE: 2 ** 40 });
    assert.deepEqual(object.enumValues(''), { FIXTURE_UNNAMED: 7 });
  });

  it('refuses a constant that a number cannot hold', () => {
    assert.throws(() => open().enumValues('fixture_huge'), { code: 'EOVERFLOW', object: 'FIXTURE_HUGE' });
  });

  it('needs no privileges', () => {
    const path = fixture();
    const user = process.geteuid?.() ?? 0;
    if (user === 0) process.seteuid?.(65534);
    try {
      const object = BpfObject.open(path);
      assert.equal(object.structLayout('fixture_inner').size, 4);
      assert.throws(() => {
        object.load();
      }, NativeError);
      object.close();
    } finally {
      process.seteuid?.(user);
    }
  });

  it('names what it does not find', () => {
    const object = open();
    const lookups: [string, () => unknown][] = [
      ['nothing', () => object.structLayout('nothing')],
      ['nothing', () => object.enumValues('nothing')],
      // An enum is not a struct.
      ['fixture_color', () => object.structLayout('fixture_color')],
    ];
    for (const [name, lookup] of lookups) {
      assert.throws(lookup, { name: 'NativeError', code: 'ENOENT', errno: 2, object: name });
    }
  });
});
