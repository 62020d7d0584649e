import assert from 'node:assert/strict';
import type { WriteStream } from 'node:tty';

import fc from 'fast-check';
import stringWidth from 'string-width';

import {
  type FrameInput,
  INITIAL,
  onKey,
  PLAIN,
  renderFrame,
  TOP_SORTS,
  type TopState,
  truncate,
} from '../../controller/top/frame.js';
import { Screen } from '../../controller/top/screen.js';
import { type PairSample, type Sample, topRows } from '../../controller/top/sample.js';
import type { PairRow } from '../../controller/view/pairs.js';

describe('top', () => {
  it('takes a terminal of no size for 80x24', () => {
    const events = { onKey: (): void => undefined, onResize: (): void => undefined };
    const size = (columns: number, rows: number): unknown =>
      new Screen({ columns, rows } as unknown as WriteStream, undefined, events).size;
    assert.deepEqual(size(0, 0), { columns: 80, rows: 24 });
    assert.deepEqual(size(100, 30), { columns: 100, rows: 30 });
  });

  describe('rates', () => {
    it('are what moved between two samples', () => {
      const before = sample(1000, [pair('1.1', { receives: 100, received: 10_000, redirected: [4000, 1000] })]);
      const now = sample(3000, [
        pair('1.1', { receives: 300, received: 30_000, redirected: [14_000, 6000] }),
        pair('2.1', { receives: 10, received: 640, redirected: [0, 0] }),
      ]);
      const [old, fresh] = topRows(before, now);
      assert.deepEqual([old?.messages, old?.bytes, old?.redirected], [100, 10_000, 0.75]);
      assert.deepEqual([fresh?.messages, fresh?.bytes, fresh?.redirected], [5, 320, 0]);
    });

    it('are not known from one sample', () => {
      const [row] = topRows(undefined, sample(0, [pair('1.1', {})]));
      assert.deepEqual([row?.messages, row?.bytes, row?.redirected, row?.backlog], [null, null, null, null]);
    });

    it('do not go on from a pair that had the slot before', () => {
      const before = sample(0, [pair('1.1', { receives: 5000, received: 50_000 })]);
      const [row] = topRows(before, sample(1000, [pair('1.2', { receives: 10, received: 100 })]));
      assert.deepEqual([row?.messages, row?.bytes], [10, 100]);
    });
  });

  describe('the backlog', () => {
    const at = (time: number, redirected: number, drained: number, pass: number): Sample =>
      sample(time, [
        pair('1.1', {
          redirected: [redirected, 0],
          drained: [
            { pass, bytes: drained },
            { pass, bytes: 0 },
          ],
        }),
      ]);

    it('is what was redirected before the controller looked, and was not drained then', () => {
      assert.equal(topRows(at(0, 5000, 0, 0), at(1, 9000, 1000, 7))[0]?.backlog, 4000);
    });

    it('holds until the controller looks again', () => {
      const first = topRows(at(0, 5000, 0, 0), at(1, 5000, 1000, 7));
      const second = topRows(at(1, 5000, 1000, 7), at(2, 90_000, 1000, 7), first);
      assert.equal(second[0]?.backlog, 4000);
      assert.equal(topRows(at(2, 90_000, 1000, 7), at(3, 95_000, 95_000, 8), second)[0]?.backlog, 0);
    });

    it('is not known before it has looked', () => {
      assert.equal(topRows(at(0, 5000, 0, 0), at(1, 5000, 0, 0))[0]?.backlog, null);
    });
  });

  describe('keys', () => {
    const press = (keys: string[], from: TopState = INITIAL): TopState | undefined =>
      keys.reduce<TopState | undefined>((state, key) => (state === undefined ? undefined : onKey(state, key)), from);

    it('end it', () => {
      assert.equal(press(['q']), undefined);
      assert.equal(press(['\u0003']), undefined);
      assert.equal(press(['/', '\u0003']), undefined, 'also while a filter is typed');
      assert.equal(press(['h', 'q']), undefined, 'also from help');
    });

    it('choose the order', () => {
      const chosen = ['m', 'b', 'd', 'l', 'a', 's', 'r', 'c', 'v'].map((key) => press([key])?.sort);
      assert.deepEqual(chosen, TOP_SORTS);
      assert.deepEqual([press(['R'])?.reverse, press(['R', 'R'])?.reverse], [true, false]);
    });

    it('type a filter', () => {
      assert.deepEqual(press(['/', 'q', 'x', '\u007f', 'é', '\r'])?.filter, 'qé');
      assert.deepEqual(press(['/', 'q', '\r', '\u001b'])?.filter, '');
      assert.equal(press(['/', '\u001b[A', 'a'])?.filter, 'a', 'control sequences are not text');
    });

    it('scroll, never above the top', () => {
      assert.equal(press(['\u001b[B', 'j', 'k'])?.offset, 1);
      assert.equal(press(['k'])?.offset, 0);
      assert.equal(press(['j', 'g'])?.offset, 0);
    });

    it('that mean nothing change nothing', () => {
      assert.equal(press(['\u001b[Z']), INITIAL);
    });
  });

  describe('a frame', () => {
    const rows = [
      pair('1.1', { receives: 100, received: 1000 }, 'wäscherei日本'),
      pair('2.1', { receives: 900, received: 9000 }, 'redis-server'),
      pair('3.1', { receives: 500, received: 5000 }, 'nginx'),
    ];
    const before = sample(
      0,
      rows.map(({ row }) => pair(row.id, {})),
    );
    const now = sample(1000, rows);
    const input = (state: Partial<TopState> = {}): FrameInput => ({
      version: '1.2.3',
      sample: now,
      rows: topRows(before, now),
      state: { ...INITIAL, ...state },
    });
    const ids = (lines: string[]): string[] => lines.flatMap((line) => /^\d\.1/.exec(line)?.[0] ?? []);

    it('has the busiest first', () => {
      assert.deepEqual(ids(renderFrame(input(), undefined, PLAIN)), ['2.1', '3.1', '1.1']);
      assert.deepEqual(ids(renderFrame(input({ reverse: true }), undefined, PLAIN)), ['1.1', '3.1', '2.1']);
      assert.deepEqual(ids(renderFrame(input({ sort: 'server' }), undefined, PLAIN)), ['3.1', '2.1', '1.1']);
    });

    it('has what the filter names, whatever its case', () => {
      assert.deepEqual(ids(renderFrame(input({ filter: 'NGINX' }), undefined, PLAIN)), ['3.1']);
      assert.deepEqual(
        ids(renderFrame(input({ filter: '/web.slice' }), undefined, PLAIN)).length,
        3,
        'cgroups are searched',
      );
    });

    it('fits the terminal, whatever its size and its names', () => {
      fc.assert(
        fc.property(
          fc.integer({ min: 1, max: 200 }),
          fc.integer({ min: 1, max: 60 }),
          fc.boolean(),
          (columns, height, help) => {
            const lines = renderFrame(input({ help, offset: 5 }), { columns, rows: height }, PLAIN);
            assert.ok(lines.length <= height);
            for (const line of lines) assert.ok(stringWidth(line) <= columns, line);
          },
        ),
      );
    });

    it('scrolls as far as the last row', () => {
      const size = { columns: 80, rows: 8 };
      assert.deepEqual(ids(renderFrame(input(), size, PLAIN)), ['2.1']);
      assert.deepEqual(ids(renderFrame(input({ offset: 1 }), size, PLAIN)), ['3.1']);
      assert.deepEqual(ids(renderFrame(input({ offset: 99 }), size, PLAIN)), ['1.1']);
    });

    it('sums up', () => {
      const text = renderFrame(input(), undefined, PLAIN).join('\n');
      assert.match(text, /^slipstream-bpf 1\.2\.3, loaded 1m1s ago, controller running, kernel gate passed\n/);
      assert.match(
        text,
        /\nPairs: 3 of 8: 3 inserted\nTraffic: 1500 msg\/s, 14\.6 KiB\/s, 0% redirected; backlog 0 B\n/,
      );
      assert.match(text, /refused 2 blocking; demoted none/);
    });
  });

  it('cuts wide characters whole', () => {
    assert.equal(truncate('日本語', 5), '日本');
    assert.equal(truncate('abc', 3), 'abc');
  });
});

