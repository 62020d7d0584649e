/**
 * The controller proper: turns what the datapath reports into promotions,
 * demotions and drains. Decisions are pure functions in ../decisions; this file
 * carries them out and keeps the order that the invariants ask for.
 */
import { readFileSync } from 'node:fs';
import { constants, release } from 'node:os';
import { getSystemErrorName } from 'node:util';

import type { Logger } from 'pino';

import { RingBuffer } from '../../addon/index.js';
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
import { streamBacklog } from '../decisions/streams.js';
import { type CompiledPolicy, minimumPromoteAfter } from '../policy/evaluate.js';
import { type LearnedProgram, LearnedPrograms } from '../policy/learned.js';
import { programOf } from '../explain/host.js';
import type { GateFacts } from '../probe/findings.js';
import { readHelperPorts } from '../probe/helper-ports.js';
import { backlogs } from '../view/backlog.js';
import { foldGoneCgroups } from '../view/totals.js';
import { abandon, Drain } from './drain.js';
import { MeasuredPairs } from './measured-pairs.js';
import { Streams } from './streams.js';
import { Waker } from './waker.js';

/** At most one run of the iterator in this time, milliseconds. */
const PROMOTE_INTERVAL = 5;
/** How often windows are judged and lost events looked for, milliseconds. */
const SWEEP_INTERVAL = 500;
/** How often backlogs are looked at and vanished cgroups folded, milliseconds. */
const WATCH_INTERVAL = 5000;
/** A reader that takes nothing of what waits for this long has stalled, milliseconds, unless an option says otherwise. */
const STALL_AFTER = 30_000;
const NEVER = 2n ** 63n;
const NS_PER_MS = 1_000_000n;
/** What waking says of a process, a descriptor or a socket that is gone. */
const NOBODY: readonly number[] = [constants.errno.ESRCH, constants.errno.EBADF, constants.errno.ENOENT];

export interface ControllerOptions {
  datapath: Datapath;
  cgroups: CgroupNames;
  policy: CompiledPolicy;
  log: Logger;
  /** The compiled probe/slipstream-borrow.c. Undefined: nobody is woken, for sockets that don't need it. */
  borrowProgram: string | undefined;
  /** A reader that takes nothing of what waits for this long has stalled, milliseconds; default 30 s. */
  stallAfter?: number;
  /** So many times faster a stream must be to be redirected; default as decisions/streams.ts has it. */
  streamGain?: number | undefined;
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

type Approval = Extract<Verdict, { kind: 'approve' }>;

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
  readonly #drain: Drain;
  /** Insertions that failed in a row, by slot; cleared with the pair. */
  readonly #failures = new Map<number, { generation: number; count: number }>();
  readonly #measured: MeasuredPairs;
  readonly #streams: Streams;
  readonly #waker: Waker | undefined;
  /** Why the last waker could not be run, as it was logged. */
  #wakerError = '';
  #waiting = new Map<string, Waiting>();
  /** Directions whose guard has been reported. */
  readonly #overtaken = new Set<string>();
  /** A promoted pair could not be judged, as a cgroup of it is pending. */
  #unjudged = false;
  #policy: CompiledPolicy;
  #helperPorts = readHelperPorts();
  #watchTimer: NodeJS.Timeout | undefined;
  #ring: RingBuffer | undefined;
  #sweepTimer: NodeJS.Timeout | undefined;
  #promoteTimer: NodeJS.Timeout | undefined;
  #lastPromote = -Infinity;
  #stopped = false;

