/**
 * The controller proper: turns what the datapath reports into promotions,
 * demotions and drains. Decisions are pure functions in ../decisions; this file
 * carries them out and keeps the order that the invariants ask for.
 */
import { readFileSync } from 'node:fs';
import { release } from 'node:os';

import type { Logger } from 'pino';

import { RingBuffer, rcuBarrier, wakeSocket } from '../../addon/index.js';
import type { CgroupNames } from '../datapath/cgroups.js';
import type { Datapath } from '../datapath/datapath.js';
import { type Control, otherSide, type PairRecord, SIDES, type Side } from '../datapath/pair-table.js';
import { DEFAULT_TUNING, type Tuning } from '../datapath/settings.js';
import { coolDown, isStreaming, WINDOW_MINIMUM } from '../decisions/demotion.js';
import {
  candidateEnds,
  type EvidenceBits,
  judgeCandidate,
  type Retry,
  retryAfterInsertFailure,
  type Verdict,
} from '../decisions/promotion.js';
import { isEvidence, judgeWaiting, type Waiting } from '../decisions/stall.js';
import { type CompiledPolicy, minimumPromoteAfter } from '../policy/evaluate.js';
import { type LearnedProgram, LearnedPrograms } from '../policy/learned.js';
import type { GateFacts } from '../probe/findings.js';
import { readHelperPorts } from '../probe/helper-ports.js';
import { backlogs } from '../view/backlog.js';
import { foldGoneCgroups } from '../view/totals.js';

/** At most one run of the iterator in this time, milliseconds. */
const PROMOTE_INTERVAL = 5;
/** How often windows are judged and lost events looked for, milliseconds. */
const SWEEP_INTERVAL = 500;
/** How often backlogs are looked at and vanished cgroups folded, milliseconds. */
const WATCH_INTERVAL = 5000;
/** A reader that takes nothing of what waits for this long has stalled, milliseconds, unless an option says otherwise. */
const STALL_AFTER = 30_000;
/** Longest pause between two looks at a draining pair, milliseconds. */
const DRAIN_PAUSE_LIMIT = 50;
const NEVER = 2n ** 63n;
const NS_PER_MS = 1_000_000n;

export interface ControllerOptions {
  datapath: Datapath;
  cgroups: CgroupNames;
  policy: CompiledPolicy;
  log: Logger;
  /** A reader that takes nothing of what waits for this long has stalled, milliseconds; default 30 s. */
  stallAfter?: number;
  /** Where it differs from the default. */
  tuning?: Partial<Tuning>;
  /** Default: what is learned is forgotten with this process. */
  learned?: LearnedPrograms;
  /** What the kernel gate found; left out: nothing is forbidden, every hazard assumed. */
  gate?: GateFacts | undefined;
  /** Seconds from candidate to insertion, for the histogram, and which pair it was. */
  onPromoted?: (seconds: number, pair: string) => void;
  /** Called whenever the loop has looked at all that it looks at: a sign of life. */
  onSweep?: () => void;
  /** Called once when `down` asks this process to leave. */
  onLeave?: () => void;
}

interface Draining {
  control: Control;
  retryNs: bigint;
  /** True once no sender can still be deciding by the state before LEAVING. */
  settled: boolean;
}

interface InsertedPair {
  generation: number;
  /** Counts at the last look, both directions together. */
  redirected: number;
  passed: number;
  /** Who read, and how, when it was last judged. */
  readers: string;
}

export class Controller {
  readonly #datapath: Datapath;
  readonly #cgroups: CgroupNames;
  readonly #log: Logger;
  readonly #bits: EvidenceBits;
  readonly #options: ControllerOptions;
  readonly #learned: LearnedPrograms;
  readonly #stallAfter: number;
  readonly #eventTypes: Record<string, number>;
  readonly #approved = new Map<number, Control>();
  readonly #inserted = new Map<number, InsertedPair>();
  readonly #draining = new Map<number, Draining>();
  /** Insertions that failed in a row, by slot; cleared with the pair. */
  readonly #failures = new Map<number, { generation: number; count: number }>();
  #waiting = new Map<string, Waiting>();
  /** Directions whose guard has been reported. */
  readonly #overtaken = new Set<string>();
  #policy: CompiledPolicy;
  #helperPorts = readHelperPorts();
  #watchTimer: NodeJS.Timeout | undefined;
  #ring: RingBuffer | undefined;
  #sweepTimer: NodeJS.Timeout | undefined;
  #promoteTimer: NodeJS.Timeout | undefined;
  #lastPromote = 0;
  #drainLoop: Promise<void> | undefined;
  #stopped = false;

