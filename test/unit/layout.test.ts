/** Where the controller finds the kernel's fields. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import type { StructLayout, StructMember } from '../../addon/index.js';
import { ABI_VERSION } from '../../controller/datapath/datapath.js';
import { Layout, Records } from '../../controller/datapath/layout.js';
import { PairTable, STATES } from '../../controller/datapath/pair-table.js';
import { ControllerCounters, Settings } from '../../controller/datapath/settings.js';
import { objectLayout, ROOT } from './support.js';

const member = (name: string, offset: number, size: number, more: Partial<StructMember> = {}): StructMember => ({
  name,
  offset,
  size,
  kind: 'int',
  signed: false,
  ...more,
});

/** struct outer { u32 a; struct inner { s16 x; u8 y[3]; } in[2]; char name[8]; }; */
const STRUCTS: Record<string, StructLayout> = {
  outer: {
    size: 28,
    members: [
      member('a', 0, 4),
      member('in', 4, 16, { kind: 'array', count: 2, elementSize: 8, elementKind: 'struct', typeName: 'inner' }),
      member('name', 20, 8, { kind: 'array', count: 8, elementSize: 1, elementKind: 'int' }),
    ],
  },
  inner: {
    size: 8,
    members: [
      member('x', 0, 2, { signed: true }),
      member('y', 4, 3, { kind: 'array', count: 3, elementSize: 1, elementKind: 'int' }),
    ],
  },
};

function fake(): { layout: Layout; asked: string[] } {
  const asked: string[] = [];
  const layout = new Layout({
    structLayout: (name) => {
      asked.push(name);
      const found = STRUCTS[name];
      if (found === undefined) throw new Error(`no struct ${name}`);
      return found;
    },
    enumValues: () => ({ FRUIT_APPLE: 0, FRUIT_BLOOD_ORANGE: 2, FRUIT_CHERRY: 1, FRUIT_REASONS: 3 }),
  });
  return { layout, asked };
}