interface Moved {
  receives?: number;
  received?: number;
  redirected?: [number, number];
  drained?: PairSample['directions'][number]['drained'][];
}

function pair(
  id: string,
  { receives = 0, received = 0, redirected = [0, 0], drained = [] }: Moved,
  server = 'x',
): PairSample {
  const end = (program: string): PairRow['client'] => ({
    address: '127.0.0.1',
    port: 1,
    remoteAddress: '127.0.0.1',
    remotePort: 2,
    pid: 7,
    program,
    cgroup: '/web.slice',
    unit: 'web.slice',
    container: null,
    pod: null,
    netns: 1,
  });
  const direction = {
    path: 'direct',
    redirectedBytes: 0,
    redirectedMessages: 0,
    passedMessages: 0,
    lastPass: null,
    stalledSeconds: null,
  } as const;
  return {
    row: {
      id,
      state: 'inserted',
      ageSeconds: 5,
      promotions: 1,
      adopted: false,
      stream: false,
      reason: null,
      client: end('curl'),
      server: end(server),
      toServer: direction,
      toClient: direction,
    },
    receives,
    receivedBytes: received,
    directions: redirected.map((redirectedBytes, side) => ({
      redirectedBytes,
      drained: drained[side] ?? { pass: 0, bytes: 0 },
    })),
  };
}

function sample(at: number, pairs: PairSample[]): Sample {
  return {
    at,
    pairs,
    slots: 8,
    loadedSeconds: 61,
    controllerRunning: true,
    gate: 'passed',
    refusals: { blocking: 2, policy: 0 },
    demotions: {},
  };
}
