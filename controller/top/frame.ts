/** One frame of `top`: state in, lines out. Pure. */
import stringWidth from 'string-width';

import { compare } from '../view/pair-list.js';
import { formatBytes, formatDuration, formatEnd } from '../view/pairs.js';
import type { Sample, TopRow } from './sample.js';

/** What rows are sorted by, and the key that asks for it. */
const SORTS = {
  messages: { key: 'm', value: (row) => row.messages ?? 0 },
  bytes: { key: 'b', value: (row) => row.bytes ?? 0 },
  redirected: { key: 'd', value: (row) => row.redirected ?? -1 },
  backlog: { key: 'l', value: (row) => row.backlog ?? -1 },
  age: { key: 'a', value: ({ row }) => row.ageSeconds },
  state: { key: 's', value: ({ row }) => row.state },
  reason: { key: 'r', value: ({ row }) => row.reason ?? '\u{10FFFF}' },
  client: { key: 'c', value: ({ row }) => formatEnd(row.client) },
  server: { key: 'v', value: ({ row }) => formatEnd(row.server) },
} satisfies Record<string, { key: string; value: (row: TopRow) => number | string }>;

export type TopSort = keyof typeof SORTS;
export const TOP_SORTS = Object.keys(SORTS) as TopSort[];

/** What the person at the keys has chosen. */
export interface TopState {
  readonly sort: TopSort;
  readonly reverse: boolean;
  /** Part of a line, without regard to case. */
  readonly filter: string;
  /** The filter is being typed. */
  readonly editing: boolean;
  readonly paused: boolean;
  readonly help: boolean;
  /** Rows above the first that is shown. */
  readonly offset: number;
}

export const INITIAL: TopState = {
  sort: 'messages',
  reverse: false,
  filter: '',
  editing: false,
  paused: false,
  help: false,
  offset: 0,
};

/** The state after a key; undefined: it is time to end. @param key as the terminal sends it */
export function onKey(state: TopState, key: string): TopState | undefined {
  if (key === '\u0003') return undefined;
  if (state.editing) return onFilterKey(state, key);
  if (state.help && key !== 'q') return { ...state, help: false };
  const sort = TOP_SORTS.find((name) => SORTS[name].key === key);
  if (sort !== undefined) return { ...state, sort, offset: 0 };
  switch (key) {
    case 'q':
      return undefined;
    case 'R':
      return { ...state, reverse: !state.reverse, offset: 0 };
    case '/':
      return { ...state, editing: true };
    case '\u001b':
      return { ...state, filter: '', offset: 0 };
    case ' ':
      return { ...state, paused: !state.paused };
    case 'h':
    case '?':
      return { ...state, help: true };
    case '\u001b[A':
    case 'k':
      return { ...state, offset: Math.max(0, state.offset - 1) };
    case '\u001b[B':
    case 'j':
      return { ...state, offset: state.offset + 1 };
    case '\u001b[5~':
      return { ...state, offset: Math.max(0, state.offset - 10) };
    case '\u001b[6~':
      return { ...state, offset: state.offset + 10 };
    case 'g':
      return { ...state, offset: 0 };
    default:
      return state;
  }
}

function onFilterKey(state: TopState, key: string): TopState {
  if (key === '\r' || key === '\n') return { ...state, editing: false };
  if (key === '\u001b') return { ...state, editing: false, filter: '', offset: 0 };
  if (key === '\u007f' || key === '\b') return { ...state, filter: state.filter.replace(/[^]$/u, ''), offset: 0 };
  return /^\P{C}+$/u.test(key) ? { ...state, filter: state.filter + key, offset: 0 } : state;
}

/** Cells of the terminal. */
export interface Size {
  columns: number;
  rows: number;
}

/** How lines are set off; each with the text between its two parts. */
export interface Style {
  heading: (text: string) => string;
  strong: (text: string) => string;
}

export const PLAIN: Style = { heading: (text) => text, strong: (text) => text };
export const COLOURED: Style = {
  heading: (text) => `\u001b[7m${text}\u001b[0m`,
  strong: (text) => `\u001b[1m${text}\u001b[0m`,
};

interface Column {
  title: string;
  right?: boolean;
  cell: (row: TopRow) => string;
}

const unknown = '-';

const COLUMNS: readonly Column[] = [
  { title: 'PAIR', cell: ({ row }) => row.id },
  { title: 'STATE', cell: ({ row }) => row.state },
  { title: 'MSG/S', right: true, cell: ({ messages }) => (messages === null ? unknown : messages.toFixed(0)) },
  { title: 'BYTES/S', right: true, cell: ({ bytes }) => (bytes === null ? unknown : formatBytes(Math.round(bytes))) },
  { title: 'REDIR', right: true, cell: ({ redirected }) => percent(redirected) },
  { title: 'BACKLOG', right: true, cell: ({ backlog }) => (backlog === null ? unknown : formatBytes(backlog)) },
  { title: 'AGE', right: true, cell: ({ row }) => formatDuration(row.ageSeconds) },
  { title: 'REASON', cell: ({ row }) => row.reason ?? unknown },
  { title: 'CLIENT', cell: ({ row }) => formatEnd(row.client) },
  { title: 'SERVER', cell: ({ row }) => formatEnd(row.server) },
];

