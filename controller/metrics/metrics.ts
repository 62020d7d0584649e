/**
 * The Prometheus metrics. Counters repeat the kernel's own counts at each scrape,
 * so they neither miss what happened without a controller nor start again with one.
 */
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client';

import type { CgroupNames } from '../datapath/cgroups.js';
import type { Datapath, DatapathCounters } from '../datapath/datapath.js';
import { STATES } from '../datapath/pair-table.js';
import { totalBacklog } from '../view/backlog.js';
import { cgroupTotals, type CgroupTotal } from '../view/totals.js';

export interface MetricsOptions {
  datapath: Datapath;
  cgroups: CgroupNames;
  version: string;
  /** Directions that the watchdog holds for stalled at present. */
  stalled: () => number;
  /** Programs that are refused for what the watchdog saw. */
  learned: () => number;
}

/** The policy in force, for slipstream_policy_info. */
export interface PolicyInfo {
  file: string;
  hash: string;
  rules: number;
}

/** Everything that is read once a scrape and shared by the collectors. */
interface Sample {
  counters: DatapathCounters;
  totals: CgroupTotal[];
}

export class Metrics {
  readonly registry = new Registry();
  readonly #options: MetricsOptions;
  readonly #promotion: Histogram;
  readonly #policyInfo: Gauge;
  /** Highest value shown for a cgroup: see #sample. */
  #shown = new Map<string, CgroupTotal>();
  #current: Sample | undefined;

