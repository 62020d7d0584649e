/** The pair table over ordinary memory. */
import assert from 'node:assert/strict';
import { isIPv6 } from 'node:net';

import fc from 'fast-check';

import { decodeControl, formatAddress, otherSide, SIDES, STATES } from '../../controller/datapath/pair-table.js';
import { fakeTable, objectLayout } from './support.js';

const mapped = (...octets: number[]): Buffer => Buffer.from([...Array<number>(10).fill(0), 0xff, 0xff, ...octets]);
const address = (...groups: number[]): Buffer => {
  const bytes = Buffer.alloc(16);
  groups.forEach((group, index) => bytes.writeUInt16BE(group, 2 * index));
  return bytes;
};

describe('pair table', () => {
  describe('addresses', () => {
    const cases: [Buffer, string][] = [
      [mapped(127, 0, 0, 1), '127.0.0.1'],
      [mapped(0, 0, 0, 0), '0.0.0.0'],
      [mapped(255, 255, 255, 255), '255.255.255.255'],
      [address(0, 0, 0, 0, 0, 0, 0, 0), '::'],
      [address(0, 0, 0, 0, 0, 0, 0, 1), '::1'],
      [address(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), '2001:db8::1'],
      [address(0x2001, 0xdb8, 0, 1, 1, 1, 1, 1), '2001:db8:0:1:1:1:1:1'],
      [address(0x2001, 0, 0, 1, 0, 0, 0, 1), '2001:0:0:1::1'],
      [address(0x2001, 0xdb8, 0, 0, 1, 0, 0, 1), '2001:db8::1:0:0:1'],
      [address(0xfe80, 0, 0, 0, 0x1234, 0xabcd, 0, 0x0f), 'fe80::1234:abcd:0:f'],
      // v4-compatible, not v4-mapped.
      [address(0, 0, 0, 0, 0, 0, 0x7f00, 1), '::7f00:1'],
      [address(0, 0, 0, 0, 0, 0xfffe, 0x7f00, 1), '::fffe:7f00:1'],
    ];
    for (const [bytes, text] of cases) {
      it(`${bytes.toString('hex')} is ${text}`, () => {
        assert.equal(formatAddress(bytes), text);
      });
    }

    it('are valid whatever the bytes', () => {
      fc.assert(
        fc.property(fc.uint8Array({ minLength: 16, maxLength: 16 }), (bytes) => {
          const text = formatAddress(Buffer.from(bytes));
          assert(isIPv6(text) || /^\d+\.\d+\.\d+\.\d+$/.test(text), text);
        }),
      );
    });
  });

  describe('control words', () => {
    it('are a generation and a state', () => {
      assert.deepEqual(decodeControl(0x106), { word: 0x106, generation: 1, state: 'inserted' });
      assert.deepEqual(decodeControl(-1), { word: 0xffffffff, generation: 0xffffff, state: 'closed' });
      assert.equal(decodeControl(0xffffff00).generation, 0xffffff);
    });

    it('survive any word', () => {
      fc.assert(
        fc.property(fc.nat(0xffffff), fc.nat(STATES.length - 1), (generation, state) => {
          const word = generation * 256 + state;
          assert.deepEqual(decodeControl(word | 0), { word, generation, state: STATES[state] });
        }),
      );
    });
  });

  it('the peer of a side is the other one', () => {
    assert.deepEqual(SIDES.map(otherSide), [1, 0]);
  });

  describe('changes of state', () => {
    it('move a pair that is still as it was read', () => {
      const { pairs, put } = fakeTable(2);
      put(1, 0xabcdef, 'candidate');
      const read = pairs.control(1);
      const next = pairs.change(1, read, 'approved');
      assert.deepEqual(next, { word: 0xabcdef05, generation: 0xabcdef, state: 'approved' });
      assert.deepEqual(pairs.control(1), next);
      assert.deepEqual(pairs.control(0), { word: 0, generation: 0, state: 'free' });
    });

    it('fail once the pair has moved on', () => {
      const { pairs, put } = fakeTable(1);
      put(0, 5, 'candidate');
      const read = pairs.control(0);
      put(0, 5, 'closed');
      assert.equal(pairs.change(0, read, 'approved'), undefined);
      assert.equal(pairs.control(0).state, 'closed');
    });

    it('fail for a later pair in the same state', () => {
      const { pairs, put } = fakeTable(1);
      put(0, 5, 'candidate');
      const read = pairs.control(0);
      put(0, 6, 'candidate');
      assert.equal(pairs.change(0, read, 'approved'), undefined);
      assert.deepEqual(pairs.control(0), decodeControl(0x604));
    });

    it('work for generations whose word is negative as a signed number', () => {
      const { pairs, put } = fakeTable(1);
      put(0, 0xffffff, 'observed');
      assert.equal(pairs.change(0, pairs.control(0), 'candidate')?.state, 'candidate');
    });

    it('agree with a model of claims, changes and releases', () => {
      const CAPACITY = 4;
      const slot = fc.nat(CAPACITY - 1);
      const step = fc.oneof(
        fc.record({ kind: fc.constant('claim' as const), slot }),
        fc.record({ kind: fc.constant('release' as const), slot }),
        fc.record({ kind: fc.constant('read' as const), slot }),
        fc.record({
          kind: fc.constant('change' as const),
          slot,
          to: fc.constantFrom(...STATES.filter((s) => s !== 'free')),
        }),
      );
      fc.assert(
        fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
          const { pairs, put } = fakeTable(CAPACITY);
          const model = Array.from({ length: CAPACITY }, () => ({ generation: 0, state: 'free' }));
          const reads = model.map((entry, index) => ({ ...entry, control: pairs.control(index) }));
          for (const action of steps) {
            const now = model[action.slot]!;
            switch (action.kind) {
              case 'claim':
                if (now.state !== 'free') break;
                Object.assign(now, { generation: now.generation + 1, state: 'half' });
                put(action.slot, now.generation, 'half');
                break;
              case 'release':
                now.state = 'free';
                put(action.slot, now.generation, 'free');
                break;
              case 'read':
                reads[action.slot] = { ...now, control: pairs.control(action.slot) };
                break;
              case 'change': {
                // By the last reading, which may be of an earlier pair.
                const read = reads[action.slot]!;
                const holds = read.generation === now.generation && read.state === now.state;
                const changed = pairs.change(action.slot, read.control, action.to);
                assert.equal(changed !== undefined, holds);
                if (holds) now.state = action.to;
              }
            }
          }
          model.forEach(({ generation, state }, index) => {
            const control = pairs.control(index);
            assert.deepEqual([control.generation, control.state], [generation, state]);
          });
          const tally = pairs.tally();
          for (const state of STATES) {
            const slots = model.flatMap((entry, index) => (entry.state === state ? [index] : []));
            assert.deepEqual(
              [...pairs.slots(state)].map(([index]) => index),
              slots,
            );
            assert.equal(tally[state], slots.length);
          }
        }),
      );
    });
  });

  describe('a slot', () => {
    it('has what a message needs in the first cache lines of pair and direction', () => {
      const layout = objectLayout();
      const line = (struct: string, path: string): number => Math.floor(layout.field(struct, path).offset / 64);
      assert.deepEqual([line('pair', 'promote_after'), line('pair', 'created_ns')], [0, 1]);
      assert.deepEqual([line('direction', 'stream'), line('direction', 'passed_messages')], [0, 1]);
      assert.equal(layout.field('pair', 'direction[0]').offset % 64, 0);
    });

    it('is on TCP whatever its last message used, unless it is inserted', () => {
      const { pairs, records, field, put } = fakeTable(STATES.length);
      for (const [slot, state] of STATES.entries()) {
        put(slot, 1, state);
        for (const side of SIDES) records.set(slot, field(`direction[${String(side)}].path`), 1);
        const paths = pairs.read(slot)?.directions.map(({ path }) => path);
        const path = state === 'inserted' ? 'direct' : 'tcp';
        assert.deepEqual(paths, [path, path], state);
      }
    });

    it('is read whole', () => {
      const { pairs, records, field, put, memory } = fakeTable(3);
      put(2, 7, 'inserted');
      const bytes = Buffer.from(memory);
      const offset = (path: string): number => (memory.byteLength / 3) * 2 + field(path).offset;
      mapped(10, 0, 0, 1).copy(bytes, offset('address[0].local'));
      mapped(10, 0, 0, 2).copy(bytes, offset('address[0].remote'));
      address(0, 0, 0, 0, 0, 0, 0, 1).copy(bytes, offset('address[1].local'));
      records.setText(2, field('reader[0].comm'), 'redis-server');
      for (const [path, value] of [
        ['address[0].local_port', 40000],
        ['address[0].remote_port', 6379],
        ['reader[0].thread', (1234n << 32n) | 1235n],
        ['reader[0].received_bytes', 99],
        ['reader[0].receives', 3],
        ['evidence[1]', 0x81],
        ['cgroup[1]', 2n ** 63n + 1n],
        ['netns[0]', 4026531840],
        ['direction[0].path', 1],
        ['direction[0].redirected_bytes', 2 ** 40],
        ['direction[0].redirected_messages', 11],
        ['direction[1].passed_messages', 2],
        ['direction[1].last_pass', objectLayout().labels('pass_reason').indexOf('order')],
        ['hold[1]', 1],
        ['direction[1].overtaken', 1],
        // Kept by reader: the one of direction 1 is side 0.
        ['stalled_ns[0]', 77n],
        ['promotions', 4],
        ['reason', objectLayout().labels('refusal_reason').indexOf('ulp')],
        ['demotion', objectLayout().labels('demotion_reason').indexOf('stream')],
        ['closed', 2],
        ['retry_ns', 2n ** 63n],
      ] as const) {
        records.set(2, field(path), value);
      }
      const record = pairs.read(2)!;
      const [client, server] = record.ends;
      assert.deepEqual(
        [
          client.address,
          client.port,
          client.remoteAddress,
          client.remotePort,
          client.family,
          client.pid,
          client.program,
        ],
        ['10.0.0.1', 40000, '10.0.0.2', 6379, 4, 1234, 'redis-server'],
      );
      assert.deepEqual([client.receivedBytes, client.receives, client.netns], [99, 3, 4026531840]);
      assert.deepEqual(
        [server.address, server.family, server.pid, server.program, server.evidence, server.cgroupId],
        ['::1', 6, 0, '', 0x81, 2n ** 63n + 1n],
      );
      assert.deepEqual(record.directions, [
        {
          path: 'direct',
          held: false,
          redirectedBytes: 2 ** 40,
          redirectedMessages: 11,
          passedMessages: 0,
          switches: 0,
          lastPass: undefined,
          overtaken: false,
          stalledNs: 0n,
        },
        {
          path: 'tcp',
          held: true,
          redirectedBytes: 0,
          redirectedMessages: 0,
          passedMessages: 2,
          switches: 0,
          lastPass: 'order',
          overtaken: true,
          stalledNs: 77n,
        },
      ]);
      assert.deepEqual(
        [record.slot, record.promotions, record.refusal, record.demotion, record.closedSides, record.retryNs],
        [2, 4, 'ulp', 'stream', 2, 2n ** 63n],
      );
    });

    it('is not read for an earlier pair', () => {
      const { pairs, put } = fakeTable(1);
      put(0, 1, 'inserted');
      const read = pairs.control(0);
      put(0, 2, 'inserted');
      assert.equal(pairs.read(0, read), undefined);
      assert.notEqual(pairs.read(0), undefined);
    });

    it('starts again behind a fence when it is prepared', () => {
      const { pairs, records, field } = fakeTable(1);
      const paths = ['reason', 'direction[0].fenced', 'direction[1].fenced', 'insert[0]', 'insert[1]'];
      for (const path of paths) records.set(0, field(path), 1);
      pairs.prepare(0, 1 << 20, 0x78);
      assert.deepEqual(
        paths.map((path) => records.get(0, field(path))),
        [0, 0, 0, 0, 0],
      );
      assert.deepEqual([records.get(0, field('backlog_limit')), records.get(0, field('forbidden'))], [1 << 20, 0x78]);
    });

    it('keeps the result of the iterator, one a side', () => {
      const { pairs, records, field } = fakeTable(1);
      assert.deepEqual(pairs.insertResult(0, 0), { kind: 'pending' });
      records.set(0, field('insert[0]'), 1);
      records.set(0, field('insert[1]'), -objectLayout().labels('refusal_reason').indexOf('busy'));
      assert.deepEqual(pairs.insertResult(0, 0), { kind: 'done' });
      assert.deepEqual(pairs.insertResult(0, 1), { kind: 'refused', reason: 'busy' });
      records.set(0, field('insert[1]'), -100);
      assert.deepEqual(pairs.insertResult(0, 1), { kind: 'refused', reason: 'unknown' });
    });

    it('shows what was drained only for the run asked for', () => {
      const { pairs, records, field } = fakeTable(1);
      records.set(0, field('drained[1]'), 500);
      records.set(0, field('drain_pass[1]'), 9);
      assert.deepEqual(
        [pairs.drained(0, 1, 9), pairs.drained(0, 1, 10), pairs.drained(0, 1, 8), pairs.drained(0, 0, 9)],
        [500, undefined, undefined, undefined],
      );
    });

    it('takes reasons by name', () => {
      const { pairs } = fakeTable(1);
      pairs.setRefusal(0, 'program');
      pairs.setDemotion(0, 'requested');
      assert.deepEqual([pairs.read(0)?.refusal, pairs.read(0)?.demotion], ['program', 'requested']);
      pairs.setRefusal(0, 'never heard of');
      assert.equal(pairs.read(0)?.refusal, 'none');
    });

    it('counts promotions', () => {
      const { pairs } = fakeTable(1);
      pairs.markInserted(0, 123n);
      pairs.markInserted(0, 456n);
      assert.deepEqual([pairs.promotions(0), pairs.read(0)?.insertedNs], [2, 456n]);
    });
  });
});
