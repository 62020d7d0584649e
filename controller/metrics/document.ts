/** Writes docs/metrics.md from what the code promises: `npm run docs`. */
import { Registry } from 'prom-client';

import type { Layout } from '../datapath/layout.js';
import { STATES } from '../datapath/pair-table.js';
import { MEANING } from '../probe/findings.js';
import { DESCRIPTIONS, type Description, METRIC_NAMES, type MetricName } from './descriptions.js';
import { collectProcessMetrics } from './metrics.js';
import { REASONS } from './reasons.js';

const HEAD = `# Metrics

Written by \`npm run docs\` from \`controller/metrics\`. \`/metrics\` serves them in Prometheus' text format, and as OpenMetrics
to who asks for that; there the counters' \`_total\` is part of the samples' names only (\`slipstream_pairs_total\` is of
type \`unknown\`, as \`slipstream_pairs\` has its name), and \`slipstream_promotion_seconds\` has the id of a pair, as \`pairs\` and the log show it, as an exemplar.

Counters come from the kernel's maps and go on across restarts of the controller, and so do not begin again until the
datapath is loaded anew. \`slipstream_promotion_seconds\` and the times begin with the controller.
`;

/** The page, as Markdown. @param layout the datapath's types, which know the reasons */
export async function describeMetrics(layout: Layout): Promise<string> {
  const rows = METRIC_NAMES.map((name) => {
    const { type, labels, help }: Description = DESCRIPTIONS[name];
    return [`\`${name}\``, type, labels.map((label) => `\`${label}\``).join(', ') || '–', help];
  });
  const process = new Registry();
  collectProcessMetrics(process);
  const ofProcess = (await process.getMetricsAsJSON()).map(({ name, type, help }) => [
    `\`${name}\``,
    String(type),
    help,
  ]);
  return [
    HEAD,
    table(['metric', 'type', 'labels', 'help'], rows),
    '## Values of labels\n',
    'Series exist for every value from the start, so that a rate sees the first event.\n',
    table(
      ['metric', 'label', 'values'],
      [
        ['`slipstream_pairs`', '`state`', values(STATES.filter((state) => state !== 'free'))],
        ['`slipstream_gate_finding`', '`finding`', values(Object.keys(MEANING))],
        ['`slipstream_gate_finding`', '`status`', values(['ok', 'failed', 'unknown'])],
        ['`slipstream_policy_reloads_total`', '`result`', values(['success', 'failure'])],
        [
          '`slipstream_redirected_*_total`',
          '`cgroup`',
          'path below the cgroup v2 root; `(gone)`: removed ones together',
        ],
      ],
    ),
    ...(Object.entries(REASONS) as [MetricName, Record<string, string>][]).flatMap(([name, meanings]) => [
      `### Reasons of \`${name}\`\n`,
      table(
        ['reason', 'means'],
        layout
          .labels(ENUMS[name as keyof typeof ENUMS])
          .filter((label) => label !== 'none')
          .map((label) => [`\`${label}\``, meanings[label] ?? '']),
      ),
    ]),
    '## Of the process\n',
    table(['metric', 'type', 'help'], ofProcess),
  ].join('\n');
}

const ENUMS = {
  slipstream_refusals_total: 'refusal_reason',
  slipstream_demotions_total: 'demotion_reason',
  slipstream_passed_messages_total: 'pass_reason',
  slipstream_unpaired_total: 'unpaired_reason',
} as const satisfies Record<keyof typeof REASONS, string>;

function values(words: readonly string[]): string {
  return words.map((word) => `\`${word}\``).join(', ');
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line), ''].join('\n');
}
