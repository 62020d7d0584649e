/** Names and help are part of the interface; counters never go back. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import type { CgroupNames } from '../../controller/datapath/cgroups.js';
import type { Datapath, Total } from '../../controller/datapath/datapath.js';
import { ControllerCounters } from '../../controller/datapath/settings.js';
import { DESCRIPTIONS, type Description, METRIC_NAMES } from '../../controller/metrics/descriptions.js';
import { describeMetrics } from '../../controller/metrics/document.js';
import { Metrics } from '../../controller/metrics/metrics.js';
import { REASONS } from '../../controller/metrics/reasons.js';
import { fakeTable, objectLayout, ROOT } from './support.js';

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
        settings: { version: '0.9.0', maxPairs: 2, gate: { failed: ['splice'], unknown: ['signal'] } },
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
      cgroups: { path: (id: bigint) => names.get(id), isPending: () => false } as unknown as CgroupNames,
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

  it('have the names, types and labels that are promised', async () => {
    metrics.setPolicy({ file: 'p.yaml', hash: 'abc', rules: 2 });
    metrics.promoted(0.01, '1.1');
    const shown = await series();
    const found: Record<string, Omit<Description, 'help'>> = {};
    for (const { name, type } of await metrics.registry.getMetricsAsJSON()) {
      if (!name.startsWith('slipstream_')) continue;
      const lines = shown.filter((line) => line.name === name || line.name === `${name}_bucket`);
      const labels = new Set(lines.flatMap((line) => Object.keys(line.labels)));
      labels.delete('le');
      found[name] = { type: String(type) as Description['type'], labels: [...labels].sort() };
    }
    const promised = METRIC_NAMES.map((name) => {
      const { type, labels } = DESCRIPTIONS[name];
      return [name, { type, labels: [...labels].sort() }];
    });
    assert.deepEqual(found, Object.fromEntries(promised));
  });

  it('are what docs/metrics.md says (npm run docs)', async () => {
    const current = await describeMetrics(objectLayout());
    assert.equal(readFileSync(join(ROOT, 'docs', 'metrics.md'), 'utf8'), current);
  });

  it('explain every reason, and none that there is not', () => {
    const enums = {
      slipstream_refusals_total: 'refusal_reason',
      slipstream_demotions_total: 'demotion_reason',
      slipstream_passed_messages_total: 'pass_reason',
      slipstream_unpaired_total: 'unpaired_reason',
    } as const;
    for (const [name, type] of Object.entries(enums)) {
      const labels = objectLayout()
        .labels(type)
        .filter((label) => label !== 'none');
      assert.deepEqual(Object.keys(REASONS[name as keyof typeof enums]), labels, name);
    }
  });

  /** Runs a checker of others over the text; its complaint, or nothing. */
  function complaint(command: string, args: string[], input: string): string {
    const { status, stdout, stderr, error } = spawnSync(command, args, { input, encoding: 'utf8' });
    return error !== undefined ? error.message : status === 0 && stderr === '' ? '' : `${stdout}${stderr}`;
  }

  it('have no flaw that promtool knows of', async () => {
    metrics.setPolicy({ file: 'p.yaml', hash: 'abc', rules: 2 });
    metrics.promoted(0.01, '1.1');
    const text = await metrics.render('text');
    assert.equal(complaint('promtool', ['check', 'metrics'], text), '');
    assert.notEqual(
      complaint('promtool', ['check', 'metrics'], text.replaceAll('slipstream_pairs_total', 'slipstream_pairs_sum')),
      '',
    );
  });

  it('are valid OpenMetrics to the strict parser of its reference implementation', async () => {
    metrics.setPolicy({ file: 'p"\n.yaml', hash: 'abc', rules: 2 });
    metrics.promoted(0.01, '7.3');
    const parse = [
      '-c',
      'import sys\nfrom prometheus_client.openmetrics.parser import text_string_to_metric_families as parse\n' +
        'for f in parse(sys.stdin.read()):\n  for s in f.samples: print(s.name, s.exemplar.labels if s.exemplar else "")',
    ];
    await metrics.render('text'); // one format leaves the other alone
    const text = await metrics.render('openMetrics');
    const { stdout, stderr, status } = spawnSync('/usr/bin/python3', parse, { input: text, encoding: 'utf8' });
    assert.equal(status, 0, stderr);
    assert.match(stdout, /^slipstream_pairs_total /m);
    assert.match(stdout, /^slipstream_promotion_seconds_bucket \{'pair': '7\.3'\}$/m);
    assert.match(text, /^# TYPE slipstream_refusals counter$/m);
    assert.match(text, /^# TYPE slipstream_pairs_total unknown$/m);
    assert.ok(text.endsWith('\n# EOF\n'));
    assert.notEqual(complaint('/usr/bin/python3', parse, text.replace('# EOF\n', '')), '');
    assert.match(await metrics.render('text'), /^slipstream_refusals_total\{reason="policy"\} 0$/m);
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

  it('tell what the gate found, and how the policy was last read', async () => {
    for (const [finding, is] of [
      ['splice', 'failed'],
      ['signal', 'unknown'],
      ['order', 'ok'],
    ] as const) {
      for (const status of ['ok', 'failed', 'unknown']) {
        assert.equal(await value('slipstream_gate_finding', { finding, status }), status === is ? 1 : 0);
      }
    }
    metrics.setPolicy({ file: 'a.yaml', hash: '1', rules: 0 });
    const read = await value('slipstream_policy_last_reload_success_timestamp_seconds');
    assert.equal(await value('slipstream_policy_last_reload_successful'), 1);
    metrics.policyFailed('a.yaml:1:1: wrong');
    assert.equal(await value('slipstream_policy_last_reload_successful'), 0);
    assert.equal(await value('slipstream_policy_last_reload_success_timestamp_seconds'), read);
    assert.equal(metrics.policy?.last.problem, 'a.yaml:1:1: wrong');
    metrics.setPolicy({ file: 'a.yaml', hash: '2', rules: 0 });
    assert.equal(await value('slipstream_policy_last_reload_successful'), 1);
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
    metrics.promoted(0.004, '1.1');
    metrics.promoted(3, '1.2');
    assert.equal(await value('slipstream_promotion_seconds_bucket', { le: '0.005' }), 1);
    assert.equal(await value('slipstream_promotion_seconds_bucket', { le: '+Inf' }), 2);
    assert.equal(await value('slipstream_promotion_seconds_sum'), 3.004);
  });
});