  constructor(options: ControllerOptions) {
    this.#options = options;
    this.#learned = options.learned ?? new LearnedPrograms(undefined);
    this.#stallAfter = options.stallAfter ?? STALL_AFTER;
    this.#datapath = options.datapath;
    this.#cgroups = options.cgroups;
    this.#policy = options.policy;
    this.#log = options.log;
    this.#drain = new Drain(options.datapath, {
      onEvicted: (slot, control, side) => {
        const { pairs } = this.#datapath;
        pairs.setStalled(slot, side, 0n);
        // tcp_bpf_sendmsg that finds no memory says EAGAIN and leaves edge-triggered writers without an edge.
        if (pairs.read(slot, control)?.demotion === 'memory') this.#wake(slot, control, side);
      },
      onDrained: (slot, retryNs) => {
        this.#datapath.pairs.setRetry(slot, retryNs);
      },
      onError: (error) => {
        this.#log.error({ error: String(error) }, 'draining failed');
      },
    });
    this.#bits = options.datapath.layout.values('evidence');
    this.#eventTypes = options.datapath.layout.values('event_type');
    this.#measured = new MeasuredPairs(
      options.datapath,
      {
        inserted: () => this.#inserted.keys(),
        demote: (slot, control) => this.demote(slot, control, 'measured', 0n),
        approve: (slot, control) => {
          this.#approveAgain(slot, control);
        },
      },
      options.log,
    );
    this.#streams = new Streams(
      options.datapath,
      {
        approve: (slot, control) => {
          this.#approveAgain(slot, control, true);
        },
        demote: (slot, control, reason) => {
          this.demote(slot, control, reason, 0n);
        },
      },
      options.log,
      options.streamGain,
    );
    this.#waker = options.borrowProgram === undefined ? undefined : this.#makeWaker(options.borrowProgram);
  }

  /** Takes over the table as it is and starts to listen. */
  start(): void {
    const { settings } = this.#datapath;
    settings.leave = false;
    settings.paused = false;
    settings.markAlive(process.hrtime.bigint());
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
    clearInterval(this.#sweepTimer);
    this.#streams.stop();
    await this.#measured.stop();
    this.#stopped = true;
    clearInterval(this.#watchTimer);
    clearTimeout(this.#promoteTimer);
    this.#promoteTimer = undefined;
    this.#ring?.close();
    this.#ring = undefined;
    await this.#drain.stop();
    await this.#waker?.close();
  }

  /**
   * Puts another policy into force: pairs that it takes out are demoted, pairs
   * that the old one refused may try again.
   */
  applyPolicy(policy: CompiledPolicy): void {
    this.#policy = policy;
    this.#tune();
    this.#drain.retryAtOnce();
    for (const [slot, control] of this.#datapath.pairs.slots('observed', 'approved', 'inserted')) {
      const record = this.#datapath.pairs.read(slot, control);
      if (record === undefined) continue;
      if (control.state === 'observed') this.#datapath.pairs.setStreamRetry(slot, 0n);
      if (control.state !== 'observed' && this.#isPending(record)) {
        // Neither taken back nor let in for what is not known.
        if (control.state === 'approved') this.#abandon(slot, control);
        else this.#unjudged = true;
        continue;
      }
      // What is in, or about to be, has shown its turns.
      const verdict = this.#judge(record, control.state === 'observed' ? undefined : Infinity);
      if (control.state === 'inserted') {
        if (verdict.kind === 'approve') {
          if (record.stream && verdict.streams === 'tcp') this.demote(slot, control, 'policy', 0n);
          else this.#setLimits(slot, verdict);
        } else {
          const reason = verdict.kind === 'refuse' ? demotionFor(verdict.reason) : 'policy';
          if (this.demote(slot, control, reason, NEVER) && verdict.kind === 'refuse') {
            this.#datapath.pairs.setRefusal(slot, verdict.reason);
          }
        }
      } else if (control.state === 'approved') {
        if (verdict.kind === 'approve') {
          this.#setLimits(slot, verdict);
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

  /** Judges what could not be judged before: the cgroups are known that were pending, or an event was lost. */
  judgeAgain(): void {
    if (this.#stopped || this.#datapath.settings.paused) return;
    if (this.#unjudged) {
      this.#unjudged = false;
      this.applyPolicy(this.#policy);
    }
    for (const [slot, control] of this.#datapath.pairs.slots('candidate')) this.#consider(slot, control);
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
    this.#drain.add(slot, draining, retryNs);
    return true;
  }

  /**
   * Ends promotion and drains every pair.
   * @param timeoutMs how long to wait for readers to empty their queues
   * @returns slots that still hold a socket in the sockmap
   */
  async takeDown(timeoutMs: number): Promise<number[]> {
    const { pairs, settings } = this.#datapath;
    settings.paused = true;
    clearTimeout(this.#promoteTimer);
    this.#promoteTimer = undefined;
    for (const [slot, control] of pairs.slots('candidate', 'approved', 'inserted', 'draining', 'leaving')) {
      if (control.state === 'inserted') this.demote(slot, control, 'requested', NEVER);
      else if (control.state === 'candidate' || control.state === 'approved') this.#abandon(slot, control);
      else if (!this.#drain.has(slot)) this.#drain.add(slot, control, NEVER);
    }
    return this.#drain.empty(timeoutMs);
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

  /** Whether a cgroup of its ends is neither known nor known to be gone. */
  #isPending(record: PairRecord | undefined): boolean {
    return record?.ends.some(({ cgroupId }) => this.#cgroups.isPending(cgroupId)) === true;
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
    if (this.#isPending(record)) return; // stays a candidate, on TCP
    if (this.#streams.has(slot, control)) return;
    const { streamBytes } = this.#datapath.settings;
    const stream = streamBytes > 0 && record.window.bytes >= streamBytes;
    const verdict = this.#judge(record, stream ? Infinity : undefined);
    switch (verdict.kind) {
      case 'wait':
        pairs.setPromoteAfter(slot, verdict.turns);
        pairs.change(slot, control, 'observed');
        break;
      case 'refuse':
        this.#refuse(slot, control, verdict.reason, verdict.retry);
        break;
      case 'approve':
        if (this.#measured.keeps(slot, control)) break;
        if (stream) this.#streams.measure(slot, control, verdict.streams);
        else this.#approve(slot, control, verdict, false);
        break;
    }
  }

  #approve(slot: number, control: Control, verdict: Approval, stream: boolean): void {
    const { pairs } = this.#datapath;
    pairs.prepare(slot, stream ? streamBacklog(verdict.backlog) : verdict.backlog, verdict.forbidden, stream);
    const approved = pairs.change(slot, control, 'approved');
    if (approved !== undefined) this.#approved.set(slot, approved);
    this.#schedulePromote();
  }

  #setLimits(slot: number, { backlog, forbidden }: Approval): void {
    const { pairs } = this.#datapath;
    pairs.setLimits(slot, pairs.isStream(slot) ? streamBacklog(backlog) : backlog, forbidden);
  }

  /** A pair that has shown what is asked for, and is on TCP only because it was measured there. */
  #approveAgain(slot: number, control: Control, stream = this.#datapath.pairs.isStream(slot)): void {
    const record = this.#datapath.pairs.read(slot, control);
    if (record === undefined || this.#isPending(record)) return;
    const verdict = this.#judge(record, Infinity);
    if (verdict.kind === 'approve') this.#approve(slot, control, verdict, stream);
    else if (verdict.kind === 'refuse') this.#refuse(slot, control, verdict.reason, verdict.retry);
  }

  /** An inserted pair has a reader, or a way of reading, that was not judged yet. */
  #reconsider(slot: number, control: Control): void {
    const record = this.#datapath.pairs.read(slot, control);
    if (record === undefined) return;
    if (this.#isPending(record)) {
      this.#unjudged = true;
      return;
    }
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
    if (holder !== undefined) this.#waker?.wake({ ...holder, pair: pairId(slot, control) });
  }

  #makeWaker(program: string): Waker {
    return new Waker({
      program,
      onAnswer: ({ pair, pid, descriptor }, error) => {
        this.#wakerError = '';
        // The socket may have closed, or gone to another process: then there is nobody to wake.
        if (error === 0 || NOBODY.includes(error)) {
          this.#log.debug({ pair, pid, descriptor, done: error === 0 }, 'woken');
        } else this.#log.warn({ pair, pid, error: getSystemErrorName(-error) }, 'a process could not be woken');
      },
      onStuck: ({ pair, pid }) => {
        this.#log.warn(
          { pair, pid, program: programOf(pid) },
          'a process has had a socket locked for longer than a system call takes: its readers are not woken as long as ' +
            'that lasts',
        );
      },
      onError: (error) => {
        if (String(error) === this.#wakerError) return;
        this.#wakerError = String(error);
        this.#log.error({ error: this.#wakerError }, 'readers can not be woken: tried again and again');
      },
    });
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
    this.#approved.delete(slot);
    if (abandon(this.#datapath, slot, control)) this.#datapath.pairs.setRetry(slot, 0n);
  }

  #schedulePromote(): void {
    if (this.#promoteTimer !== undefined || this.#stopped) return;
    const wait = Math.max(0, this.#lastPromote + PROMOTE_INTERVAL - performance.now());
    this.#promoteTimer = setTimeout(() => {
      this.#promoteTimer = undefined;
      this.#promoteApproved();
    }, wait);
  }

  /** Runs the iterator once for all approved pairs and looks at what it did. */
  #promoteApproved(): void {
    this.#lastPromote = performance.now();
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
      // Back from being measured: that it was away says nothing of it.
      const again = this.#measured.has(slot, control) && pairs.promotions(slot) > 0;
      pairs.markInserted(slot, now, !again);
      controllerCounters.promoted();
      this.#failures.delete(slot);
      this.#track(slot, inserted);
      if (!again) this.#options.onPromoted?.(Number(now - candidate) / 1e9, pairId(slot, control));
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
    const { pairs } = this.#datapath;
    for (const [slot, control] of pairs.slots('candidate', 'approved', 'inserted', 'draining', 'leaving')) {
      if (control.state === 'candidate') this.#consider(slot, control);
      // What was measured of a stream is not known any more.
      else if (control.state === 'inserted' && pairs.isStream(slot)) this.demote(slot, control, 'measured', 0n);
      else if (control.state === 'inserted') this.#track(slot, control);
      else if (control.state !== 'approved') this.#drain.add(slot, control, 0n);
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
    settings.markAlive(process.hrtime.bigint());
    for (const [slot, before] of this.#inserted) {
      const control = pairs.control(slot);
      if (control.generation !== before.generation || control.state !== 'inserted') {
        this.#inserted.delete(slot);
        continue;
      }
      const now = this.#messages(slot);
      const window = { redirected: now.redirected - before.redirected, passed: now.passed - before.passed };
      if (isStreaming(window) && !this.#measured.has(slot, control) && !this.#streams.has(slot, control)) {
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
    this.#measured.poll();
    this.#streams.sweep();
    for (const [slot, failure] of this.#failures) {
      if (pairs.control(slot).generation !== failure.generation) this.#failures.delete(slot);
    }
    this.judgeAgain();
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
    const now = Math.round(performance.now());
    const stalls = new Set<string>();
    const pass = this.#datapath.runPromote();
    for (const { slot, control, side, waiting: bytes, consumed } of backlogs(this.#datapath, pass)) {
      const reader = otherSide(side);
      const key = `${pairId(slot, control)}.${String(side)}`;
      const before = this.#waiting.get(key);
      const found = judgeWaiting(before, consumed, now, this.#stallAfter);
      // What can't be learned yet is looked at again.
      if (found.stalled && this.#isPending(pairs.read(slot, control))) found.stalled = false;
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
        if (this.#overtaken.has(id) || this.#isPending(pairs.read(slot, control))) continue;
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
