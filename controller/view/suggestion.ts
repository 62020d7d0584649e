/** `policy suggest`, for a person. */
import { BENCHMARKED, type MeasuredSize, savedPerMessage } from '../decisions/gain.js';
import { nameOf, type TrafficGroup } from '../policy/suggestion.js';
import { printable } from '../policy/words.js';
import { formatBytes, formatDuration, renderTable } from './pairs.js';

export interface Suggestion {
  /** How long was looked. */
  seconds: number;
  loadedSeconds: number;
  controllerRunning: boolean;
  /** Connections that came and went between two looks. */
  unseen: number;
  /** CPU time on this host; null unless it was measured. */
  measured: MeasuredSize[] | null;
  groups: TrafficGroup[];
  /** Rules that the suggested policy has more than the one in force. */
  rules: number;
  /** Groups that those rules accelerate as well, should they ever qualify. */
  also: TrafficGroup[];
  /** Groups without a rule, because a cgroup is gone. */
  left: TrafficGroup[];
  /** The file that was written. */
  output: string | null;
}

export function renderSuggestion(suggestion: Suggestion): string {
  const { groups, seconds, measured, rules, also, left, output } = suggestion;
  if (groups.length === 0) return ['no connection has both ends here at present', ...notes(suggestion)].join('\n');
  const table = renderTable([
    [
      'CLIENT > SERVER',
      'PROGRAMS',
      'PAIRS',
      'WOULD',
      'MSG/S',
      'WOULD/S',
      'BYTES/S',
      'TURNS',
      ...(measured === null ? [] : ['CPU SAVED']),
      'THE OTHERS',
    ],
    ...groups.map((group) => [
      title(group),
      `${some(group.client.programs)} > ${some(group.server.programs)}`,
      String(group.pairs),
      String(group.outlooks.would),
      rate(group.messagesPerSecond),
      rate(group.would.messagesPerSecond),
      formatBytes(Math.round(group.bytesPerSecond)),
      group.turnShare === null ? '-' : `${(100 * group.turnShare).toFixed(0)}%`,
      ...(measured === null ? [] : [group.would.savedCpu === null ? '-' : cpu(group.would.savedCpu)]),
      others(group),
    ]),
  ]);
  const result =
    output !== null
      ? `${output}: the policy in force and ${String(rules)} rules more that accelerate what would be`
      : rules > 0
        ? 'the policy that accelerates exactly what would be: policy suggest --output FILE'
        : 'nothing is left to accelerate: no rule is suggested';
  return [
    `seen in ${formatDuration(seconds)}, by who talks to whom; WOULD: pairs that would be accelerated if observe were accelerate`,
    '',
    table,
    '',
    ...gain(groups, measured),
    ...notes(suggestion),
    ...also.map((group) => `note: the rules stand for ${title(group)}, too: a rule is about one end`),
    ...left.map((group) => `note: no rule for ${title(group)}: its cgroup is gone`),
    result,
  ].join('\n');
}

/** What the policy that is written says of where it comes from. */
export function suggestionComment({
  seconds,
  groups,
  measured,
}: Pick<Suggestion, 'seconds' | 'groups' | 'measured'>): string[] {
  return [
    `Written by "slipstream-bpf policy suggest", ${new Date().toISOString().slice(0, 10)}, from ${formatDuration(seconds)} of traffic: the policy in force,`,
    'and a rule for each end of what would be accelerated.',
    ...gain(groups, measured),
  ];
}

/** An estimate, and what it is made from. */
function gain(groups: readonly TrafficGroup[], measured: readonly MeasuredSize[] | null): string[] {
  const messages = groups.reduce((all, { would }) => all + would.messagesPerSecond, 0);
  if (messages === 0) return [];
  if (measured !== null) {
    const saved = groups.reduce((all, { would }) => all + (would.savedCpu ?? 0), 0);
    const each = measured.map(({ size }) => `${savedPerMessage(measured, size).toFixed(1)} us at ${formatBytes(size)}`);
    return [
      `estimate: ${cpu(saved)} of CPU time saved a second, for ${rate(messages)} messages/s; measured here, over loopback: ${each.join(', ')} a message`,
    ];
  }
  const percent = ({ least, most }: { least: number; most: number }): string =>
    `${(100 * least).toFixed(0)} to ${(100 * most).toFixed(0)} %`;
  const places = [
    ...(groups.some(({ namespaces, would }) => !namespaces && would.messagesPerSecond > 0)
      ? [`${percent(BENCHMARKED.loopback)} over loopback`]
      : []),
    ...(groups.some(({ namespaces, would }) => namespaces && would.messagesPerSecond > 0)
      ? [`${percent(BENCHMARKED.namespaces)} between network namespaces`]
      : []),
  ];
  return [
    `estimate: of the CPU time that ${rate(messages)} messages/s cost in the kernel and its callers, ${places.join(' and ')} is saved, as docs/benchmarks.md measured ping-pong on another machine; --measure does it here`,
  ];
}

function notes({ controllerRunning, unseen, loadedSeconds }: Suggestion): string[] {
  return [
    ...(controllerRunning
      ? []
      : ['note: no controller runs, so nothing new was judged: start one with "slipstream-bpf up"']),
    ...(unseen === 0
      ? []
      : [`note: ${String(unseen)} connections came and went between two looks, and are missing here`]),
    `note: connections made before the datapath was loaded, ${formatDuration(loadedSeconds)} ago, are not known to it`,
    'note: what only promotion finds out (splice, SO_ZEROCOPY, SO_RCVLOWAT, kTLS) can still leave a pair on TCP',
  ];
}

function title({ client, server, port, dialled }: TrafficGroup): string {
  const dials = dialled === port ? '' : ` (dials ${String(dialled)})`;
  return `${nameOf(client.cgroup)} > ${nameOf(server.cgroup)}:${String(port)}${dials}`;
}

/** `2 accelerated, 1 stream, 3 refused: blocking`. */
function others({ outlooks, reasons }: TrafficGroup): string {
  const { accelerated, stream, young, refused } = outlooks;
  const why = Object.keys(reasons).join(', ');
  const parts = [
    accelerated > 0 && `${String(accelerated)} accelerated`,
    stream > 0 && `${String(stream)} stream`,
    young > 0 && `${String(young)} too young`,
    refused > 0 && `${String(refused)} refused: ${why}`,
  ].filter((part) => part !== false);
  return parts.length === 0 ? '-' : parts.join(', ');
}

const rate = (perSecond: number): string => perSecond.toFixed(perSecond < 10 ? 1 : 0);

/** Microseconds a second as milliseconds. */
const cpu = (microseconds: number): string => `${(microseconds / 1000).toFixed(1)} ms/s`;

function some(names: readonly string[]): string {
  if (names.length === 0) return '?';
  return printable(names.slice(0, 3).join(',') + (names.length > 3 ? ',…' : ''));
}
