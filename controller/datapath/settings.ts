/** The two single-record maps that the controller writes: settings and its own counters. */
import { DrainSettings } from './drainable.js';
import { type Field, type Layout, Records } from './layout.js';

/** What the programs go by, besides each pair's own fields. */
export interface Tuning {
  /** Turns each way before a pair becomes a candidate, 1 to 65535. */
  promoteAfter: number;
  /** Average bytes a turn up to which traffic counts as messages. */
  messageLimit: number;
  /** Messages in one direction without an answer that make a stream. */
  runMessages: number;
  /** Likewise bytes. */
  runBytes: number;
  /**
   * After this long without one, a redirecting direction sends a message over TCP, for timers of conntrack, NAT
   * and TCP itself; milliseconds, 0: never.
   */
  keepalive: number;
  /** Bytes received without request and response that make a pair a candidate as a stream; 0: none is. */
  streamBytes: number;
}

export const DEFAULT_TUNING: Tuning = {
  promoteAfter: 16,
  messageLimit: 64 * 1024,
  runMessages: 16,
  runBytes: 1024 * 1024,
  keepalive: 1000,
  streamBytes: 16 * 1024 * 1024,
};

/** Length of a tick of struct settings and struct direction, milliseconds (TICK_SHIFT in bpf/abi.h). */
const TICK_SHIFT = 20n;
const TICK = 2 ** Number(TICK_SHIFT) / 1e6;

/** What the kernel gate found, by finding such as `fionread`; what is in neither list is right. */
export interface GateMasks {
  failed: readonly string[];
  unknown: readonly string[];
}

export class Settings extends DrainSettings {
  readonly #records: Records;
  readonly #f;
  /** enum gate_finding: bit numbers by enumerator. */
  readonly #gateBits: Record<string, number>;