  constructor(options: ControllerOptions) {
    this.#options = options;
    this.#learned = options.learned ?? new LearnedPrograms(undefined);
    this.#stallAfter = options.stallAfter ?? STALL_AFTER;
    this.#datapath = options.datapath;
    this.#cgroups = options.cgroups;
    this.#policy = options.policy;
    this.#log = options.log;
    this.#bits = options.datapath.layout.values('evidence');
    this.#eventTypes = options.datapath.layout.values('event_type');
  }

  /** Takes over the table as it is and starts to listen. */
  start(): void {
    const { settings } = this.#datapath;
    settings.leave = false;
    settings.paused = false;
    this.#tune();
    this.#ring = new RingBuffer(this.#datapath.events, (records) => {
      for (const record of records) this.#onEvent(record);
    });
    this.#adopt();
    // What an earlier controller promoted was judged by an earlier policy.
    this.applyPolicy(this.#policy);
    this.#sweepTimer = setInterval(() => {
      this.#sweep();
    }, SWEEP_INTERVAL);
    this.#watchTimer = setInterval(
      () => {
        this.#watch();
      },
      Math.min(WATCH_INTERVAL, Math.max(50, this.#stallAfter / 4)),
    );
  }

  /** Stops deciding. Live pairs stay as they are: the kernel needs no controller. */
  async stop(): Promise<void> {
    this.#stopped = true;
    clearInterval(this.#sweepTimer);
    clearInterval(this.#watchTimer);
    clearTimeout(this.#promoteTimer);
    this.#promoteTimer = undefined;
    this.#ring?.close();
    this.#ring = undefined;
    await this.#drainLoop;
  }

  /**
   * Puts another policy into force: pairs that it takes out are demoted, pairs
   * that the old one refused may try again.
   */
  applyPolicy(policy: CompiledPolicy): void {
    this.#policy = policy;
    this.#tune();
    for (const entry of this.#draining.values()) entry.retryNs = 0n;
    for (const [slot, control] of this.#datapath.pairs.slots('observed', 'approved', 'inserted')) {
      const record = this.#datapath.pairs.read(slot, control);
      if (record === undefined) continue;
      // What is in, or about to be, has shown its turns.
      const verdict = this.#judge(record, control.state === 'observed' ? undefined : Infinity);
      if (control.state === 'inserted') {
        if (verdict.kind === 'approve') {
          this.#datapath.pairs.setLimits(slot, verdict.backlog, verdict.forbidden);
        } else {
          const reason = verdict.kind === 'refuse' ? demotionFor(verdict.reason) : 'policy';
          if (this.demote(slot, control, reason, NEVER) && verdict.kind === 'refuse') {
            this.#datapath.pairs.setRefusal(slot, verdict.reason);
          }
        }
      } else if (control.state === 'approved') {
        if (verdict.kind === 'approve') {
          this.#datapath.pairs.setLimits(slot, verdict.backlog, verdict.forbidden);
        } else {
          this.#abandon(slot, control);
        }
      } else if (record.retryNs === NEVER) {
        this.#datapath.pairs.setRefusal(slot, 'none');
        this.#datapath.pairs.setPromoteAfter(slot, 0);
        this.#datapath.pairs.setRetry(slot, 0n);
      }
    }
  }

  /**
   * Takes an inserted pair back to TCP, without losing a byte: its messages pass
   * from now on, and once its queues are empty it leaves the sockmap.
   * @param retryNs CLOCK_MONOTONIC before which it is not promoted again
   */
  demote(slot: number, control: Control, reason: string, retryNs: bigint): boolean {
    const { pairs, controllerCounters } = this.#datapath;
    const draining = pairs.change(slot, control, 'draining');
    this.#inserted.delete(slot);
    if (draining === undefined) return false;
    pairs.setDemotion(slot, reason);
    controllerCounters.demoted(reason);
    this.#log.debug({ pair: pairId(slot, control), reason }, 'demoted');
    this.#drain(slot, draining, retryNs);
    return true;
  }

  /**
   * Ends promotion and drains every pair.
   * @param timeoutMs how long to wait for readers to empty their queues
   * @returns slots that still hold a socket in the sockmap
   */
  async takeDown(timeoutMs: number): Promise<number[]> {
    const { pairs, settings } = this.#datapath;
    const deadline = Date.now() + timeoutMs;
    settings.paused = true;
    clearTimeout(this.#promoteTimer);
    this.#promoteTimer = undefined;
    for (const [slot, control] of pairs.slots('candidate', 'approved', 'inserted', 'draining', 'leaving')) {
      if (control.state === 'inserted') this.demote(slot, control, 'requested', NEVER);
      else if (control.state === 'candidate' || control.state === 'approved') this.#abandon(slot, control);
      else if (!this.#draining.has(slot)) this.#drain(slot, control, NEVER);
    }
    for (;;) {
      await this.#drainRound();
      const left = this.#datapath.occupiedSlots();
      if (left.length === 0 || Date.now() >= deadline) return left;
      await pause(DRAIN_PAUSE_LIMIT);
    }
  }

  /** What is under way, for tests and status. */
  get inserted(): number {
    return this.#inserted.size;
  }

  /** Directions that the watchdog holds for stalled. */
  get stalled(): number {
    return [...this.#waiting.values()].filter(({ stalled }) => stalled).length;
  }

  #tune(): void {
    this.#datapath.settings.tune({
      ...DEFAULT_TUNING,
      ...this.#options.tuning,
      promoteAfter: minimumPromoteAfter(this.#policy),
    });
  }

  #onEvent(record: Buffer): void {
    const { layout, pairs } = this.#datapath;
    const read = (member: string): number => record.readUInt32LE(layout.field('event', member).offset);
    const slot = read('slot');
    const type = read('type');
    if (slot >= pairs.capacity) return;
    const control = pairs.control(slot);
    // The pair may be another one by now, or further on.
    if (control.generation !== read('control') >>> 8) return;
    if (type === this.#eventTypes['EVENT_NUDGE']) {
      this.#nudge(slot, control);
    } else if (type === this.#eventTypes['EVENT_CANDIDATE'] && control.state === 'candidate') {
      this.#consider(slot, control);
    } else if (type === this.#eventTypes['EVENT_READER'] && control.state === 'inserted') {
      this.#reconsider(slot, control);
    }
  }

  #judge(record: PairRecord, turnsShown = record.promoteAfter || minimumPromoteAfter(this.#policy)): Verdict {
    return judgeCandidate(
      {
        ends: candidateEnds(record, this.#cgroups, this.#learned),
        turnsShown,
        kernelRefusal: this.#options.gate?.refusal,
        hazards: this.#options.gate?.hazards,
        helperPorts: this.#helperPorts,
      },
      this.#policy,
      this.#bits,
    );
  }

  #consider(slot: number, control: Control): void {
    const { pairs } = this.#datapath;
    const record = pairs.read(slot, control);
    if (record === undefined || this.#datapath.settings.paused) return;
    const verdict = this.#judge(record);
    switch (verdict.kind) {
      case 'wait':
        pairs.setPromoteAfter(slot, verdict.turns);
        pairs.change(slot, control, 'observed');
        break;
      case 'refuse':
        this.#refuse(slot, control, verdict.reason, verdict.retry);
        break;
      case 'approve': {
        pairs.prepare(slot, verdict.backlog, verdict.forbidden);
        const approved = pairs.change(slot, control, 'approved');
        if (approved !== undefined) this.#approved.set(slot, approved);
        this.#schedulePromote();
        break;
      }
    }
  }

  /** An inserted pair has a reader, or a way of reading, that was not judged yet. */
  #reconsider(slot: number, control: Control): void {
    const record = this.#datapath.pairs.read(slot, control);
    if (record === undefined) return;
    const verdict = this.#judge(record, Infinity);
    if (verdict.kind !== 'refuse') return;
    const reason = demotionFor(verdict.reason);
    if (this.demote(slot, control, reason, NEVER)) this.#datapath.pairs.setRefusal(slot, verdict.reason);
  }

  /**
   * Wakes readers that have emptied the redirected queue with TCP bytes behind it. Those came before, so an
   * edge-triggered reader that stops at a short receive (epoll(7)) would wait for ever.
   */
  #nudge(slot: number, control: Control): void {
    for (const reader of SIDES) {
      if (this.#datapath.pairs.takeNudge(slot, reader)) this.#wake(slot, control, reader);
    }
  }

  /** Has the kernel signal again what a socket is ready for. */
  #wake(slot: number, control: Control, side: Side): void {
    const holder = this.#datapath.pairs.holder(slot, side);
    if (holder === undefined) return;
    const { pid, descriptor, cookie } = holder;
    const pair = pairId(slot, control);
    wakeSocket(pid, descriptor, cookie).then(
      (done) => {
        // The socket may have closed, or gone to another process: then there is nobody to wake.
        this.#log.debug({ pair, pid, descriptor, done }, 'woken');
      },
      (error: unknown) => {
        this.#log.warn({ pair, pid, error: String(error) }, 'a process could not be woken');
      },
    );
  }

  #refuse(slot: number, control: Control, reason: string, retry: Retry): void {
    const { pairs, controllerCounters } = this.#datapath;
    // First the state: what is written after a later pair took the slot would be that pair's.
    if (pairs.change(slot, control, 'observed') === undefined) return;
    pairs.setRefusal(slot, reason);
    pairs.setRetry(slot, typeof retry === 'string' ? NEVER : nanosecondsFromNow(retry.afterMs));
    controllerCounters.refused(reason);
    this.#log.debug({ pair: pairId(slot, control), reason }, 'refused');
  }

  /** Back to OBSERVED without a reason of the pair's own. */
  #abandon(slot: number, control: Control): void {
    const { pairs } = this.#datapath;
    this.#approved.delete(slot);
    // An index may still be an earlier pair's, with data that its reader has not taken.
    const inserted = SIDES.filter((side) => pairs.insertResult(slot, side).kind === 'done');
    if (control.state === 'approved') for (const side of inserted) this.#datapath.evict(slot, side);
    if (pairs.change(slot, control, 'observed') !== undefined) pairs.setRetry(slot, 0n);
  }

  #schedulePromote(): void {
    if (this.#promoteTimer !== undefined || this.#stopped) return;
    const wait = Math.max(0, this.#lastPromote + PROMOTE_INTERVAL - Date.now());
    this.#promoteTimer = setTimeout(() => {
      this.#promoteTimer = undefined;
      this.#promoteApproved();
    }, wait);
  }

  /** Runs the iterator once for all approved pairs and looks at what it did. */
  #promoteApproved(): void {
    this.#lastPromote = Date.now();
    const approved = [...this.#approved];
    this.#approved.clear();
    if (approved.length === 0) return;
    this.#datapath.runPromote();
    for (const [slot, control] of approved) this.#finishInsertion(slot, control);
  }

  #finishInsertion(slot: number, control: Control): void {
    const { pairs, controllerCounters } = this.#datapath;
    const results = SIDES.map((side) => pairs.insertResult(slot, side));
    if (results.every((result) => result.kind === 'done')) {
      const now = process.hrtime.bigint();
      const candidate = pairs.candidateNs(slot);
      const inserted = pairs.change(slot, control, 'inserted');
      if (inserted === undefined) return; // closed meanwhile: the sockets left by themselves
      pairs.markInserted(slot, now);
      controllerCounters.promoted();
      this.#failures.delete(slot);
      this.#track(slot, inserted);
      this.#options.onPromoted?.(Number(now - candidate) / 1e9, pairId(slot, control));
      this.#log.debug({ pair: pairId(slot, control) }, 'promoted');
      return;
    }
    // While APPROVED nothing is redirected, so the half that went in has an empty queue.
    if (pairs.control(slot).generation === control.generation) {
      results.forEach((result, side) => {
        if (result.kind === 'done') this.#datapath.evict(slot, side as Side);
      });
    }
    const refused = results.find((result) => result.kind === 'refused');
    const reason = refused?.reason ?? 'gone';
    const last = this.#failures.get(slot);
    const failures = last?.generation === control.generation ? last.count + 1 : 0;
    this.#failures.set(slot, { generation: control.generation, count: failures });
    this.#refuse(slot, control, reason, retryAfterInsertFailure(reason, failures));
  }

  #track(slot: number, control: Control): void {
    const readers = this.#datapath.pairs.readers(slot);
    this.#inserted.set(slot, { generation: control.generation, readers, ...this.#messages(slot) });
  }

  #messages(slot: number): { redirected: number; passed: number } {
    const { pairs } = this.#datapath;
    return {
      redirected: pairs.redirectedMessages(slot, 0) + pairs.redirectedMessages(slot, 1),
      passed: pairs.passedMessages(slot, 0) + pairs.passedMessages(slot, 1),
    };
  }

  /** Picks up where an earlier controller, or a lost event, left a pair. */
  #adopt(): void {
    for (const [slot, control] of this.#datapath.pairs.slots(
      'candidate',
      'approved',
      'inserted',
      'draining',
      'leaving',
    )) {
      if (control.state === 'candidate') this.#consider(slot, control);
      else if (control.state === 'inserted') this.#track(slot, control);
      else if (control.state !== 'approved') this.#drain(slot, control, 0n);
      else {
        this.#approved.set(slot, control);
        this.#schedulePromote();
      }
    }
  }

  #sweep(): void {
    const { pairs, settings } = this.#datapath;
    if (settings.leave) {
      this.#options.onLeave?.();
      return;
    }
    for (const [slot, before] of this.#inserted) {
      const control = pairs.control(slot);
      if (control.generation !== before.generation || control.state !== 'inserted') {
        this.#inserted.delete(slot);
        continue;
      }
      const now = this.#messages(slot);
      const window = { redirected: now.redirected - before.redirected, passed: now.passed - before.passed };
      if (isStreaming(window)) {
        this.demote(slot, control, 'stream', nanosecondsFromNow(coolDown(pairs.promotions(slot))));
        continue;
      }
      // TCP copes better with short memory, and outside the sockmap best.
      if (window.passed > 0 && SIDES.some((side) => pairs.lastPass(slot, side) === 'memory')) {
        this.demote(slot, control, 'memory', nanosecondsFromNow(coolDown(pairs.promotions(slot))));
        continue;
      }
      if (window.redirected + window.passed >= WINDOW_MINIMUM) Object.assign(before, now);
      // Events may be lost: this is what makes up for them.
      const readers = pairs.readers(slot);
      if (readers === before.readers) continue;
      before.readers = readers;
      this.#reconsider(slot, control);
    }
    for (const [slot, failure] of this.#failures) {
      if (pairs.control(slot).generation !== failure.generation) this.#failures.delete(slot);
    }
    for (const [slot, control] of pairs.slots('candidate')) this.#consider(slot, control);
    for (const [slot, control] of pairs.slots('inserted', 'draining', 'leaving')) this.#nudge(slot, control);
    this.#options.onSweep?.();
  }

  /** The watchdog, and the housekeeping that may take its time. */
  #watch(): void {
    this.#refreshLearned();
    // A module may have been loaded; connections made before have no helper of it.
    this.#helperPorts = readHelperPorts();
    this.#watchBacklogs();
    this.#watchGuard();
    foldGoneCgroups(this.#datapath, this.#cgroups);
  }

  /** What another process has forgotten, or a person edited, is taken up. */
  #refreshLearned(): void {
    try {
      if (this.#learned.refresh()) this.applyPolicy(this.#policy);
    } catch (error) {
      this.#log.error(error instanceof Error ? error.message : String(error));
    }
  }

  /** Finds readers that take nothing of what was redirected to them. */
  #watchBacklogs(): void {
    const { pairs } = this.#datapath;
    const waiting = new Map<string, Waiting>();
    const now = Date.now();
    const stalls = new Set<string>();
    const pass = this.#datapath.runPromote();
    for (const { slot, control, side, waiting: bytes, consumed } of backlogs(this.#datapath, pass)) {
      const reader = otherSide(side);
      const key = `${pairId(slot, control)}.${String(side)}`;
      const before = this.#waiting.get(key);
      const found = judgeWaiting(before, consumed, now, this.#stallAfter);
      waiting.set(key, found);
      if (!found.stalled) continue;
      stalls.add(`${String(slot)}.${String(reader)}`);
      if (before?.stalled === true) continue;
      pairs.setStalled(slot, reader, nanosecondsFromNow(found.since - now));
      const uncounted = pairs.notice(slot, reader, pass)?.emptyQueue === true;
      this.#log.warn(
        { ...this.#describeReader(slot, control, reader), bytes, seconds: (now - found.since) / 1000 },
        uncounted
          ? 'bytes left a socket uncounted (splice, or an urgent byte that was skipped)'
          : 'a reader has stalled: redirected data waits for it',
      );
      this.#learn(slot, control, reader, uncounted ? 'uncounted' : 'stalled');
    }
    this.#waiting = waiting;
    for (const [slot, control] of pairs.slots('inserted')) {
      if (!SIDES.some((side) => pairs.notice(slot, side, pass)?.shortOfMemory === true)) continue;
      this.demote(slot, control, 'memory', nanosecondsFromNow(coolDown(pairs.promotions(slot))));
    }
    for (const [slot] of pairs.slots('inserted', 'draining', 'leaving')) {
      for (const reader of SIDES) {
        if (pairs.stalledNs(slot, reader) === 0n || stalls.has(`${String(slot)}.${String(reader)}`)) continue;
        pairs.setStalled(slot, reader, 0n);
      }
    }
  }

  /** Reports what the guard in redirect has found. */
  #watchGuard(): void {
    const { pairs } = this.#datapath;
    for (const [slot, control] of pairs.slots('inserted', 'draining', 'leaving')) {
      for (const sender of SIDES) {
        if (!pairs.overtaken(slot, sender)) continue;
        const id = `${pairId(slot, control)}.${String(sender)}`;
        if (this.#overtaken.has(id)) continue;
        this.#overtaken.add(id);
        const reader = otherSide(sender);
        this.#log.error(
          this.#describeReader(slot, control, reader),
          'a reader took TCP bytes before redirected ones (splice?): the connection is cut, exclude this program',
        );
        this.#learn(slot, control, reader, 'overtaken');
      }
    }
    for (const id of this.#overtaken) {
      const [slot = '', generation = ''] = id.split('.');
      if (pairs.control(Number(slot)).generation !== Number(generation)) this.#overtaken.delete(id);
    }
  }

  #describeReader(slot: number, control: Control, reader: Side): object {
    const end = this.#datapath.pairs.read(slot, control)?.ends[reader];
    return {
      pair: pairId(slot, control),
      program: end?.program,
      pid: end?.pid,
      cgroup: end && this.#cgroups.path(end.cgroupId),
    };
  }

  /** Remembers the program behind a reader and takes it off the direct path everywhere in its cgroup. */
  #learn(slot: number, control: Control, reader: Side, cause: LearnedProgram['cause']): void {
    const end = this.#datapath.pairs.read(slot, control)?.ends[reader];
    const cgroup = end && this.#cgroups.path(end.cgroupId);
    if (end === undefined || cgroup === undefined || end.program === '') return;
    if (cause === 'stalled' && !isEvidence(processState(end.pid))) return;
    try {
      const at = new Date().toISOString();
      if (!this.#learned.add({ program: end.program, cgroup, cause, at, kernel: release() })) return;
    } catch (error) {
      this.#log.error(
        { error: String(error) },
        'what was learned could not be saved and is forgotten at the next start',
      );
    }
    this.#log.warn(
      { program: end.program, cgroup, cause },
      'not accelerated from now on: see "slipstream-bpf learned"',
    );
    this.applyPolicy(this.#policy);
  }

  #drain(slot: number, control: Control, retryNs: bigint): void {
    this.#draining.set(slot, { control, retryNs, settled: false });
    this.#drainLoop ??= this.#runDrainLoop();
  }

  async #runDrainLoop(): Promise<void> {
    let wait = 1;
    while (!this.#stopped && this.#draining.size > 0) {
      const before = this.#draining.size;
      try {
        await this.#drainRound();
      } catch (error) {
        // Pairs stay in the sockmap and correct; the next round tries again.
        this.#log.error({ error: String(error) }, 'draining failed');
        wait = DRAIN_PAUSE_LIMIT;
      }
      wait = this.#draining.size < before ? 1 : Math.min(DRAIN_PAUSE_LIMIT, wait * 2);
      if (this.#draining.size > 0) await pause(wait);
    }
    this.#drainLoop = undefined;
  }

  /**
   * Invariant 4, in two steps. DRAINING redirects only behind what still waits, so
   * that no reader finds both queues filled. When the readers have received all
   * that was counted, LEAVING lets every message pass; after an RCU grace period
   * every program run that saw DRAINING has counted what it redirected. If then
   * still nothing waits, the pair leaves the sockmap; else it drains on.
   */
  async #drainRound(): Promise<void> {
    const { pairs } = this.#datapath;
    const leaving = [...this.#draining.values()].filter(({ control }) => control.state === 'leaving');
    if (leaving.some(({ settled }) => !settled)) {
      await rcuBarrier();
      for (const entry of leaving) entry.settled = true;
    }
    if (this.#draining.size === 0) return;
    const pass = this.#datapath.runPromote();
    for (const [slot, entry] of this.#draining) {
      if (pairs.control(slot).word !== entry.control.word) {
        this.#draining.delete(slot); // closed: the kernel took its sockets out
        continue;
      }
      // A side that has closed reads no more, and leaves by itself with its last descriptor.
      const open = SIDES.filter((side) => (pairs.closedSides(slot) & (1 << side)) === 0);
      const empty = this.#isEmpty(slot, open, pass);
      if (entry.control.state === 'draining') {
        if (empty) this.#step(slot, entry, 'leaving');
      } else if (!entry.settled) {
        continue;
      } else if (!empty) {
        this.#step(slot, entry, 'draining');
      } else {
        for (const side of open) {
          this.#datapath.evict(slot, side);
          pairs.setStalled(slot, side, 0n);
          // tcp_bpf_sendmsg that finds no memory says EAGAIN and leaves edge-triggered writers without an edge.
          if (pairs.read(slot, entry.control)?.demotion === 'memory') this.#wake(slot, entry.control, side);
        }
        this.#draining.delete(slot);
        if (open.length === SIDES.length && pairs.change(slot, entry.control, 'observed') !== undefined) {
          pairs.setRetry(slot, entry.retryNs);
        }
      }
    }
  }

  /**
   * Whether the readers have taken all that was redirected to them, by the sums alone: a queue may be empty while a
   * sender that was counted still waits for the reader's lock (bpf_tcp_ingress). A stream that the guard has ended
   * stays where it is refused.
   */
  #isEmpty(slot: number, open: Side[], pass: number): boolean {
    const { pairs } = this.#datapath;
    if (SIDES.some((side) => pairs.overtaken(slot, side))) return false;
    return open.every((reader) => pairs.drained(slot, reader, pass) === pairs.redirectedBytes(slot, otherSide(reader)));
  }

  /** Moves a draining pair to the other of its two states. */
  #step(slot: number, entry: Draining, state: 'draining' | 'leaving'): void {
    const next = this.#datapath.pairs.change(slot, entry.control, state);
    if (next === undefined) this.#draining.delete(slot);
    else Object.assign(entry, { control: next, settled: false });
  }
}

/** How a pair is called in logs and on the command line. */
export function pairId(slot: number, control: Control): string {
  return `${String(slot)}.${String(control.generation)}`;
}

/** Why a pair is taken back that would be refused for this reason now. */
function demotionFor(refusal: string): string {
  if (['policy', 'observe', 'kernel', 'helper'].includes(refusal)) return 'policy';
  if (refusal === 'forged') return refusal;
  return refusal === 'program' || refusal === 'learned' ? 'program' : 'reader';
}

/** As proc_pid_status(5) words it; undefined if the process can't be seen. */
function processState(pid: number): string | undefined {
  try {
    return /^State:\s*(\S)/m.exec(readFileSync(`/proc/${String(pid)}/status`, 'utf8'))?.[1];
  } catch {
    return undefined;
  }
}

function nanosecondsFromNow(ms: number): bigint {
  return process.hrtime.bigint() + BigInt(Math.ceil(ms)) * NS_PER_MS;
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