const HELP = [
  'm b d l  sort by messages, bytes, redirected share, backlog',
  'a s r    sort by age, state, reason',
  'c v      sort by client, server',
  'R        turn the order round',
  '/        show only lines with a text; Esc shows all again',
  'space    stop, and go on',
  'up down  scroll; also k, j and the page keys; g goes to the top',
  'q        end',
  '',
  'MSG/S and BYTES/S are what both ends receive. REDIR is the part of it that',
  "was redirected. BACKLOG is what waits at least, as of the controller's last",
  'look, every five seconds.',
];

export interface FrameInput {
  version: string;
  sample: Sample;
  rows: readonly TopRow[];
  state: TopState;
}

/**
 * Lines of a frame, none wider than the terminal and no more than it has.
 * @param size undefined: not a terminal, everything is shown
 */
export function renderFrame(input: FrameInput, size: Size | undefined, style: Style): string[] {
  const { state } = input;
  const shown = sorted(filtered(input.rows, state.filter), state);
  const top = header(input, shown.length).map((line) => line);
  const width = size?.columns ?? Infinity;
  const fit = (line: string): string => truncate(line, width);
  if (state.help) {
    return [...top.slice(0, 1).map((line) => style.strong(fit(line))), '', ...HELP.map(fit)].slice(0, size?.rows);
  }
  const table = layOut(shown);
  const room = size === undefined ? table.length : Math.max(0, size.rows - top.length - 2);
  const offset = Math.min(state.offset, Math.max(0, table.length - 1 - room));
  const [titles = '', ...lines] = table;
  const heading = size === undefined ? titles : fit(titles).padEnd(Math.min(width, 500));
  return [
    ...top.map((line, index) => (index === 0 ? style.strong(fit(line)) : fit(line))),
    '',
    style.heading(heading),
    ...lines.slice(offset, offset + room).map(fit),
  ].slice(0, size?.rows);
}

function header({ version, sample, rows, state }: FrameInput, shown: number): string[] {
  const sum = (value: (row: TopRow) => number | null): number =>
    rows.reduce((total, row) => total + (value(row) ?? 0), 0);
  const bytes = sum((row) => row.bytes);
  const redirected = sum((row) => (row.bytes ?? 0) * (row.redirected ?? 0));
  const states = [...counted(rows.map(({ row }) => row.state))].map(([name, count]) => `${String(count)} ${name}`);
  const order = `${state.sort}${state.reverse ? ' (turned round)' : ''}`;
  const filter = state.editing
    ? `; filter: ${state.filter}_`
    : state.filter === ''
      ? ''
      : `; filter: ${state.filter} (${String(shown)} shown)`;
  return [
    `slipstream-bpf ${version}, loaded ${formatDuration(sample.loadedSeconds)} ago, controller ${sample.controllerRunning ? 'running' : 'not running'}, kernel gate ${sample.gate}`,
    `Pairs: ${String(rows.length)} of ${String(sample.slots)}${states.length === 0 ? '' : `: ${states.join(', ')}`}`,
    `Traffic: ${sum((row) => row.messages).toFixed(0)} msg/s, ${formatBytes(Math.round(bytes))}/s, ${percent(bytes > 0 ? redirected / bytes : null)} redirected; backlog ${formatBytes(sum((row) => row.backlog))}`,
    `Since loading: refused ${reasons(sample.refusals)}; demoted ${reasons(sample.demotions)}`,
    `Sorted by ${order}${filter}${state.paused ? '; stopped' : ''}   h: help, q: end`,
  ];
}

function counted(names: readonly string[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1);
  return counts;
}

function reasons(counts: Record<string, number>): string {
  const seen = Object.entries(counts).filter(([, count]) => count > 0);
  return seen.length === 0 ? 'none' : seen.map(([reason, count]) => `${String(count)} ${reason}`).join(', ');
}

function filtered(rows: readonly TopRow[], filter: string): readonly TopRow[] {
  if (filter === '') return rows;
  const wanted = filter.toLowerCase();
  return rows.filter((row) => {
    const { client, server } = row.row;
    const text = [...COLUMNS.map(({ cell }) => cell(row)), client.cgroup, server.cgroup].join(' ');
    return text.toLowerCase().includes(wanted);
  });
}

function sorted(rows: readonly TopRow[], { sort, reverse }: TopState): TopRow[] {
  const { value } = SORTS[sort];
  const order = rows.toSorted((a, b) => compare(value(a), value(b)));
  return reverse ? order.reverse() : order;
}

/** The titles and one line a row. */
function layOut(rows: readonly TopRow[]): string[] {
  const table = [COLUMNS.map(({ title }) => title), ...rows.map((row) => COLUMNS.map(({ cell }) => cell(row)))];
  const widths = COLUMNS.map((_, column) => Math.max(...table.map((cells) => stringWidth(cells[column] ?? ''))));
  return table.map((cells) =>
    cells
      .map((cell, column) => {
        const gap = ' '.repeat((widths[column] ?? 0) - stringWidth(cell));
        return COLUMNS[column]?.right === true ? gap + cell : cell + gap;
      })
      .join('  ')
      .trimEnd(),
  );
}

const percent = (share: number | null): string => (share === null ? unknown : `${(100 * share).toFixed(0)}%`);

const graphemes = new Intl.Segmenter();

/** As much of a line as has room. */
export function truncate(line: string, width: number): string {
  if (stringWidth(line) <= width) return line;
  let taken = '';
  let used = 0;
  for (const { segment } of graphemes.segment(line)) {
    used += stringWidth(segment);
    if (used > width) break;
    taken += segment;
  }
  return taken;
}
