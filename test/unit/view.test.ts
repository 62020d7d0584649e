/** What people read: tables, sizes, status, totals. */
import assert from 'node:assert/strict';

import fc from 'fast-check';

import type { CgroupNames } from '../../controller/datapath/cgroups.js';
import type { Datapath, Total } from '../../controller/datapath/datapath.js';
import { totalBacklog } from '../../controller/view/backlog.js';
import { formatBytes, pairRows, type PairRow, renderPairs, renderTable } from '../../controller/view/pairs.js';
import { renderStatus, type Status } from '../../controller/view/status.js';
import { cgroupTotals, foldGoneCgroups } from '../../controller/view/totals.js';
import { fakeTable, type FakeTable } from './support.js';

const KNOWN = new Map([
  [1n, '/'],
  [2n, '/web'],
  [3n, `/kubepods/pod${'1'.repeat(32)}/${'a'.repeat(64)}`],
  [4n, '/system.slice/redis.service'],
]);
const PENDING = 77n;
const cgroups = {
  path: (id: bigint) => KNOWN.get(id),
  exists: (id: bigint) => KNOWN.has(id),
  isPending: (id: bigint) => id === PENDING,
} as unknown as CgroupNames;

function fakeDatapath(table: FakeTable, closed = new Map<bigint, Total>(), pass = 1): Datapath {
  return {
    pairs: table.pairs,
    closedTotals: () => closed,
    foldTotal: (id: bigint) => closed.delete(id),
    runPromote: () => pass,
  } as unknown as Datapath;
}

