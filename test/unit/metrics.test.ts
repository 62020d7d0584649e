/** Names and help are part of the interface; counters never go back. */
import assert from 'node:assert/strict';

import type { CgroupNames } from '../../controller/datapath/cgroups.js';
import type { Datapath, Total } from '../../controller/datapath/datapath.js';
import { ControllerCounters } from '../../controller/datapath/settings.js';
import { Metrics } from '../../controller/metrics/metrics.js';
import { fakeTable, objectLayout } from './support.js';

/** The list of the design, with the labels of each. */
const INTERFACE: Record<string, { type: string; labels: string[] }> = {
  slipstream_build_info: { type: 'gauge', labels: ['datapath_version', 'version'] },
  slipstream_pairs: { type: 'gauge', labels: ['state'] },
  slipstream_pairs_total: { type: 'counter', labels: [] },
  slipstream_unpaired_total: { type: 'counter', labels: ['reason'] },
  slipstream_promotions_total: { type: 'counter', labels: [] },
  slipstream_demotions_total: { type: 'counter', labels: ['reason'] },
  slipstream_refusals_total: { type: 'counter', labels: ['reason'] },
  slipstream_redirected_bytes_total: { type: 'counter', labels: ['cgroup'] },
  slipstream_redirected_messages_total: { type: 'counter', labels: ['cgroup'] },
  slipstream_passed_messages_total: { type: 'counter', labels: ['reason'] },
  slipstream_backlog_bytes: { type: 'gauge', labels: [] },
  slipstream_stalled_directions: { type: 'gauge', labels: [] },
  slipstream_learned_programs: { type: 'gauge', labels: [] },
  slipstream_dropped_messages_total: { type: 'counter', labels: [] },
  slipstream_promotion_seconds: { type: 'histogram', labels: ['le'] },
  slipstream_policy_info: { type: 'gauge', labels: ['file', 'hash', 'rules'] },
  slipstream_policy_reloads_total: { type: 'counter', labels: ['result'] },
  slipstream_events_lost_total: { type: 'counter', labels: [] },
};

interface Shown {
  name: string;
  labels: Record<string, string>;
  value: number;
}

