/** The metrics as they are promised: name, type, labels, help. docs/metrics.md is made of this. */

export interface Description {
  readonly type: 'counter' | 'gauge' | 'histogram';
  readonly labels: readonly string[];
  readonly help: string;
}

export const DESCRIPTIONS = {
  slipstream_build_info: {
    type: 'gauge',
    labels: ['version', 'datapath_version'],
    help: 'Version of the running controller and of the one that loaded the BPF programs; always 1.',
  },
  slipstream_pairs: {
    type: 'gauge',
    labels: ['state'],
    help: 'Pairs of local sockets at present, by state.',
  },
  slipstream_max_pairs: {
    type: 'gauge',
    labels: [],
    help: 'Size of the pair table.',
  },
  slipstream_pairs_total: {
    type: 'counter',
    labels: [],
    help: 'Connections found to have both ends on this host.',
  },
  slipstream_adopted_pairs_total: {
    type: 'counter',
    labels: [],
    help: 'Of these, connections that were established before the datapath was there (up --adopt).',
  },
  slipstream_unpaired_total: {
    type: 'counter',
    labels: ['reason'],
    help: 'Ends of connections that were not paired, by reason.',
  },
  slipstream_promotions_total: {
    type: 'counter',
    labels: [],
    help: 'Pairs put into the sockmap.',
  },
  slipstream_demotions_total: {
    type: 'counter',
    labels: ['reason'],
    help: 'Pairs taken back to TCP while alive, by reason.',
  },
  slipstream_refusals_total: {
    type: 'counter',
    labels: ['reason'],
    help: 'Candidates that were not promoted, by reason.',
  },
  slipstream_redirected_bytes_total: {
    type: 'counter',
    labels: ['cgroup'],
    help: 'Payload bytes that went from socket to socket past the network stack, by cgroup of the sender.',
  },
  slipstream_redirected_messages_total: {
    type: 'counter',
    labels: ['cgroup'],
    help: 'Messages that went from socket to socket past the network stack, by cgroup of the sender.',
  },
  slipstream_passed_messages_total: {
    type: 'counter',
    labels: ['reason'],
    help: 'Messages of promoted pairs that went over TCP, by reason.',
  },
  slipstream_dropped_messages_total: {
    type: 'counter',
    labels: [],
    help: 'Messages refused because their reader had taken TCP bytes before redirected ones.',
  },
  slipstream_events_lost_total: {
    type: 'counter',
    labels: [],
    help: 'Events that found the ring buffer full; a later sweep of the table makes up for them.',
  },
  slipstream_backlog_bytes: {
    type: 'gauge',
    labels: [],
    help: 'Redirected bytes that readers have not received yet, over all promoted pairs.',
  },
  slipstream_stalled_directions: {
    type: 'gauge',
    labels: [],
    help: 'Directions with redirected bytes that their reader has not touched for some time.',
  },
  slipstream_learned_programs: {
    type: 'gauge',
    labels: [],
    help: 'Programs, each in its cgroup, that are not accelerated because they left redirected data unread.',
  },
  slipstream_promotion_seconds: {
    type: 'histogram',
    labels: [],
    help: 'From the message that made a pair a candidate to its insertion.',
  },
  slipstream_gate_finding: {
    type: 'gauge',
    labels: ['finding', 'status'],
    help: 'What the kernel gate found at the start: 1 for the status of each finding, 0 for the others.',
  },
  slipstream_last_sweep_timestamp_seconds: {
    type: 'gauge',
    labels: [],
    help: 'When the controller last looked over the whole pair table, which it does twice a second; Unix time.',
  },
  slipstream_policy_info: {
    type: 'gauge',
    labels: ['file', 'hash', 'rules'],
    help: 'The policy in force; always 1.',
  },
  slipstream_policy_reloads_total: {
    type: 'counter',
    labels: ['result'],
    help: 'Policy reloads, by result.',
  },
  slipstream_policy_last_reload_successful: {
    type: 'gauge',
    labels: [],
    help: 'Whether the policy file is in force as it is: 0 after a reload that failed, 1 otherwise.',
  },
  slipstream_policy_last_reload_success_timestamp_seconds: {
    type: 'gauge',
    labels: [],
    help: 'When the policy in force was read; Unix time.',
  },
} as const satisfies Record<string, Description>;

export type MetricName = keyof typeof DESCRIPTIONS;

export const METRIC_NAMES = Object.keys(DESCRIPTIONS) as MetricName[];
