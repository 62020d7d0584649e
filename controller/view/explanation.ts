/** `explain`, for a person. */
import { type EndExplanation, type Explanation, type ExplainResult, inWords } from '../explain/explain.js';
import { printable } from '../policy/words.js';
import { formatBytes, formatDuration, formatEndpoint, formatProgram, renderTable } from './pairs.js';
import { shortName } from './short-name.js';

export function renderExplanation({ connections, notes, policy }: ExplainResult): string {
  const blocks = connections.map((connection) => renderConnection(connection));
  const source =
    policy === null
      ? []
      : [`policy: ${policy.file ?? 'the default'} (${policy.hash})${policy.since === null ? ', as given' : ''}`];
  return [...blocks, [...source, ...notes.map((note) => `note: ${note}`)].join('\n')].filter(Boolean).join('\n\n');
}

function renderConnection(explanation: Explanation): string {
  const { pair, because, change, client, server, translated, verdict } = explanation;
  const title = pair === null ? explanation.kind : `pair ${pair.id}`;
  const rows: string[][] = [
    ['verdict', `${verdict}${decider(explanation)}`],
    ['because', because],
    ...(change === null ? [] : [['change', change]]),
  ];
  if (pair !== null) {
    const since = pair.promotedSeconds === null ? '' : `, promoted ${formatDuration(pair.promotedSeconds)} ago`;
    const times = pair.promotions > 1 ? ` (${String(pair.promotions)} times in all)` : '';
    const turns =
      pair.state === 'observed' ? `, ${String(pair.turns)} turns seen of ${String(2 * pair.turnsWanted)}` : '';
    rows.push([
      'state',
      `${pair.state} for ${formatDuration(pair.ageSeconds)} since its handshake${since}${times}${turns}`.replace(
        ' for ',
        ', ',
      ),
    ]);
  }
  if (client !== null) rows.push(...renderEnd(client, explanation.kind === 'listener' ? 'listener' : 'client'));
  if (server !== null) rows.push(...renderEnd(server, explanation.kind === 'listener' ? 'listener' : 'server'));
  if (translated)
    rows.push([
      'translated',
      'addresses are changed on the way (NAT): each end is shown as it sees itself and its peer',
    ]);
  const [heading, ...lines] = [headline(title, client, server), ...renderTable(rows).split('\n')];
  return [heading, ...lines.map((line) => `  ${line}`)].join('\n');
}

function headline(title: string, client: EndExplanation | null, server: EndExplanation | null): string {
  const end = (of: EndExplanation): string => `${formatProgram(of)} ${formatEndpoint(of.address, of.port)}`;
  if (client === null) return `${title}: ${server === null ? '?' : end(server)}`;
  const far = server === null ? formatEndpoint(client.remoteAddress, client.remotePort) : end(server);
  return `${title}: ${end(client)} > ${far}`;
}

const decider = ({ decidedBy, name, verdict }: Explanation): string =>
  verdict === 'accelerated' || verdict === 'listener'
    ? ''
    : ` (${decidedBy}${name === null || name === verdict ? '' : `: ${printable(name)}`})`;

/** As people know it, and where it is. */
function describeCgroup(path: string | null): string {
  if (path === null) return '(not known)';
  const short = shortName(path);
  return short === path ? short : `${short} (${printable(path)})`;
}

function renderEnd(end: EndExplanation, role: string): string[][] {
  const peer = role === 'listener' ? '' : ` to ${formatEndpoint(end.remoteAddress, end.remotePort)}`;
  const shared = end.sharedWith === 0 ? '' : ` and ${String(end.sharedWith)} more`;
  const rows = [
    [role, `${formatProgram(end)}${shared}, ${formatEndpoint(end.address, end.port)}${peer}`],
    ['', `cgroup ${describeCgroup(end.cgroup)}, network namespace ${String(end.netns)}`],
  ];
  if (end.policy !== null) {
    const rule = end.policy.rule === 'defaults' ? 'defaults' : `rule '${printable(end.policy.rule)}'`;
    rows.push(['', `policy: ${end.policy.action}, by ${rule}`]);
  }
  const { reads, sends } = end;
  if (reads !== null) {
    const size = reads.receives === 0 ? '' : `, ${formatBytes(Math.round(reads.bytes / reads.receives))} each`;
    const how = inWords(reads);
    rows.push([
      '',
      `received ${formatBytes(reads.bytes)} in ${String(reads.receives)} receives${size}${how.length === 0 ? '' : `; it receives ${how.join(', ')}`}`,
    ]);
  }
  if (sends !== null) {
    const last = sends.lastPass === null ? '' : ` (the last for ${sends.lastPass})`;
    rows.push([
      '',
      `sends by ${sends.path}: ${String(sends.redirectedMessages)} messages redirected, ${formatBytes(sends.redirectedBytes)}; ${String(sends.passedMessages)} passed to TCP${last}`,
    ]);
  }
  return rows;
}
