/** `bench --port`: the lease, what the controller does about a pair, and what the windows come to. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';

import { Settings } from '../../controller/datapath/settings.js';
import { STATES } from '../../controller/datapath/pair-table.js';
import {
  decodeMeasurement,
  encodeMeasurement,
  LEASE,
  type MeasuredPair,
  nextStep,
} from '../../controller/decisions/measurement.js';
import { compare, type PairTraffic, plan, spread, type Window } from '../../controller/measure/comparison.js';
import { Lease } from '../../controller/measure/lease.js';
import type { PortBenchResult } from '../../controller/measure/measure.js';
import { processorTime } from '../../controller/measure/processor-time.js';
import { renderPortBench } from '../../controller/view/bench.js';
import { objectLayout } from './support.js';

const NOW = 10n ** 18n;
const NS_PER_MS = 1_000_000n;
const NEVER = 2n ** 63n;

describe('a measurement: the request', () => {
  it('is read as it was written, until it runs out', () => {
    for (const request of [
      { port: 1, path: 'tcp' },
      { port: 65_535, path: 'direct' },
    ] as const) {
      const word = encodeMeasurement(request, NOW);
      assert.deepEqual(decodeMeasurement(word, NOW), request);
      assert.deepEqual(decodeMeasurement(word, NOW + BigInt(LEASE - 5) * NS_PER_MS), request);
      assert.equal(decodeMeasurement(word, NOW + BigInt(LEASE + 5) * NS_PER_MS), undefined);
      assert.ok(word < 2n ** 64n);
    }
    assert.equal(decodeMeasurement(0n, 0n), undefined);
  });
});

describe('a measurement: the lease', () => {
  const settingsOf = (): Settings => {
    const layout = objectLayout();
    return new Settings(layout, new ArrayBuffer(layout.size('settings')));
  };
  const present = (settings: Settings): unknown => decodeMeasurement(settings.measurement, process.hrtime.bigint());

  it('is for one at a time, and gone when it is released', () => {
    const settings = settingsOf();
    const first = Lease.take(settings, { port: 80, path: 'tcp' });
    try {
      assert.throws(() => Lease.take(settings, { port: 81, path: 'tcp' }), /another "bench --port" .* of port 80 /);
      first.use('direct');
      assert.deepEqual(present(settings), { port: 80, path: 'direct' });
    } finally {
      first.release();
    }
    assert.equal(settings.measurement, 0n);
    Lease.take(settings, { port: 81, path: 'tcp' }).release();
  });

  it('can be taken when the last one ran out, and is lost to its holder then', () => {
    const settings = settingsOf();
    const stood = Lease.take(settings, { port: 80, path: 'tcp' });
    const old = encodeMeasurement({ port: 80, path: 'tcp' }, process.hrtime.bigint() - 2n * BigInt(LEASE) * NS_PER_MS);
    settings.changeMeasurement(settings.measurement, old);
    const next = Lease.take(settings, { port: 81, path: 'tcp' });
    try {
      assert.throws(() => {
        stood.use('direct');
      }, /stood still for more than 2 s/);
      stood.release();
      assert.deepEqual(present(settings), { port: 81, path: 'tcp' }, 'that of the other stays');
    } finally {
      next.release();
    }
  });
});

describe('a measurement: what the controller does about a pair', () => {
  const measured: MeasuredPair = { state: 'observed', refusal: 'none', demotion: 'measured', retryNs: NEVER };
  const step = (more: Partial<MeasuredPair>, path: 'tcp' | 'direct'): string =>
    nextStep({ ...measured, ...more }, path, NOW);

  it('goes by its state and the path that is wanted', () => {
    const steps = STATES.map((state) => [state, step({ state }, 'tcp'), step({ state }, 'direct')].join(' '));
    assert.deepEqual(steps, [
      'free drop drop',
      'half drop drop',
      'joining drop drop',
      'observed keep approve',
      'candidate wait wait',
      'approved wait wait',
      'inserted demote done',
      'draining wait wait',
      'leaving wait wait',
      'closed drop drop',
    ]);
  });

  it('leaves alone what others have decided about', () => {
    assert.equal(step({ demotion: 'memory', retryNs: NOW + 1n }, 'direct'), 'drop');
    assert.equal(step({ demotion: 'none' }, 'direct'), 'drop');
    assert.equal(step({ refusal: 'policy' }, 'direct'), 'drop');
    assert.equal(step({ refusal: 'policy' }, 'tcp'), 'drop');
    assert.equal(step({ refusal: 'accounting', retryNs: NOW + 1n }, 'direct'), 'wait', 'a refusal that is for a time');
    assert.equal(step({ refusal: 'accounting', retryNs: NOW }, 'direct'), 'approve');
  });
});

describe('a measurement: the comparison', () => {
  const traffic = (bytes: number, more: Partial<PairTraffic> = {}): PairTraffic => ({
    bytes,
    receives: bytes / 10,
    redirectedMessages: 0,
    passedMessages: 0,
    ...more,
  });
  const window = (
    path: Window['path'],
    pairs: Record<string, PairTraffic>,
    cpu: number | null = 1000,
    seconds = 1,
  ): Window => ({ path, seconds, pairs: new Map(Object.entries(pairs)), cpu });

  it('plans windows of about a second, six at least, as many on each path', () => {
    assert.deepEqual(plan(20), { windows: 20, length: 1000 });
    assert.deepEqual(plan(0.6), { windows: 6, length: 100 });
    for (const seconds of [0.5, 3, 7, 19.9, 600]) {
      const { windows, length } = plan(seconds);
      assert.equal(windows % 2, 0);
      assert.ok(Math.abs((windows * length) / 1000 - seconds) < 1e-9);
    }
  });

  it('takes the median and the middle half', () => {
    assert.deepEqual(spread([5]), { median: 5, low: 5, high: 5 });
    assert.deepEqual(spread([4, 1, 3, 2, 5]), { median: 3, low: 2, high: 4 });
    assert.deepEqual(spread([1, 2]), { median: 1.5, low: 1.25, high: 1.75 });
  });

  it('compares neighbours, so that a load which grows weighs on neither path', () => {
    // Twice as fast on the direct path, and a tenth more with each window.
    const windows = Array.from({ length: 7 }, (_, index) => {
      const bytes = 1000 * 1.1 ** index;
      return index % 2 === 0 ? window('tcp', { a: traffic(bytes) }) : window('direct', { a: traffic(2 * bytes) });
    });
    const { median, low, high } = compare(windows)?.ratio.bytes ?? spread([]);
    assert.ok(Math.abs(median - 2) < 0.02, String(median));
    assert.ok(low > 1.8 && high < 2.21, `${String(low)} ${String(high)}`);
  });

  it('compares pairs that are in both windows, by the second, and CPU by the byte', () => {
    const result = compare([
      window('tcp', { a: traffic(100), gone: traffic(9000) }, 9100),
      window(
        'direct',
        { a: traffic(300, { redirectedMessages: 30 }), come: traffic(700, { passedMessages: 10 }) },
        500,
        2,
      ),
    ]);
    assert.deepEqual(result?.ratio.bytes, { median: 1.5, low: 1.5, high: 1.5 });
    assert.equal(result.ratio.receives.median, 1.5);
    assert.equal(result.ratio.cpu?.median, 0.5);
    assert.deepEqual([result.tcp.bytesPerSecond, result.slipstream.bytesPerSecond], [9100, 500]);
    assert.deepEqual([result.tcp.cpu, result.slipstream.cpu], [1024, 512]);
    assert.deepEqual([result.pairs, result.windows, result.redirected], [2, 2, 0.75]);
  });

  it('has no figure for CPU that it could not see, and none at all for silence', () => {
    const silent = [window('tcp', { a: traffic(0) }), window('direct', { a: traffic(100) })];
    assert.equal(compare(silent), undefined);
    assert.equal(
      compare([window('tcp', { a: traffic(1) }), window('direct', { b: traffic(1) })]),
      undefined,
      'no pair twice',
    );
    assert.equal(compare([]), undefined);
    const unseen = compare([window('tcp', { a: traffic(10) }, null), window('direct', { a: traffic(10) })]);
    assert.deepEqual([unseen?.ratio.cpu, unseen?.tcp.cpu], [null, null]);
  });

  it('is told in a table', () => {
    const one = { median: 1.5, low: 1.25, high: 1.75 };
    const result: PortBenchResult = {
      kernel: '6.18.0',
      port: 6379,
      windows: 20,
      windowSeconds: 1,
      pairs: 1,
      programs: Array.from({ length: 8 }, (_, index) => ({ program: 'redis', pid: index + 1 })),
      tcp: { receivesPerSecond: 1000, bytesPerSecond: 2048, cpu: 12.345 },
      slipstream: { receivesPerSecond: 1500, bytesPerSecond: 3072, cpu: null },
      ratio: { receives: one, bytes: one, cpu: null },
      redirected: 0.995,
    };
    const lines = renderPortBench(result).split('\n');
    assert.match(lines[0]!, /^kernel 6\.18\.0, port 6379: 1 promoted connection of redis\(1\), .* and 2 more$/);
    assert.match(lines.join('\n'), /^bytes\/s +2\.0 KiB +3\.0 KiB +1\.50x +1\.25 to 1\.75$/m);
    assert.match(lines.join('\n'), /^CPU us\/KiB +12\.3\d +- +- +-$/m);
    assert.match(lines.join('\n'), /^redirected +0% +99\.5%$/m);
  });
});

describe('processor time', () => {
  it("is a process's, by its name", () => {
    const name = readFileSync('/proc/self/comm', 'utf8').trimEnd();
    assert.ok((processorTime(process.pid, name) ?? 0) > 0);
    assert.equal(processorTime(process.pid, 'no such name'), undefined);
    assert.equal(processorTime(2 ** 30, 'node'), undefined);
  });
});
