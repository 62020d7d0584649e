/** The benchmark's results for people: a Markdown page and a chart. Pure. */
import type { Report, Row } from './run.js';

/** The whole of docs/benchmarks.md. */
export function table({ meta, rows }: Report): string {
  const lines = rows.map((row) =>
    [
      row.workload,
      row.path,
      size(row.size),
      row.placement,
      String(row.clients),
      rate(row.tcp, row.unit),
      rate(row.slipstream, row.unit),
      `**${row.ratio.toFixed(2)}** (${row.ratioLow.toFixed(2)}–${row.ratioHigh.toFixed(2)})`,
      row.unixRatio === null ? '–' : row.unixRatio.toFixed(2),
      row.cpuRatio === null ? '–' : row.cpuRatio.toFixed(2),
    ].join(' | '),
  );
  return `# Benchmarks

Written by \`npm run bench -- --report\`. Ratios to plain TCP: medians of ${String(rows[0]?.runs ?? 0)} interleaved rounds of
${String(meta.secondsPerRun)} s each, with the 95 % bootstrap interval. Above 1 is faster. CPU is seconds for each unit of work, where
below 1 is cheaper. Ping-pong and stream ends read without blocking.

Version ${meta.version}, ${meta.date}, kernel ${meta.kernel}, ${String(meta.cpus)} × ${meta.cpu}, Node.js ${meta.node}.

![Throughput relative to plain TCP](benchmarks.svg)

| workload | path | size | placement | clients | TCP | slipstream-bpf | ratio | AF_UNIX | CPU |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
${lines.map((line) => `| ${line} |`).join('\n')}

One-way streams stay on TCP: their rows show what it costs to be watched. The path \`nat\` is between two containers of
runc, each in a network namespace and a cgroup of its own, through a port that the host between them publishes (DNAT
and MASQUERADE); AF_UNIX has no such path. A naive sockmap is not measured yet.
`;
}

/** Bars of the ratios, drawn to one scale; the line is plain TCP. */
export function chart({ rows }: Report): string {
  const width = 760;
  const label = 250;
  const step = 26;
  const most = Math.max(2, ...rows.flatMap((row) => [row.ratio, row.unixRatio ?? 0])) * 1.08;
  const x = (ratio: number): number => label + (ratio / most) * (width - label - 20);
  const bars = rows.map((row, index) => {
    const y = 40 + index * step;
    const name = `${row.workload} ${size(row.size)}, ${row.path === 'nat' ? 'containers, ' : ''}${row.placement}${row.clients > 1 ? `, ${String(row.clients)} clients` : ''}`;
    return `<text x="${String(label - 8)}" y="${String(y + 12)}" text-anchor="end">${name}</text>
<rect x="${String(label)}" y="${String(y)}" width="${(x(row.ratio) - label).toFixed(1)}" height="11" fill="#2f6fb3"/>
${row.unixRatio === null ? '' : `<rect x="${String(label)}" y="${String(y + 12)}" width="${(x(row.unixRatio) - label).toFixed(1)}" height="5" fill="#b9b9b9"/>`}
<text x="${(x(row.ratio) + 5).toFixed(1)}" y="${String(y + 11)}">${row.ratio.toFixed(2)}</text>`;
  });
  const height = 50 + rows.length * step;
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${String(width)}" height="${String(height)}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="#ffffff"/>
<text x="${String(label)}" y="20" font-weight="bold">Throughput relative to plain TCP (blue: slipstream-bpf, grey: AF_UNIX)</text>
${bars.join('\n')}
<line x1="${x(1).toFixed(1)}" x2="${x(1).toFixed(1)}" y1="30" y2="${String(height - 8)}" stroke="#c0392b" stroke-dasharray="4 3"/>
</svg>
`;
}

function size(bytes: Row['size']): string {
  return bytes >= 1024 ? `${String(bytes / 1024)} KiB` : `${String(bytes)} B`;
}

function rate(value: number, unit: string): string {
  return `${Math.round(value).toLocaleString('en')} ${unit}`;
}