describe('metrics', () => {
  let closed: Map<bigint, Total>;
  let counters: ControllerCounters;
  let names: Map<bigint, string>;
  let metrics: Metrics;

  beforeEach(() => {
    const layout = objectLayout();
    const reasons = (name: string): Record<string, number> =>
      Object.fromEntries(layout.labels(name).map((label) => [label, 1]));
    const table = fakeTable(2);
    table.put(0, 1, 'observed');
    closed = new Map([[2n, { bytes: 100, messages: 4 }]]);
    names = new Map([[2n, '/web "1"\\']]);
    counters = new ControllerCounters(layout, new ArrayBuffer(layout.size('controller_counters')));
    metrics = new Metrics({
      datapath: {
        pairs: table.pairs,
        controllerCounters: counters,
        settings: { version: '0.9.0' },
        closedTotals: () => closed,
        runPromote: () => 1,
        counters: () => ({
          pairs: 12,
          closedPairs: 11,
          dropped: 2,
          candidates: 3,
          eventsLost: 2,
          totalsLost: 0,
          releaseFailed: 0,
          passed: reasons('pass_reason'),
          unpaired: reasons('unpaired_reason'),
        }),
      } as unknown as Datapath,
      cgroups: { path: (id: bigint) => names.get(id) } as unknown as CgroupNames,
      version: '1.0.0',
      learned: () => 3,
      stalled: () => 5,
    });
  });

  async function series(): Promise<Shown[]> {
    return (await metrics.render())
      .split('\n')
      .filter((line) => line !== '' && !line.startsWith('#'))
      .map((line) => {
        const [, name = '', labels = '', value = ''] = /^(\w+)(?:\{(.*)\})? (\S+)$/.exec(line) ?? assert.fail(line);
        const pairs = [...labels.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, key = '', text = '']) => [key, text]);
        return { name, labels: Object.fromEntries(pairs) as Record<string, string>, value: Number(value) };
      });
  }

  async function value(name: string, labels: Record<string, string> = {}): Promise<number | undefined> {
    return (await series()).find(
      (shown) => shown.name === name && Object.entries(labels).every(([key, text]) => shown.labels[key] === text),
    )?.value;
  }

  it('have the names, types and labels of the interface', async () => {
    metrics.setPolicy({ file: 'p.yaml', hash: 'abc', rules: 2 });
    metrics.promoted(0.01);
    counters.policyReloaded(true);
    const found: typeof INTERFACE = {};
    const shown = await series();
    for (const { name, type } of await metrics.registry.getMetricsAsJSON()) {
      if (!name.startsWith('slipstream_')) continue;
      const lines = shown.filter((line) => line.name === name || line.name === `${name}_bucket`);
      const labels = new Set(lines.flatMap((line) => Object.keys(line.labels)));
      found[name] = { type: String(type), labels: [...labels].sort() };
    }
    assert.deepEqual(found, INTERFACE);
  });

  it('have help, base units and a suffix for what only grows', async () => {
    for (const { name, help, type } of await metrics.registry.getMetricsAsJSON()) {
      assert(help.length > 10, name);
      if (!name.startsWith('slipstream_')) continue;
      assert.match(name, /^slipstream_[a-z]+(_[a-z]+)*$/);
      assert.match(help, /^[A-Z][^\n]*\.$/, name);
      assert.equal(String(type) === 'counter', name.endsWith('_total'), name);
      assert.doesNotMatch(name, /_(ms|kb|kib|milliseconds)\b/);
    }
  });

  it('include those of the process', async () => {
    const names = new Set((await series()).map(({ name }) => name));
    for (const name of ['process_cpu_seconds_total', 'process_resident_memory_bytes']) assert(names.has(name), name);
  });

  it('repeat the counts of the kernel', async () => {
    counters.promoted();
    counters.refused('blocking');
    counters.demoted('stream');
    counters.policyReloaded(false);
    for (const [name, labels, expected] of [
      ['slipstream_build_info', { version: '1.0.0', datapath_version: '0.9.0' }, 1],
      ['slipstream_pairs', { state: 'observed' }, 1],
      ['slipstream_pairs', { state: 'inserted' }, 0],
      ['slipstream_pairs_total', {}, 12],
      ['slipstream_events_lost_total', {}, 2],
      ['slipstream_promotions_total', {}, 1],
      ['slipstream_refusals_total', { reason: 'blocking' }, 1],
      ['slipstream_refusals_total', { reason: 'policy' }, 0],
      ['slipstream_demotions_total', { reason: 'stream' }, 1],
      ['slipstream_passed_messages_total', { reason: 'low_water_mark' }, 1],
      ['slipstream_unpaired_total', { reason: 'remote_server' }, 1],
      ['slipstream_stalled_directions', {}, 5],
      ['slipstream_learned_programs', {}, 3],
      ['slipstream_dropped_messages_total', {}, 2],
      ['slipstream_policy_reloads_total', { result: 'failure' }, 1],
      ['slipstream_policy_reloads_total', { result: 'success' }, 0],
    ] as const) {
      assert.equal(await value(name, labels), expected, `${name} ${JSON.stringify(labels)}`);
    }
    assert.equal(await value('slipstream_pairs_total'), 12, 'the same at the next scrape');
  });

  it('show no free slots', async () => {
    assert.equal(await value('slipstream_pairs', { state: 'free' }), undefined);
  });

  it('escape the names of cgroups', async () => {
    assert.equal(await value('slipstream_redirected_bytes_total', { cgroup: '/web \\"1\\"\\\\' }), 100);
  });

  it('never go back when a pair closes between two readings', async () => {
    await series();
    closed.set(2n, { bytes: 90, messages: 3 });
    assert.equal(await value('slipstream_redirected_bytes_total'), 100);
    assert.equal(await value('slipstream_redirected_messages_total'), 4);
    closed.set(2n, { bytes: 110, messages: 5 });
    assert.equal(await value('slipstream_redirected_bytes_total'), 110);
  });

  it('forget cgroups that are gone', async () => {
    await series();
    names.clear();
    closed = new Map([[0n, { bytes: 100, messages: 4 }]]);
    const cgroups = (await series()).flatMap(({ name, labels }) =>
      name === 'slipstream_redirected_bytes_total' ? [labels['cgroup']] : [],
    );
    assert.deepEqual(cgroups, ['(gone)']);
  });

  it('keep one policy', async () => {
    metrics.setPolicy({ file: 'a.yaml', hash: '1', rules: 0 });
    metrics.setPolicy({ file: 'b.yaml', hash: '2', rules: 1 });
    const policies = (await series()).filter(({ name }) => name === 'slipstream_policy_info');
    assert.deepEqual(
      policies.map(({ labels }) => labels),
      [{ file: 'b.yaml', hash: '2', rules: '1' }],
    );
  });

  it('tell how long promotions took', async () => {
    metrics.promoted(0.004);
    metrics.promoted(3);
    assert.equal(await value('slipstream_promotion_seconds_bucket', { le: '0.005' }), 1);
    assert.equal(await value('slipstream_promotion_seconds_bucket', { le: '+Inf' }), 2);
    assert.equal(await value('slipstream_promotion_seconds_sum'), 3.004);
  });
});
