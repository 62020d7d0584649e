/** Dashboards and alerts for Prometheus: they ask for nothing that is not exported, and say what they should. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import type { SyntaxNode } from '@lezer/common';
import { parser } from '@prometheus-io/lezer-promql';
import { parse } from 'yaml';

import { DESCRIPTIONS, type Description, type MetricName } from '../../controller/metrics/descriptions.js';
import { REASONS } from '../../controller/metrics/reasons.js';
import { MEANING } from '../../controller/probe/findings.js';
import { ROOT } from './support.js';

const ALERTS = join(ROOT, 'deploy', 'prometheus', 'alerts.yaml');

/** What Prometheus itself adds, and what Node.js's library exports. */
const OTHERS: Record<string, string[]> = {
  up: [],
  process_cpu_seconds_total: [],
  process_resident_memory_bytes: [],
};
const TARGET = ['job', 'instance'];

/** Values that a label can have, where they are known beforehand. */
const VALUES: Record<string, readonly string[]> = {
  finding: Object.keys(MEANING),
  status: ['ok', 'failed', 'unknown'],
};

function description(metric: string): Description | undefined {
  return metric in DESCRIPTIONS ? DESCRIPTIONS[metric as MetricName] : undefined;
}

function labelsOf(metric: string): string[] | undefined {
  const described = description(metric);
  if (described !== undefined && described.type !== 'histogram') return [...described.labels, ...TARGET];
  const base = metric.replace(/_(bucket|sum|count)$/, '');
  if (base !== metric && description(base)?.type === 'histogram') {
    return metric.endsWith('_bucket') ? ['le', ...TARGET] : TARGET;
  }
  return metric in OTHERS ? TARGET : undefined;
}

/** What is wrong with an expression, one line each. */
function problemsOf(expression: string): string[] {
  // Grafana's variables for time stand where a duration must.
  const text = expression.replace(/\$__(rate_interval|interval|range)/g, '5m');
  const at = (node: SyntaxNode): string => text.slice(node.from, node.to);
  const problems: string[] = [];
  const allowed = new Set<string>();
  const grouped: string[] = [];
  parser
    .parse(text)
    .cursor()
    .iterate((reference) => {
      const { node, name, type } = reference;
      if (type.isError) problems.push(`no PromQL at ${node.from}: ${text}`);
      if (name === 'VectorSelector') {
        const identifier = node.getChild('Identifier');
        const metric = identifier === null ? '' : at(identifier);
        const labels = labelsOf(metric);
        if (labels === undefined) {
          problems.push(`no metric '${metric}' in ${text}`);
          return;
        }
        for (const label of labels) allowed.add(label);
        for (const matcher of node.getChild('LabelMatchers')?.getChildren('UnquotedLabelMatcher') ?? []) {
          const label = at(matcher.getChild('LabelName')!);
          const value = at(matcher.getChild('StringLiteral')!).slice(1, -1);
          if (!labels.includes(label)) problems.push(`${metric} has no label '${label}'`);
          const known =
            label === 'reason' && metric in REASONS
              ? Object.keys(REASONS[metric as keyof typeof REASONS])
              : VALUES[label];
          // What is compared with is one of the values, or several with | between them.
          const unknown = known === undefined ? [] : value.split('|').filter((word) => !known.includes(word));
          if (unknown.length > 0) problems.push(`${metric}: ${label} is never '${unknown.join("', '")}'`);
        }
      }
      if (name === 'LabelName' && node.parent?.name === 'GroupingLabels') grouped.push(at(node));
    });
  for (const label of grouped) if (!allowed.has(label)) problems.push(`nothing has the label '${label}' in ${text}`);
  return problems;
}

interface Panel {
  id: number;
  type: string;
  title: string;
  gridPos: { x: number; y: number; w: number; h: number };
  datasource?: { type: string; uid: string };
  targets?: { refId: string; expr: string; datasource: { uid: string } }[];
}

