/**
 * The Prometheus metrics. Counters repeat the kernel's own counts at each scrape,
 * so they neither miss what happened without a controller nor start again with one.
 */
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry, type RegistryContentType } from 'prom-client';

import type { CgroupNames } from '../datapath/cgroups.js';
import type { Datapath, DatapathCounters } from '../datapath/datapath.js';
import { STATES } from '../datapath/pair-table.js';
import type { GateMasks } from '../datapath/settings.js';
import { MEANING } from '../probe/findings.js';
import { totalBacklog } from '../view/backlog.js';
import { cgroupTotals, type CgroupTotal } from '../view/totals.js';
import { DESCRIPTIONS, METRIC_NAMES, type MetricName } from './descriptions.js';

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

/** How a policy file was last read. */
export interface PolicyReading {
  /** When; milliseconds of Unix time. */
  at: number;
  /** What is wrong with the file; undefined: it is in force. */
  problem: string | undefined;
}

export const CONTENT_TYPES = {
  text: Registry.PROMETHEUS_CONTENT_TYPE,
  openMetrics: Registry.OPENMETRICS_CONTENT_TYPE,
} as const;
export type Format = keyof typeof CONTENT_TYPES;

/** Seconds. */
const BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1];

/** Of prom-client, and left out. */
const UNWANTED: readonly string[] = [
  // Gauges whose names end as only those of counters may.
  ...['handles', 'requests', 'resources'].map((what) => `nodejs_active_${what}_total`),
  // Of a timer, which at the precision of milliseconds wakes an idle process all the time.
  ...['min', 'max', 'mean', 'stddev', 'p50', 'p90', 'p99'].map((which) => `nodejs_eventloop_lag_${which}_seconds`),
];
/** Milliseconds. */
const NEVER = 2 ** 31 - 1;

/** Adds what prom-client knows of this process. */
export function collectProcessMetrics(register: Registry): void {
  collectDefaultMetrics({ register, eventLoopMonitoringPrecision: NEVER });
  for (const name of UNWANTED) register.removeSingleMetric(name);
}

/** Everything that is read once a scrape and shared by the collectors. */
interface Sample {
  counters: DatapathCounters;
  totals: CgroupTotal[];
}

type Labels = Record<string, string>;
type Values = Iterable<readonly [Labels, number]>;

/** One value without labels. */
const one = (value: number): Values => [[{}, value]];
const byReason = (counts: Record<string, number>): Values =>
  Object.entries(counts).map(([reason, count]) => [{ reason }, count] as const);

export class Metrics {
  readonly #options: MetricsOptions;
  readonly #registries: Record<Format, Registry<RegistryContentType>>;
  /** By format: prom-client knows exemplars in OpenMetrics only. */
  readonly #observe: ((seconds: number, pair: string) => void)[] = [];
  readonly #started = Date.now();
  #lastSweep = Date.now();
  #policy: { info: PolicyInfo; readAt: number } | undefined;
  #lastReading: PolicyReading | undefined;
  /** Highest value shown for a cgroup: see #sample. */
  #shown = new Map<string, CgroupTotal>();
  #current: Sample | undefined;

  constructor(options: MetricsOptions) {
    this.#options = options;
    // One for each: prom-client changes the names of counters for OpenMetrics in place.
    this.#registries = { text: this.#register('text'), openMetrics: this.#register('openMetrics') };
  }

  /** The text exposition format's, for tests. */
  get registry(): Registry<RegistryContentType> {
    return this.#registries.text;
  }

  /** @param seconds from candidate to insertion; @param pair its id, which OpenMetrics shows as an exemplar */
  promoted(seconds: number, pair: string): void {
    for (const observe of this.#observe) observe(seconds, pair);
  }

  /** The controller has looked over the table. */
  swept(): void {
    this.#lastSweep = Date.now();
  }

  setPolicy(info: PolicyInfo): void {
    const at = Date.now();
    this.#policy = { info, readAt: at };
    this.#lastReading = { at, problem: undefined };
  }

  /** The file was read again and is not fit to be in force. */
  policyFailed(problem: string): void {
    this.#lastReading = { at: Date.now(), problem };
  }

  /** What is in force, and how the file was last read. */
  get policy(): { info: PolicyInfo; readAt: number; last: PolicyReading } | undefined {
    return this.#policy && this.#lastReading && { ...this.#policy, last: this.#lastReading };
  }

  /** When this controller began; milliseconds of Unix time. */
  get started(): number {
    return this.#started;
  }

  async render(format: Format = 'text'): Promise<string> {
    this.#current = this.#sample();
    return this.#registries[format].metrics();
  }

  #register(format: Format): Registry<RegistryContentType> {
    const registry = new Registry<RegistryContentType>();
    registry.setContentType(CONTENT_TYPES[format]);
    const registers = [registry];
    collectProcessMetrics(registry as Registry);
    for (const name of METRIC_NAMES) {
      const { type, help, labels } = DESCRIPTIONS[name];
      const common = { name, help, labelNames: [...labels], registers: registers as Registry[] };
      if (type === 'histogram') {
        this.#observe.push(makeHistogram(common, format));
        continue;
      }
      const read = (): Values => this.#read(name, (this.#current ??= this.#sample()));
      // In OpenMetrics a counter's family has no _total: this one would be called as the gauge of the pairs at present.
      const clashes = format === 'openMetrics' && METRIC_NAMES.some((other) => name === `${other}_total`);
      if (type === 'counter' && !clashes) {
        new Counter({
          ...common,
          collect() {
            this.reset();
            for (const [of, value] of read()) this.inc(of, value);
          },
        });
      } else {
        const gauge = new Gauge({
          ...common,
          collect() {
            this.reset();
            for (const [of, value] of read()) this.set(of, value);
          },
        });
        if (clashes) Object.assign(gauge, { type: 'unknown' });
      }
    }
    return registry;
  }

