/** Bars of ratios to plain TCP, as SVG. Pure. */
import { BAR } from './remarks.js';

export interface Bars {
  label: string;
  slipstream: number;
  naive: number | null;
  unix: number | null;
}

const WIDTH = 820;
const LABEL = 330;
const RIGHT = 60;
const STEP = 32;
const TOP = 56;
/** Bars beyond this are cut, and say so. */
const MOST = 4;

const COLOURS = { slipstream: '#2f6fb3', loss: '#c0392b', naive: '#d99a2b', unix: '#b9b9b9' };

export function chart(title: string, rows: readonly Bars[]): string {
  const height = TOP + rows.length * STEP + 12;
  const highest = Math.max(2, ...rows.flatMap((row) => [row.slipstream, row.naive ?? 0, row.unix ?? 0]));
  const most = Math.min(MOST, highest);
  const x = (ratio: number): number => LABEL + (Math.min(ratio, most) / most) * (WIDTH - LABEL - RIGHT);
  const bar = (y: number, thick: number, ratio: number | null, colour: string): string =>
    ratio === null
      ? ''
      : `<rect x="${String(LABEL)}" y="${String(y)}" width="${(x(ratio) - LABEL).toFixed(1)}" height="${String(thick)}" fill="${colour}"/>\n`;
  const group = (row: Bars, index: number): string => {
    const y = TOP + index * STEP;
    const colour = row.slipstream < BAR ? COLOURS.loss : COLOURS.slipstream;
    return (
      `<text x="${String(LABEL - 8)}" y="${String(y + 14)}" text-anchor="end">${escaped(row.label)}</text>\n` +
      bar(y, 12, row.slipstream, colour) +
      bar(y + 13, 5, row.naive, COLOURS.naive) +
      bar(y + 19, 5, row.unix, COLOURS.unix) +
      `<text x="${(x(row.slipstream) + 5).toFixed(1)}" y="${String(y + 11)}">${row.slipstream.toFixed(2)}</text>\n`
    );
  };
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${String(WIDTH)}" height="${String(height)}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="#ffffff"/>
<text x="12" y="20" font-size="14" font-weight="bold">${escaped(title)}</text>
${legend()}
${rows.map(group).join('')}<line x1="${x(1).toFixed(1)}" x2="${x(1).toFixed(1)}" y1="${String(TOP - 6)}" y2="${String(height - 6)}" stroke="#555555" stroke-dasharray="4 3"/>
</svg>
`;
}

function legend(): string {
  const entries: [string, string][] = [
    [COLOURS.slipstream, 'slipstream-bpf'],
    [COLOURS.loss, `slipstream-bpf below ${BAR.toFixed(2)}`],
    [COLOURS.naive, 'naive sockmap'],
    [COLOURS.unix, 'AF_UNIX'],
  ];
  return entries
    .map(([colour, text], index) => {
      const x = 12 + index * 190;
      return `<rect x="${String(x)}" y="30" width="12" height="12" fill="${colour}"/><text x="${String(x + 18)}" y="40">${escaped(text)}</text>`;
    })
    .join('\n');
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