describe('layout', () => {
  describe('of any structure', () => {
    const cases: [string, number, number, boolean][] = [
      ['a', 0, 4, false],
      ['in', 4, 16, false],
      ['in[0].x', 4, 2, true],
      ['in[1].x', 12, 2, true],
      ['in[1].y[2]', 18, 1, false],
      ['name', 20, 8, false],
      ['name[7]', 27, 1, false],
    ];
    for (const [path, offset, size, signed] of cases) {
      it(`finds ${path}`, () => {
        assert.deepEqual(fake().layout.field('outer', path), { offset, size, signed });
      });
    }

    for (const path of ['b', 'a.x', 'in[0].z', '', 'in[-1].x', 'in[x]', 'a b']) {
      it(`knows no ${JSON.stringify(path)}`, () => {
        assert.throws(() => fake().layout.field('outer', path), /the BPF object has no member outer\./);
      });
    }

    for (const path of ['in[2].x', 'in[0].y[3]', 'a[0]']) {
      it(`stays inside arrays: ${path}`, () => {
        assert.throws(() => fake().layout.field('outer', path), /lies outside an array of/);
      });
    }

    it('asks for each structure once', () => {
      const { layout, asked } = fake();
      layout.field('outer', 'in[0].x');
      layout.field('outer', 'in[1].y[0]');
      assert.equal(layout.size('outer'), 28);
      assert.equal(layout.count('outer', 'in'), 2);
      assert.equal(layout.count('outer', 'a'), 0);
      assert.deepEqual(asked, ['outer', 'inner']);
    });

    it('names enumerators by value, without their prefix and the closing count', () => {
      const { layout } = fake();
      assert.deepEqual(layout.labels('fruit'), ['apple', 'cherry', 'blood_orange']);
      assert.equal(layout.value('fruit', 'FRUIT_CHERRY'), 1);
      assert.throws(() => layout.value('fruit', 'FRUIT_DATE'), /no enumerator FRUIT_DATE/);
    });
  });

  describe('of the compiled object', () => {
    const header = readFileSync(join(ROOT, 'bpf', 'abi.h'), 'utf8');

    it('has every field that the controller reads or writes', () => {
      const layout = objectLayout();
      const memory = new ArrayBuffer(64 * 1024);
      new PairTable(layout, memory, 1);
      new Settings(layout, memory);
      const counters = new ControllerCounters(layout, memory);
      assert.deepEqual(
        [counters.promotions, counters.reloads],
        [0, { success: 0, failure: 0 }],
        'fields of the controller counters',
      );
      for (const path of ['type', 'slot', 'control', 'side']) assert.equal(layout.field('event', path).size, 4);
      for (const path of ['bytes', 'messages']) assert.equal(layout.field('total', path).size, 8);
      for (const path of ['pairs', 'closed_pairs', 'candidates', 'events_lost', 'totals_lost', 'release_failed']) {
        assert.equal(layout.field('counters', path).size, 8);
      }
    });

    it('counts as many reasons as it names', () => {
      const layout = objectLayout();
      for (const [struct, field, reasons] of [
        ['counters', 'passed', 'pass_reason'],
        ['counters', 'unpaired', 'unpaired_reason'],
        ['controller_counters', 'refusals', 'refusal_reason'],
        ['controller_counters', 'demotions', 'demotion_reason'],
      ] as const) {
        assert.equal(layout.labels(reasons).length, layout.count(struct, field), reasons);
        assert.doesNotMatch(layout.labels(reasons).join(), /,,/, 'no gap');
      }
    });

    it('has the ABI version of the controller', () => {
      assert.equal(Number(/^#define SLIPSTREAM_ABI_VERSION (\d+)$/m.exec(header)?.[1]), ABI_VERSION);
    });

    it('splits control words as the controller does', () => {
      assert.match(header, /^#define STATE_MASK 0xffu$/m);
      assert.match(header, /^#define GENERATION_SHIFT 8$/m);
    });

    it('numbers the states in the order of the controller', () => {
      // The enum is in the BTF only if a program refers to it by name; the header always has it.
      const body = /enum pair_state \{([^}]*)\}/.exec(header)?.[1] ?? '';
      const states = [...body.matchAll(/STATE_(\w+) = (\d+),/g)].map(([, name = '', value]) => [
        name.toLowerCase(),
        Number(value),
      ]);
      assert.deepEqual(
        states,
        STATES.map((name, value) => [name, value]),
      );
    });

    it('keeps senders and readers on cache lines of their own', () => {
      const layout = objectLayout();
      for (const path of [
        'created_ns',
        'last_reader',
        'address[0]',
        'direction[0]',
        'direction[1]',
        'reader[0]',
        'reader[1]',
      ]) {
        assert.equal(layout.field('pair', path).offset % 64, 0, path);
      }
    });
  });

  describe('records', () => {
    const field = (offset: number, size: number, signed = false) => ({ offset, size, signed });

    it('read back what was written, for each size and index', () => {
      const records = new Records(new ArrayBuffer(64), 32);
      for (const [size, value] of [
        [1, 0xfe],
        [2, 0xfedc],
        [4, 0xfedcba98],
        [8, 2 ** 53 - 1],
      ] as const) {
        records.set(1, field(8, size), value);
        assert.equal(records.get(1, field(8, size)), value);
        assert.equal(records.get(0, field(8, size)), 0);
        records.set(1, field(8, 8), 0);
      }
      records.set(0, field(4, 4, true), -3);
      assert.deepEqual([records.get(0, field(4, 4, true)), records.get(0, field(4, 4))], [-3, 2 ** 32 - 3]);
      records.add(0, field(16, 8), 2);
      records.add(0, field(16, 8), 3);
      assert.equal(records.get(0, field(16, 8)), 5);
      records.set(0, field(16, 8), 2n ** 64n - 1n);
      assert.equal(records.getBig(0, field(16, 8)), 2n ** 64n - 1n);
    });

    it('refuse what is no scalar', () => {
      const records = new Records(new ArrayBuffer(64), 32);
      assert.throws(() => records.get(0, field(0, 3)), RangeError);
      assert.throws(() => {
        records.set(0, field(0, 16), 1);
      }, RangeError);
    });

    it('keep texts inside their member, with a NUL at the end', () => {
      const records = new Records(new ArrayBuffer(64), 32);
      const before = field(0, 4);
      const text = field(4, 8);
      records.set(0, field(12, 4), 7);
      records.set(0, before, 7);
      records.setText(0, text, 'a long version');
      assert.equal(records.text(0, text), 'a long ');
      records.setText(0, text, 'b');
      assert.equal(records.text(0, text), 'b');
      assert.deepEqual([records.get(0, before), records.get(0, field(12, 4))], [7, 7]);
      for (let at = 4; at < 12; at++) records.set(0, field(at, 1), 0x78);
      assert.equal(records.text(0, text), 'xxxxxxxx');
    });

    it('copy bytes', () => {
      const records = new Records(new ArrayBuffer(64), 32);
      const bytes = records.bytes(0, field(0, 4));
      records.set(0, field(0, 4), 1);
      assert.deepEqual([...bytes], [0, 0, 0, 0]);
    });
  });
});