  constructor(layout: Layout, memory: ArrayBuffer) {
    super(layout, memory);
    this.#records = new Records(memory, layout.size('settings'));
    const one = (path: string): Field => layout.field('settings', path);
    this.#f = {
      maxPairs: one('max_pairs'),
      promoteAfter: one('promote_after'),
      messageLimit: one('message_limit'),
      runMessages: one('run_messages'),
      runBytes: one('run_bytes'),
      keepalive: one('keepalive'),
      streamBytes: one('stream_bytes'),
      alive: one('alive'),
      loadedNs: one('loaded_ns'),
      version: one('version'),
      gateFailed: one('gate_failed'),
      gateUnknown: one('gate_unknown'),
      measurement: one('measurement'),
    };
    this.#gateBits = layout.values('gate_finding');
  }

  get maxPairs(): number {
    return this.#records.get(0, this.#f.maxPairs);
  }
  set maxPairs(count: number) {
    this.#records.set(0, this.#f.maxPairs, count);
  }

  get promoteAfter(): number {
    return this.#records.get(0, this.#f.promoteAfter);
  }

  /** When the programs were loaded: CLOCK_MONOTONIC, nanoseconds. */
  get loadedNs(): bigint {
    return this.#records.getBig(0, this.#f.loadedNs);
  }
  set loadedNs(ns: bigint) {
    this.#records.set(0, this.#f.loadedNs, ns);
  }

  /** Version of the project that loaded the programs. */
  get version(): string {
    return this.#records.text(0, this.#f.version);
  }
  set version(version: string) {
    this.#records.setText(0, this.#f.version, version);
  }

  /** What `bench --port` asks of the controller, as decisions/measurement.ts reads it; 0n: nothing. */
  get measurement(): bigint {
    return this.#records.getBig(0, this.#f.measurement);
  }

  /** False: it was not `from` any more, and was not changed. */
  changeMeasurement(from: bigint, to: bigint): boolean {
    return this.#records.exchangeBig(0, this.#f.measurement, from, to);
  }

  /** The result of the gate that the last controller ran. */
  get gate(): GateMasks {
    const names = (field: Field): string[] => {
      const mask = this.#records.get(0, field);
      return Object.entries(this.#gateBits)
        .filter(([, bit]) => (mask & (1 << bit)) !== 0)
        .map(([name]) => name.replace('GATE_', '').toLowerCase());
    };
    return { failed: names(this.#f.gateFailed), unknown: names(this.#f.gateUnknown) };
  }
  set gate({ failed, unknown }: GateMasks) {
    const bit = (name: string): number => {
      const number = this.#gateBits[`GATE_${name.toUpperCase()}`];
      if (number === undefined) throw new Error(`the BPF object has no gate finding ${name}`);
      return 1 << number;
    };
    const mask = (names: readonly string[]): number => names.reduce((bits, name) => bits | bit(name), 0) >>> 0;
    this.#records.set(0, this.#f.gateFailed, mask(failed));
    this.#records.set(0, this.#f.gateUnknown, mask(unknown));
  }

  tune(tuning: Tuning): void {
    this.#records.set(0, this.#f.promoteAfter, tuning.promoteAfter);
    this.#records.set(0, this.#f.messageLimit, tuning.messageLimit);
    this.#records.set(0, this.#f.runMessages, tuning.runMessages);
    this.#records.set(0, this.#f.runBytes, tuning.runBytes);
    this.#records.set(0, this.#f.keepalive, Math.ceil(tuning.keepalive / TICK));
    this.#records.set(0, this.#f.streamBytes, tuning.streamBytes);
  }

  get streamBytes(): number {
    return this.#records.get(0, this.#f.streamBytes);
  }

  /** Says that there is a controller, for the programs. @param nowNs CLOCK_MONOTONIC */
  markAlive(nowNs: bigint): void {
    this.#records.set(0, this.#f.alive, Number((nowNs >> TICK_SHIFT) & 0xffff_ffffn));
  }
}

/** Counts of the controller's own decisions; they outlive it with the pins. */
export class ControllerCounters {
  readonly #records: Records;
  readonly #layout: Layout;
  readonly #refusals: string[];
  readonly #demotions: string[];

  constructor(layout: Layout, memory: ArrayBuffer) {
    this.#layout = layout;
    this.#records = new Records(memory, layout.size('controller_counters'));
    this.#refusals = layout.labels('refusal_reason');
    this.#demotions = layout.labels('demotion_reason');
  }

  promoted(): void {
    this.#add('promotions');
  }

  /** A connection from before the datapath became a pair. */
  adopted(): void {
    this.#add('adopted');
  }

  refused(reason: string): void {
    this.#add(`refusals[${String(Math.max(0, this.#refusals.indexOf(reason)))}]`);
  }

  demoted(reason: string): void {
    this.#add(`demotions[${String(Math.max(0, this.#demotions.indexOf(reason)))}]`);
  }

  policyReloaded(valid: boolean): void {
    this.#add(valid ? 'policy_reloads' : 'policy_reload_failures');
  }

  get promotions(): number {
    return this.#get('promotions');
  }

  get adoptedPairs(): number {
    return this.#get('adopted');
  }

  get reloads(): { success: number; failure: number } {
    return { success: this.#get('policy_reloads'), failure: this.#get('policy_reload_failures') };
  }

  /** Counts by reason; reasons that never occurred are 0. */
  get refusals(): Record<string, number> {
    return this.#byReason('refusals', this.#refusals);
  }

  get demotions(): Record<string, number> {
    return this.#byReason('demotions', this.#demotions);
  }

  #byReason(member: string, labels: string[]): Record<string, number> {
    const counts: Record<string, number> = {};
    labels.forEach((label, index) => {
      if (label !== 'none') counts[label] = this.#get(`${member}[${String(index)}]`);
    });
    return counts;
  }

  #get(path: string): number {
    return this.#records.get(0, this.#layout.field('controller_counters', path));
  }

  #add(path: string): void {
    this.#records.add(0, this.#layout.field('controller_counters', path), 1);
  }
}