  constructor(options: MetricsOptions) {
    this.#options = options;
    const registers = [this.registry];
    collectDefaultMetrics({ register: this.registry });
    new Gauge({
      name: 'slipstream_build_info',
      help: 'Version of the running controller and of the one that loaded the BPF programs; always 1.',
      labelNames: ['version', 'datapath_version'],
      registers,
    }).set({ version: options.version, datapath_version: options.datapath.settings.version }, 1);
    this.#gauge('slipstream_pairs', 'Pairs of local sockets at present, by state.', ['state'], (gauge) => {
      const tally = options.datapath.pairs.tally();
      for (const state of STATES) if (state !== 'free') gauge.set({ state }, tally[state]);
    });
    this.#counter(
      'slipstream_pairs_total',
      'Connections found to have both ends on this host.',
      [],
      (counter, sample) => {
        counter.inc(sample.counters.pairs);
      },
    );
    this.#counter(
      'slipstream_unpaired_total',
      'Ends of connections that were not paired, by reason.',
      ['reason'],
      (counter, sample) => {
        for (const [reason, count] of Object.entries(sample.counters.unpaired)) counter.inc({ reason }, count);
      },
    );
    this.#counter('slipstream_promotions_total', 'Pairs put into the sockmap.', [], (counter) => {
      counter.inc(options.datapath.controllerCounters.promotions);
    });
    this.#counter(
      'slipstream_demotions_total',
      'Pairs taken back to TCP while alive, by reason.',
      ['reason'],
      (counter) => {
        for (const [reason, count] of Object.entries(options.datapath.controllerCounters.demotions)) {
          counter.inc({ reason }, count);
        }
      },
    );
    this.#counter(
      'slipstream_refusals_total',
      'Candidates that were not promoted, by reason.',
      ['reason'],
      (counter) => {
        for (const [reason, count] of Object.entries(options.datapath.controllerCounters.refusals)) {
          counter.inc({ reason }, count);
        }
      },
    );
    this.#counter(
      'slipstream_redirected_bytes_total',
      'Payload bytes that went from socket to socket past the network stack, by cgroup of the sender.',
      ['cgroup'],
      (counter, sample) => {
        for (const { cgroup, bytes } of sample.totals) counter.inc({ cgroup }, bytes);
      },
    );
    this.#counter(
      'slipstream_redirected_messages_total',
      'Messages that went from socket to socket past the network stack, by cgroup of the sender.',
      ['cgroup'],
      (counter, sample) => {
        for (const { cgroup, messages } of sample.totals) counter.inc({ cgroup }, messages);
      },
    );
    this.#counter(
      'slipstream_passed_messages_total',
      'Messages of promoted pairs that went over TCP, by reason.',
      ['reason'],
      (counter, sample) => {
        for (const [reason, count] of Object.entries(sample.counters.passed)) counter.inc({ reason }, count);
      },
    );
    this.#counter(
      'slipstream_events_lost_total',
      'Events that found the ring buffer full; a later sweep of the table makes up for them.',
      [],
      (counter, sample) => {
        counter.inc(sample.counters.eventsLost);
      },
    );
    this.#gauge(
      'slipstream_backlog_bytes',
      'Redirected bytes that readers have not received yet, over all promoted pairs.',
      [],
      (gauge) => {
        gauge.set(totalBacklog(options.datapath));
      },
    );
    this.#gauge(
      'slipstream_stalled_directions',
      'Directions with redirected bytes that their reader has not touched for some time.',
      [],
      (gauge) => {
        gauge.set(options.stalled());
      },
    );
    this.#gauge(
      'slipstream_learned_programs',
      'Programs, each in its cgroup, that are not accelerated because they left redirected data unread.',
      [],
      (gauge) => {
        gauge.set(options.learned());
      },
    );
    this.#counter(
      'slipstream_dropped_messages_total',
      'Messages refused because their reader had taken TCP bytes before redirected ones.',
      [],
      (counter, sample) => {
        counter.inc(sample.counters.dropped);
      },
    );
    this.#promotion = new Histogram({
      name: 'slipstream_promotion_seconds',
      help: 'From the message that made a pair a candidate to its insertion.',
      buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1],
      registers,
    });
    this.#policyInfo = new Gauge({
      name: 'slipstream_policy_info',
      help: 'The policy in force; always 1.',
      labelNames: ['file', 'hash', 'rules'],
      registers,
    });
    this.#counter('slipstream_policy_reloads_total', 'Policy reloads, by result.', ['result'], (counter) => {
      const { success, failure } = options.datapath.controllerCounters.reloads;
      counter.inc({ result: 'success' }, success);
      counter.inc({ result: 'failure' }, failure);
    });
  }

  /** @param seconds from candidate to insertion. */
  promoted(seconds: number): void {
    this.#promotion.observe(seconds);
  }

  setPolicy(info: PolicyInfo): void {
    this.#policyInfo.reset();
    this.#policyInfo.set({ file: info.file, hash: info.hash, rules: String(info.rules) }, 1);
  }

  /** Text exposition format. */
  async render(): Promise<string> {
    this.#current = this.#sample();
    return this.registry.metrics();
  }

  /**
   * A pair that closes between the two readings is in neither, and in both an
   * instant later: the highest value seen so far keeps the counters monotonic.
   */
  #sample(): Sample {
    const { datapath, cgroups } = this.#options;
    const shown = new Map<string, CgroupTotal>();
    const totals = cgroupTotals(datapath, cgroups).map((total) => {
      const before = this.#shown.get(total.cgroup);
      const now = {
        cgroup: total.cgroup,
        bytes: Math.max(total.bytes, before?.bytes ?? 0),
        messages: Math.max(total.messages, before?.messages ?? 0),
      };
      shown.set(total.cgroup, now);
      return now;
    });
    this.#shown = shown;
    return { counters: datapath.counters(), totals };
  }

  #counter<L extends string>(
    name: string,
    help: string,
    labelNames: L[],
    fill: (counter: Counter<L>, sample: Sample) => void,
  ): void {
    const counter = new Counter<L>({
      name,
      help,
      labelNames,
      registers: [this.registry],
      collect: (): void => {
        counter.reset();
        fill(counter, (this.#current ??= this.#sample()));
      },
    });
  }

  #gauge<L extends string>(name: string, help: string, labelNames: L[], fill: (gauge: Gauge<L>) => void): void {
    const gauge = new Gauge<L>({
      name,
      help,
      labelNames,
      registers: [this.registry],
      collect: (): void => {
        fill(gauge);
      },
    });
  }
}
