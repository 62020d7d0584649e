/** `policy test`, for a person. */
import { formatSize } from '../policy/size.js';
import type { TrialEndResult, TrialResult, TrialSettings } from '../policy/trial.js';
import { printable, quote } from '../policy/words.js';
import { renderTable } from './pairs.js';
import { shortName } from './short-name.js';

export function renderTrial({ file, ends, pair, outcome, because }: TrialResult): string {
  const blocks = ends.map((end, index) =>
    renderEnd(file, end, ends.length === 1 ? 'end' : (['end', 'peer'][index] ?? '')),
  );
  const both = pair === null ? [] : [`both ends: ${pair.action}, by ${where(file, pair)}; ${settings(pair)}`];
  const alone =
    pair === null
      ? ['note: this is one end; a connection gets the stricter answer of its two ends (--peer-cgroup)']
      : [];
  const unknown = ends.some(({ learned }) => learned === null)
    ? ['note: what was learned about programs can only be read by root']
    : [];
  return [...blocks, [...both, `outcome: ${outcome}: ${printable(because)}`, ...alone, ...unknown].join('\n')].join(
    '\n\n',
  );
}

function renderEnd(file: string, end: TrialEndResult, role: string): string {
  const { cgroup, port, program, passedOver, excluded, helperPort, learned } = end;
  const short = cgroup === null ? '(not given)' : shortName(cgroup);
  const place = short === cgroup || cgroup === null ? printable(short) : `${short} (${printable(cgroup)})`;
  const doubt = end.unknown === null ? '' : `, which may apply: the ${end.unknown} is not known`;
  const rows = [
    ['decides', `${where(file, end)}${doubt}`],
    ['action', end.action],
    ['settings', settings(end)],
    ...passedOver.map(({ rule, line, column, state, because }, index) => [
      index === 0 ? 'before it' : '',
      `${position(file, line, column)}${quote(rule)} ${state === 'unknown' ? 'may match' : 'does not match'}: ${printable(because)}`,
    ]),
    ...(excluded === null ? [] : [['program', printable(excluded.reason)]]),
    ...(helperPort === null ? [] : [['port', `${String(helperPort)} belongs to a conntrack helper`]]),
    ...(learned === true ? [['learned', 'this program left redirected data unread in this cgroup']] : []),
  ];
  const described = [
    place,
    ...(port === null ? [] : [`port ${String(port)}`]),
    ...(program === null ? [] : [printable(program)]),
  ];
  return [
    `${role}: ${described.join(', ')}`,
    ...renderTable(rows)
      .split('\n')
      .map((line) => `  ${line}`),
  ].join('\n');
}

/** `file:3:5: rule 'web'`; `the defaults` where the file does not say them. */
function where(file: string, { rule, line, column }: TrialSettings): string {
  return rule === 'defaults'
    ? `${position(file, line, column)}the defaults`
    : `${position(file, line, column)}rule ${quote(rule)}`;
}

const position = (file: string, line: number | null, column: number | null): string =>
  line === null || column === null ? '' : `${printable(file)}:${String(line)}:${String(column)}: `;

const settings = ({ promoteAfter, backlog, blockingReaders, streams }: TrialSettings): string =>
  `promoteAfter ${String(promoteAfter)}, backlog ${formatSize(backlog)}, blockingReaders ${String(blockingReaders)}, streams ${streams}`;