describe('monitoring', () => {
  it('finds wrong expressions', () => {
    for (const [expression, problem] of [
      ['rate(slipstream_pairs_totl[5m])', "no metric 'slipstream_pairs_totl'"],
      ['slipstream_pairs{reason="policy"}', "slipstream_pairs has no label 'reason'"],
      ['slipstream_refusals_total{reason=~"policy|pollicy"}', "reason is never 'pollicy'"],
      ['sum by (cgroup) (slipstream_pairs)', "nothing has the label 'cgroup'"],
      ['slipstream_promotion_seconds', "no metric 'slipstream_promotion_seconds'"],
      ['sum(slipstream_pairs', 'no PromQL'],
      ['{job="x"}', "no metric ''"],
    ] as const) {
      assert.ok(
        problemsOf(expression).some((found) => found.includes(problem)),
        `${expression}: ${problemsOf(expression).join()}`,
      );
    }
    assert.deepEqual(
      problemsOf('sum by (le) (rate(slipstream_promotion_seconds_bucket{job="a"}[$__rate_interval]))'),
      [],
    );
  });

  describe('alerts', () => {
    const { groups } = parse(readFileSync(ALERTS, 'utf8')) as {
      groups: { rules: { alert: string; expr: string; labels: object; annotations: Record<string, string> }[] }[];
    };
    const rules = groups.flatMap((group) => group.rules);

    for (const { alert, expr, labels, annotations } of rules) {
      it(`${alert} asks for what there is`, () => {
        assert.deepEqual(problemsOf(expr), []);
        assert.deepEqual(Object.keys(labels), ['severity']);
        assert.deepEqual(Object.keys(annotations).sort(), ['description', 'summary']);
      });
    }

    for (const args of [
      ['check', 'rules', '--lint-fatal', ALERTS],
      ['test', 'rules', join(ROOT, 'deploy', 'prometheus', 'alerts.test.yaml')],
    ]) {
      it(`pass promtool ${args.slice(0, 2).join(' ')}`, () => {
        const { status, stdout, stderr, error } = spawnSync('promtool', args, { encoding: 'utf8' });
        assert.equal(status, 0, error?.message ?? `${stdout}${stderr}`);
      });
    }

    it('are each tried', () => {
      const tests = readFileSync(join(ROOT, 'deploy', 'prometheus', 'alerts.test.yaml'), 'utf8');
      // ControllerDown is tried by instance.
      const untried = rules.map(({ alert }) => alert).filter((alert) => !tests.includes(`"${alert}"`));
      assert.deepEqual(untried, ['SlipstreamControllerDown']);
    });
  });

  describe('the Grafana dashboard', () => {
    const dashboard = JSON.parse(readFileSync(join(ROOT, 'deploy', 'grafana', 'slipstream-bpf.json'), 'utf8')) as {
      id: null;
      uid: string;
      title: string;
      schemaVersion: number;
      templating: { list: { name: string; type: string; query: unknown; definition?: string }[] };
      panels: Panel[];
    };
    const { panels } = dashboard;

    it('can be imported anywhere: a schema of Grafana 10, no id of its own, a data source to choose', () => {
      assert.equal(dashboard.id, null);
      assert.match(dashboard.uid, /^[\w-]{1,40}$/);
      assert.equal(dashboard.schemaVersion, 39);
      assert.deepEqual(
        dashboard.templating.list.map(({ name, type }) => [name, type]),
        [
          ['datasource', 'datasource'],
          ['job', 'query'],
          ['instance', 'query'],
        ],
      );
    });

    it('has panels of kinds that stay, each with its own id, in no other one’s place', () => {
      assert.equal(new Set(panels.map(({ id }) => id)).size, panels.length);
      const taken = new Map<string, string>();
      for (const { type, title, gridPos, datasource, targets } of panels) {
        assert.ok(['row', 'stat', 'timeseries', 'table'].includes(type), type);
        assert.ok(gridPos.x >= 0 && gridPos.w > 0 && gridPos.x + gridPos.w <= 24 && gridPos.h > 0, title);
        for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++) {
          for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
            assert.equal(taken.get(`${x},${y}`), undefined, title);
            taken.set(`${x},${y}`, title);
          }
        }
        if (type === 'row') continue;
        assert.deepEqual(datasource, { type: 'prometheus', uid: '${datasource}' }, title);
        assert.ok(targets !== undefined && targets.length > 0, title);
        assert.equal(new Set(targets.map(({ refId }) => refId)).size, targets.length);
        for (const target of targets) assert.equal(target.datasource.uid, '${datasource}');
      }
    });

    for (const { title, targets = [] } of panels) {
      for (const { expr } of targets) {
        it(`${title} asks for what there is, of the chosen targets: ${expr.slice(0, 60)}`, () => {
          assert.deepEqual(problemsOf(expr), []);
          assert.ok(expr.includes('job=~"$job", instance=~"$instance"'));
        });
      }
    }

    it('fills its variables from what there is', () => {
      for (const { definition } of dashboard.templating.list) {
        if (definition === undefined) continue;
        const [, selector = ''] = /^label_values\((.*), \w+\)$/.exec(definition) ?? assert.fail(definition);
        assert.deepEqual(problemsOf(selector), []);
      }
    });
  });
});