  #read(name: MetricName, { counters, totals }: Sample): Values {
    const { datapath, version, stalled, learned } = this.#options;
    const { controllerCounters, settings } = datapath;
    switch (name) {
      case 'slipstream_build_info':
        return [[{ version, datapath_version: settings.version }, 1]];
      case 'slipstream_pairs': {
        const tally = datapath.pairs.tally();
        return STATES.filter((state) => state !== 'free').map((state) => [{ state }, tally[state]] as const);
      }
      case 'slipstream_max_pairs':
        return one(settings.maxPairs);
      case 'slipstream_pairs_total':
        return one(counters.pairs + controllerCounters.adoptedPairs);
      case 'slipstream_adopted_pairs_total':
        return one(controllerCounters.adoptedPairs);
      case 'slipstream_unpaired_total':
        return byReason(counters.unpaired);
      case 'slipstream_promotions_total':
        return one(controllerCounters.promotions);
      case 'slipstream_demotions_total':
        return byReason(controllerCounters.demotions);
      case 'slipstream_refusals_total':
        return byReason(controllerCounters.refusals);
      case 'slipstream_redirected_bytes_total':
        return totals.map(({ cgroup, bytes }) => [{ cgroup }, bytes] as const);
      case 'slipstream_redirected_messages_total':
        return totals.map(({ cgroup, messages }) => [{ cgroup }, messages] as const);
      case 'slipstream_passed_messages_total':
        return byReason(counters.passed);
      case 'slipstream_dropped_messages_total':
        return one(counters.dropped);
      case 'slipstream_events_lost_total':
        return one(counters.eventsLost);
      case 'slipstream_backlog_bytes':
        return one(totalBacklog(datapath));
      case 'slipstream_stalled_directions':
        return one(stalled());
      case 'slipstream_learned_programs':
        return one(learned());
      case 'slipstream_promotion_seconds':
        return []; // filled as promotions happen
      case 'slipstream_gate_finding':
        return gateValues(settings.gate);
      case 'slipstream_last_sweep_timestamp_seconds':
        return one(this.#lastSweep / 1000);
      case 'slipstream_policy_info': {
        if (this.#policy === undefined) return [];
        const { file, hash, rules } = this.#policy.info;
        return [[{ file, hash, rules: String(rules) }, 1]];
      }
      case 'slipstream_policy_reloads_total': {
        const { success, failure } = controllerCounters.reloads;
        return [
          [{ result: 'success' }, success],
          [{ result: 'failure' }, failure],
        ];
      }
      case 'slipstream_policy_last_reload_successful':
        return this.#lastReading === undefined ? [] : one(this.#lastReading.problem === undefined ? 1 : 0);
      case 'slipstream_policy_last_reload_success_timestamp_seconds':
        return this.#policy === undefined ? [] : one(this.#policy.readAt / 1000);
    }
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
}

interface Common {
  name: string;
  help: string;
  labelNames: string[];
  registers: Registry[];
}

function makeHistogram(common: Common, format: Format): (seconds: number, pair: string) => void {
  if (format === 'text') {
    const histogram = new Histogram({ ...common, buckets: BUCKETS });
    return (seconds) => {
      histogram.observe(seconds);
    };
  }
  const histogram = new Histogram({ ...common, buckets: BUCKETS, enableExemplars: true });
  return (value, pair) => {
    histogram.observe({ labels: {}, value, exemplarLabels: { pair } });
  };
}

const STATUSES = ['ok', 'failed', 'unknown'] as const;

/** Every finding with every status, so that a change never leaves a series behind. */
function gateValues({ failed, unknown }: GateMasks): Values {
  return Object.keys(MEANING).flatMap((finding) => {
    const is = failed.includes(finding) ? 'failed' : unknown.includes(finding) ? 'unknown' : 'ok';
    return STATUSES.map((status) => [{ finding, status }, status === is ? 1 : 0] as const);
  });
}