describe('view', () => {
  describe('sizes', () => {
    const cases: [number, string][] = [
      [0, '0 B'],
      [1, '1 B'],
      [1023, '1023 B'],
      [1024, '1.0 KiB'],
      [1536, '1.5 KiB'],
      [1024 ** 2 - 1, '1.0 MiB'],
      [1024 ** 2, '1.0 MiB'],
      [5 * 1024 ** 3, '5.0 GiB'],
      [1024 ** 4, '1.0 TiB'],
      [3 * 1024 ** 5, '3.0 PiB'],
      [1024 ** 6, '1024.0 PiB'],
    ];
    for (const [bytes, text] of cases) {
      it(`${bytes} is ${text}`, () => {
        assert.equal(formatBytes(bytes), text);
      });
    }

    it('keep to the form and the order of magnitude', () => {
      fc.assert(
        fc.property(fc.maxSafeNat(), (bytes) => {
          const [, number = '', unit = ''] = /^(\d+(?:\.\d)?) ([KMGTP]iB|B)$/.exec(formatBytes(bytes)) ?? [];
          const value = Number(number) * 1024 ** ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'].indexOf(unit);
          assert(Math.abs(value - bytes) <= bytes * 0.06, formatBytes(bytes));
        }),
      );
    });
  });

  describe('tables', () => {
    it('align columns to the widest cell and end lines without blanks', () => {
      assert.equal(
        renderTable([
          ['A', 'BB', 'C'],
          ['long', '1', ''],
          ['x', '', 'y'],
        ]),
        ['A     BB  C', 'long  1', 'x         y'].join('\n'),
      );
    });

    it('count what a terminal shows, not characters', () => {
      assert.equal(
        renderTable([
          ['名前', '|'],
          ['e\u0301', '|'],
        ]),
        '名前  |\ne\u0301     |',
      );
    });

    it('may be empty', () => {
      assert.equal(renderTable([]), '');
      assert.equal(renderPairs([]), 'PAIR  STATE  CLIENT  SERVER  PATH  REDIRECTED  MESSAGES  PASSED  REASON  CGROUPS');
    });
  });

  describe('pairs', () => {
    function observed(): FakeTable {
      const table = fakeTable(4);
      const { records, field } = table;
      table.put(1, 3, 'observed');
      table.put(3, 1, 'inserted');
      for (const slot of [1, 3]) {
        records.set(slot, field('address[0].local_port'), 40000 + slot);
        records.set(slot, field('address[1].local_port'), 80);
        records.set(slot, field('cgroup[0]'), 2);
        records.set(slot, field('cgroup[1]'), 99);
        records.set(slot, field('created_ns'), process.hrtime.bigint() - 2_000_000_000n);
        records.set(slot, field('reason'), 1);
      }
      records.set(3, field('direction[0].redirected_bytes'), 1000);
      records.set(3, field('direction[1].redirected_bytes'), 536);
      records.set(3, field('direction[0].path'), 1);
      records.set(3, field('reader[0].thread'), 77n << 32n);
      records.setText(3, field('reader[0].comm'), 'curl');
      return table;
    }

    it('are the ones in the table, in its order', () => {
      const rows = pairRows(fakeDatapath(observed()), cgroups);
      assert.deepEqual(
        rows.map(({ id, state, reason }) => [id, state, reason]),
        [
          ['1.3', 'observed', 'policy'],
          ['3.1', 'inserted', null],
        ],
      );
      assert.deepEqual([rows[1]?.client.cgroup, rows[1]?.server.cgroup], ['/web', null]);
      assert.deepEqual([rows[1]?.client.pid, rows[1]?.client.program, rows[1]?.server.pid], [77, 'curl', null]);
      assert(Math.abs((rows[0]?.ageSeconds ?? 0) - 2) < 1);
    });

    it('name unit, container and pod of both ends, for people in short', () => {
      const table = observed();
      table.records.set(3, table.field('cgroup[0]'), 3);
      table.records.set(3, table.field('cgroup[1]'), 4);
      const [unnamed, named] = pairRows(fakeDatapath(table), cgroups);
      assert.ok(unnamed && named);
      const names = ({ unit, container, pod }: PairRow['client']): unknown => ({ unit, container, pod });
      assert.deepEqual(names(unnamed.client), { unit: null, container: null, pod: null });
      assert.deepEqual(names(unnamed.server), { unit: null, container: null, pod: null });
      assert.deepEqual(names(named.client), {
        unit: null,
        container: { id: 'a'.repeat(64), engine: null },
        pod: { uid: '1'.repeat(32), qos: 'guaranteed' },
      });
      assert.deepEqual(names(named.server), { unit: 'redis.service', container: null, pod: null });
      assert.equal(named.client.cgroup, KNOWN.get(3n));
      assert.match(renderPairs([named]), / pod:11111111\/aaaaaaaaaaaa > redis\.service$/);
    });

    it('can be asked for by state', () => {
      assert.deepEqual(
        pairRows(fakeDatapath(observed()), cgroups, 'inserted').map(({ id }) => id),
        ['3.1'],
      );
      assert.deepEqual(
        pairRows(fakeDatapath(observed()), cgroups, 'free').length,
        2,
        'free slots are rows only when asked for',
      );
    });

    it('survive JSON', () => {
      const rows = pairRows(fakeDatapath(observed()), cgroups);
      assert.deepEqual(JSON.parse(JSON.stringify(rows)), rows);
    });

    it('are a line each, IPv6 in brackets, what is unknown marked', () => {
      const rows: PairRow[] = pairRows(fakeDatapath(observed()), cgroups);
      const [header = '', first = '', second = ''] = renderPairs(rows).split('\n');
      assert.match(header, /^PAIR +STATE +CLIENT +SERVER +PATH +REDIRECTED/);
      assert.match(
        first,
        /^1\.3 +observed +\[::\]:40001 \? +\[::\]:80 \? +tcp\/tcp +0 B +0 +0 +policy +\/web > \(gone\)$/,
      );
      assert.match(second, /^3\.1 +inserted +\[::\]:40003 curl\(77\) +\[::\]:80 \? +direct\/tcp +1\.5 KiB +0 +0 +- +/);
    });
  });

  describe('totals', () => {
    it('add open to closed pairs, by cgroup, with those that are gone together', () => {
      const table = fakeTable(2);
      const { records, field } = table;
      table.put(0, 1, 'inserted');
      table.put(1, 1, 'half');
      for (const [path, value] of [
        ['cgroup[0]', 2],
        ['cgroup[1]', 50],
        ['direction[0].redirected_bytes', 10],
        ['direction[0].redirected_messages', 1],
        ['direction[1].redirected_bytes', 20],
        ['direction[1].redirected_messages', 2],
      ] as const) {
        records.set(0, field(path), value);
        records.set(1, field(path), value);
      }
      const closed = new Map([
        [0n, { bytes: 100, messages: 3 }],
        [2n, { bytes: 5, messages: 1 }],
        [60n, { bytes: 7, messages: 1 }],
      ]);
      assert.deepEqual(cgroupTotals(fakeDatapath(table, closed), cgroups), [
        { cgroup: '(gone)', bytes: 127, messages: 6 },
        { cgroup: '/web', bytes: 15, messages: 2 },
      ]);
    });

    it('leave out what has no name yet, and count it once it has', () => {
      const closed = new Map([[PENDING, { bytes: 5, messages: 1 }]]);
      assert.deepEqual(cgroupTotals(fakeDatapath(fakeTable(1), closed), cgroups), []);
      const named = { path: () => '/late', isPending: () => false } as unknown as CgroupNames;
      assert.deepEqual(cgroupTotals(fakeDatapath(fakeTable(1), closed), named), [
        { cgroup: '/late', bytes: 5, messages: 1 },
      ]);
    });

    it('have no line for what never was', () => {
      assert.deepEqual(
        cgroupTotals(fakeDatapath(fakeTable(1), new Map([[0n, { bytes: 0, messages: 0 }]])), cgroups),
        [],
      );
    });

    it('fold cgroups that are gone, and no other', () => {
      const closed = new Map([0n, 2n, 60n].map((id) => [id, { bytes: 1, messages: 1 }]));
      foldGoneCgroups(fakeDatapath(fakeTable(1), closed), cgroups);
      assert.deepEqual([...closed.keys()], [0n, 2n]);
    });
  });

  it('the backlog is what was redirected and not received, as of the last run', () => {
    const table = fakeTable(3);
    const { records, field } = table;
    for (const slot of [0, 1, 2]) {
      table.put(slot, 1, slot === 2 ? 'observed' : 'inserted');
      records.set(slot, field('direction[0].redirected_bytes'), 100);
      records.set(slot, field('drained[1]'), 40);
      records.set(slot, field('drain_pass[1]'), slot === 1 ? 6 : 7);
    }
    assert.equal(totalBacklog(fakeDatapath(table, new Map(), 7)), 60);
  });

  describe('status', () => {
    const status: Status = { version: '1.0.0', pinDir: '/pins', loaded: false };

    it('says that nothing is loaded', () => {
      assert.equal(renderStatus(status), 'slipstream-bpf 1.0.0: not loaded (nothing pinned in /pins)');
    });

    it('fits on a screen', () => {
      const text = renderStatus({
        ...status,
        loaded: true,
        datapath: {
          version: '0.9.0',
          abiVersion: 1,
          controllerRunning: false,
          paused: true,
          measurement: { port: 6379, path: 'tcp' },
          attachedCgroup: null,
          gate: { failed: ['splice'], unknown: [] },
          loadedSeconds: 61.4,
          maxPairs: 64,
          pairs: { ...fakeTable(64).pairs.tally(), free: 61, inserted: 2, observed: 1 },
          pairsTotal: 10,
          promotions: 4,
          redirectedBytes: 1536,
          redirectedMessages: 3,
          passed: { state: 0, order: 2 },
          refusals: { policy: 1, blocking: 2 },
          demotions: {},
          unpaired: { table_full: 0 },
          eventsLost: 0,
        },
      });
      assert.deepEqual(
        text.split('\n').map((line) => line.replace(/ {2,}/, ': ')),
        [
          'version: 1.0.0, datapath loaded by 0.9.0',
          'controller: not running; live pairs stay as they are',
          'measured: port 6379, by bench: its pairs change between TCP and the direct path',
          'attached to: a cgroup that is gone, pinned in /pins',
          'kernel gate: passed; splice: programs known to splice stay on TCP',
          'loaded for: 61 s, paused: no new pairs',
          'pairs: 1 observed, 2 inserted',
          'table: 3 of 64 slots',
          'since loading: 10 paired, 4 promotions',
          'redirected: 3 messages, 1.5 KiB',
          'passed: 2 order',
          'refused: 1 policy, 2 blocking',
          'demoted: none',
          'not paired: none',
          'events lost: 0',
        ],
      );
    });
  });
});
