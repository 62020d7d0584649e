/**
 * The pair table as the controller sees it: the kernel's own memory, one slot a
 * pair. State changes are compare-and-swap on the control word (bpf/abi.h), so a
 * decision taken on an old reading never touches a later pair.
 */
import { type Field, type Layout, Records } from './layout.js';

export const SIDES = [0, 1] as const;
export type Side = (typeof SIDES)[number];

/** The peer's side. */
export function otherSide(side: Side): Side {
  return side === 0 ? 1 : 0;
}

export const STATES = [
  'free',
  'half',
  'joining',
  'observed',
  'candidate',
  'approved',
  'inserted',
  'draining',
  'leaving',
  'closed',
] as const;
export type State = (typeof STATES)[number];

/** A pair's control word: which pair it was, and its state, when it was read. */
export interface Control {
  readonly word: number;
  readonly generation: number;
  readonly state: State;
}

/** One end of a connection. */
export interface End {
  readonly address: string;
  readonly port: number;
  readonly remoteAddress: string;
  readonly remotePort: number;
  readonly family: 4 | 6;
  readonly cgroupId: bigint;
  readonly netns: number;
  /** Process that last received on this end; 0 before the first receive. */
  readonly pid: number;
  readonly program: string;
  readonly evidence: number;
  readonly receivedBytes: number;
  readonly receives: number;
}

/** What one end sent. */
export interface Direction {
  readonly path: 'tcp' | 'direct';
  readonly held: boolean;
  readonly redirectedBytes: number;
  readonly redirectedMessages: number;
  readonly passedMessages: number;
  readonly switches: number;
  /** Reason of the last message that passed, if any did. */
  readonly lastPass: string | undefined;
  /** TCP bytes were taken before redirected ones: the stream is broken, nothing more is sent. */
  readonly overtaken: boolean;
  /** Since when the reader of this direction has taken nothing; CLOCK_MONOTONIC, 0n: it has not stalled. */
  readonly stalledNs: bigint;
}

/** A copy of one slot. */
export interface PairRecord {
  readonly slot: number;
  readonly control: Control;
  readonly closedSides: number;
  readonly createdNs: bigint;
  readonly candidateNs: bigint;
  readonly insertedNs: bigint;
  readonly retryNs: bigint;
  readonly promotions: number;
  /** It was a connection before the datapath was there. */
  readonly adopted: boolean;
  /** Turns wanted of this pair; 0: the global setting. */
  readonly promoteAfter: number;
  /** What was seen since the window of observation began: changes of the receiving side, receives, bytes. */
  readonly window: { readonly turns: number; readonly receives: number; readonly bytes: number };
  readonly refusal: string;
  readonly demotion: string;
  readonly backlogLimit: number;
  readonly ends: readonly [End, End];
  readonly directions: readonly [Direction, Direction];
}

/** A process with a descriptor of a socket; both may be out of date, which the cookie tells. */
export interface SocketHolder {
  pid: number;
  descriptor: number;
  /** SO_COOKIE of the socket. */
  cookie: bigint;
}

/** Result of the iterator's attempt to insert one socket. */
export type InsertResult = { kind: 'pending' } | { kind: 'done' } | { kind: 'refused'; reason: string };

const STATE_BITS = 8;
const STATE_MASK = (1 << STATE_BITS) - 1;

type PerSide = readonly [Field, Field];

export class PairTable {
  readonly capacity: number;
  readonly #records: Records;
  readonly #f;
  readonly #refusals: string[];
  readonly #demotions: string[];
  readonly #passes: string[];
  readonly #notices: { EMPTY: number; MEMORY: number };

  /** @param memory the mapped values of the map `pairs`. */
  constructor(layout: Layout, memory: ArrayBuffer, capacity: number) {
    const stride = Math.ceil(layout.size('pair') / 8) * 8;
    this.capacity = capacity;
    this.#records = new Records(memory, stride);
    const one = (path: string): Field => layout.field('pair', path);
    const two = (path: string): PerSide => [one(path.replace('%', '0')), one(path.replace('%', '1'))];
    this.#f = {
      control: one('control'),
      closed: one('closed'),
      key: one('key'),
      backlogLimit: one('backlog_limit'),
      forbidden: one('forbidden'),
      hold: two('hold[%]'),
      reason: one('reason'),
      demotion: one('demotion'),
      promoteAfter: one('promote_after'),
      turns: one('turns'),
      windowReceives: one('window_receives'),
      windowBytes: one('window_bytes'),
      createdNs: one('created_ns'),
      candidateNs: one('candidate_ns'),
      insertedNs: one('inserted_ns'),
      retryNs: one('retry_ns'),
      cgroup: two('cgroup[%]'),
      netns: two('netns[%]'),
      promotions: one('promotions'),
      adopted: one('adopted'),
      insert: two('insert[%]'),
      drained: two('drained[%]'),
      drainPass: two('drain_pass[%]'),
      notice: two('notice[%]'),
      local: two('address[%].local'),
      remote: two('address[%].remote'),
      localPort: two('address[%].local_port'),
      remotePort: two('address[%].remote_port'),
      redirectedBytes: two('direction[%].redirected_bytes'),
      redirectedMessages: two('direction[%].redirected_messages'),
      passedMessages: two('direction[%].passed_messages'),
      fenced: two('direction[%].fenced'),
      path: two('direction[%].path'),
      lastPass: two('direction[%].last_pass'),
      switches: two('direction[%].switches'),
      overtaken: two('direction[%].overtaken'),
      behind: two('direction[%].behind'),
      leaveSince: two('direction[%].leave_since'),
      crossing: two('reader[%].crossing'),
      stalledNs: two('stalled_ns[%]'),
      receivedBytes: two('reader[%].received_bytes'),
      receives: two('reader[%].receives'),
      thread: two('reader[%].thread'),
      evidence: two('reader[%].evidence'),
      comm: two('reader[%].comm'),
      nudge: two('reader[%].nudge'),
      descriptor: two('reader[%].descriptor'),
      cookie: two('cookie[%]'),
    };
    this.#refusals = layout.labels('refusal_reason');
    this.#demotions = layout.labels('demotion_reason');
    this.#passes = layout.labels('pass_reason');
    const { NOTICE_EMPTY = 0, NOTICE_MEMORY = 0 } = layout.values('notice');
    this.#notices = { EMPTY: NOTICE_EMPTY, MEMORY: NOTICE_MEMORY };
  }

  control(slot: number): Control {
    return decodeControl(this.#records.get(slot, this.#f.control));
  }

  /** Moves a pair on if it is still in the state that was read. */
  change(slot: number, control: Control, state: State): Control | undefined {
    const word = ((control.word & ~STATE_MASK) | STATES.indexOf(state)) >>> 0;
    return this.#records.exchange(slot, this.#f.control, control.word, word) ? decodeControl(word) : undefined;
  }

  /** Slots in the wanted states, in order. */
  *slots(...states: State[]): Generator<[number, Control]> {
    const wanted = STATES.map((state) => states.includes(state));
    for (let slot = 0; slot < this.capacity; slot++) {
      const word = this.#records.get(slot, this.#f.control);
      if (wanted[word & STATE_MASK] === true) yield [slot, decodeControl(word)];
    }
  }

  /** Number of slots in each state. */
  tally(): Record<State, number> {
    const tally = Object.fromEntries(STATES.map((state) => [state, 0])) as Record<State, number>;
    for (let slot = 0; slot < this.capacity; slot++) {
      tally[STATES[this.#records.get(slot, this.#f.control) & STATE_MASK] ?? 'closed']++;
    }
    return tally;
  }

  /**
   * Copies a slot; undefined if it is not `control`'s pair any more when the copy
   * is done.
   */
  read(slot: number, control: Control = this.control(slot)): PairRecord | undefined {
    const r = this.#records;
    const f = this.#f;
    const record: PairRecord = {
      slot,
      control,
      closedSides: r.get(slot, f.closed),
      createdNs: r.getBig(slot, f.createdNs),
      candidateNs: r.getBig(slot, f.candidateNs),
      insertedNs: r.getBig(slot, f.insertedNs),
      retryNs: r.getBig(slot, f.retryNs),
      promotions: r.get(slot, f.promotions),
      adopted: r.get(slot, f.adopted) !== 0,
      promoteAfter: r.get(slot, f.promoteAfter),
      window: {
        turns: r.get(slot, f.turns),
        receives: r.get(slot, f.windowReceives),
        bytes: r.get(slot, f.windowBytes),
      },
      refusal: this.#refusals[r.get(slot, f.reason)] ?? 'unknown',
      demotion: this.#demotions[r.get(slot, f.demotion)] ?? 'unknown',
      backlogLimit: r.get(slot, f.backlogLimit),
      ends: [this.#end(slot, 0), this.#end(slot, 1)],
      directions: [this.#direction(slot, 0), this.#direction(slot, 1)],
    };
    return this.control(slot).generation === control.generation ? record : undefined;
  }

  closedSides(slot: number): number {
    return this.#records.get(slot, this.#f.closed);
  }

  redirectedBytes(slot: number, side: Side): number {
    return this.#records.get(slot, this.#f.redirectedBytes[side]);
  }

  redirectedMessages(slot: number, side: Side): number {
    return this.#records.get(slot, this.#f.redirectedMessages[side]);
  }

  passedMessages(slot: number, side: Side): number {
    return this.#records.get(slot, this.#f.passedMessages[side]);
  }

  /** Bytes that an end has received, redirected or not. */
  receivedBytes(slot: number, reader: Side): number {
    return this.#records.get(slot, this.#f.receivedBytes[reader]);
  }

  cgroupId(slot: number, side: Side): bigint {
    return this.#records.getBig(slot, this.#f.cgroup[side]);
  }

  /** Server's initial sequence number << 32 | client's. */
  key(slot: number): bigint {
    return this.#records.getBig(slot, this.#f.key);
  }

  candidateNs(slot: number): bigint {
    return this.#records.getBig(slot, this.#f.candidateNs);
  }

  promotions(slot: number): number {
    return this.#records.get(slot, this.#f.promotions);
  }

  /**
   * Sets what redirect will go by, before the pair becomes APPROVED. Each
   * direction starts on TCP behind a new fence (invariant 2).
   * @param backlogLimit bytes a direction may have redirected and unread
   * @param forbidden evidence bits of a reader that stop redirection to it
   */
  prepare(slot: number, backlogLimit: number, forbidden: number): void {
    const r = this.#records;
    const f = this.#f;
    this.setLimits(slot, backlogLimit, forbidden);
    r.set(slot, f.reason, 0);
    for (const side of SIDES) {
      r.set(slot, f.path[side], 0);
      r.set(slot, f.behind[side], 0);
      r.set(slot, f.leaveSince[side], 0);
      r.set(slot, f.crossing[side], 0n);
      r.set(slot, f.fenced[side], 0);
      r.set(slot, f.insert[side], 0);
    }
  }

  /** Changes the limits of a pair whose directions may be redirecting. */
  setLimits(slot: number, backlogLimit: number, forbidden: number): void {
    this.#records.set(slot, this.#f.backlogLimit, backlogLimit);
    this.#records.set(slot, this.#f.forbidden, forbidden);
  }

  insertResult(slot: number, side: Side): InsertResult {
    const value = this.#records.get(slot, this.#f.insert[side]);
    if (value === 0) return { kind: 'pending' };
    return value > 0 ? { kind: 'done' } : { kind: 'refused', reason: this.#refusals[-value] ?? 'unknown' };
  }

  markInserted(slot: number, nowNs: bigint): void {
    this.#records.set(slot, this.#f.insertedNs, nowNs);
    this.#records.add(slot, this.#f.promotions, 1);
  }

  /** Bytes redirected to a reader that it has consumed, as of the iterator's run `pass`. */
  drained(slot: number, reader: Side, pass: number): number | undefined {
    if (this.#records.get(slot, this.#f.drainPass[reader]) !== pass) return undefined;
    return this.#records.get(slot, this.#f.drained[reader]);
  }

  /** The same as of the iterator's last run that met this socket, with its number; 0: none has. */
  lastDrained(slot: number, reader: Side): { pass: number; bytes: number } {
    const pass = this.#records.get(slot, this.#f.drainPass[reader]);
    return { pass, bytes: this.#records.get(slot, this.#f.drained[reader]) };
  }

  /** What the iterator's run `pass` saw of a socket in the sockmap. */
  notice(slot: number, side: Side, pass: number): { emptyQueue: boolean; shortOfMemory: boolean } | undefined {
    if (this.#records.get(slot, this.#f.drainPass[side]) !== pass) return undefined;
    const bits = this.#records.get(slot, this.#f.notice[side]);
    return { emptyQueue: (bits & this.#notices.EMPTY) !== 0, shortOfMemory: (bits & this.#notices.MEMORY) !== 0 };
  }

  /** What an inserted pair was last judged by, for comparison: who reads each end, and how. */
  readers(slot: number): string {
    return SIDES.map((side) => {
      const program = this.#records.text(slot, this.#f.comm[side]);
      return `${String(this.#records.get(slot, this.#f.evidence[side]))} ${program}`;
    }).join('\n');
  }

  /** Whether a reader is to be woken; says so once. */
  takeNudge(slot: number, reader: Side): boolean {
    return this.#records.exchange(slot, this.#f.nudge[reader], 1, 0);
  }

  /** Where a socket was last seen in use; undefined if nobody has received from it yet. */
  holder(slot: number, side: Side): SocketHolder | undefined {
    const descriptor = this.#records.get(slot, this.#f.descriptor[side]);
    const pid = Number(this.#records.getBig(slot, this.#f.thread[side]) >> 32n);
    if (descriptor === 0 || pid === 0) return undefined;
    return { pid, descriptor: descriptor - 1, cookie: this.#records.getBig(slot, this.#f.cookie[side]) };
  }

  /** Reason of the last message of this direction that passed, whenever that was. */
  lastPass(slot: number, sender: Side): string | undefined {
    return this.#passes[this.#records.get(slot, this.#f.lastPass[sender])];
  }

  /** Whether TCP bytes of this direction were taken before redirected ones. */
  overtaken(slot: number, sender: Side): boolean {
    return this.#records.get(slot, this.#f.overtaken[sender]) !== 0;
  }

  stalledNs(slot: number, reader: Side): bigint {
    return this.#records.getBig(slot, this.#f.stalledNs[reader]);
  }

  /** @param ns since when the reader has taken nothing, CLOCK_MONOTONIC; 0n: it has not stalled */
  setStalled(slot: number, reader: Side, ns: bigint): void {
    this.#records.set(slot, this.#f.stalledNs[reader], ns);
  }

  /** Keeps a direction on TCP, or lets it redirect again. */
  hold(slot: number, side: Side, held: boolean): void {
    this.#records.set(slot, this.#f.hold[side], held ? 1 : 0);
  }

  setRefusal(slot: number, reason: string): void {
    this.#records.set(slot, this.#f.reason, Math.max(0, this.#refusals.indexOf(reason)));
  }

  setDemotion(slot: number, reason: string): void {
    this.#records.set(slot, this.#f.demotion, Math.max(0, this.#demotions.indexOf(reason)));
  }

  /** No candidate before this time (CLOCK_MONOTONIC, nanoseconds). */
  setRetry(slot: number, ns: bigint): void {
    this.#records.set(slot, this.#f.retryNs, ns);
  }

  /** Turns wanted of this pair before it is a candidate again; 0: the global setting. */
  setPromoteAfter(slot: number, turns: number): void {
    this.#records.set(slot, this.#f.promoteAfter, turns);
  }

  #end(slot: number, side: Side): End {
    const r = this.#records;
    const f = this.#f;
    const local = r.bytes(slot, f.local[side]);
    const thread = r.getBig(slot, f.thread[side]);
    return {
      address: formatAddress(local),
      port: r.get(slot, f.localPort[side]),
      remoteAddress: formatAddress(r.bytes(slot, f.remote[side])),
      remotePort: r.get(slot, f.remotePort[side]),
      family: isMapped(local) ? 4 : 6,
      cgroupId: this.cgroupId(slot, side),
      netns: r.get(slot, f.netns[side]),
      pid: Number(thread >> 32n),
      program: r.text(slot, f.comm[side]),
      evidence: r.get(slot, f.evidence[side]),
      receivedBytes: r.get(slot, f.receivedBytes[side]),
      receives: r.get(slot, f.receives[side]),
    };
  }

  #direction(slot: number, side: Side): Direction {
    const r = this.#records;
    const f = this.#f;
    const passedMessages = this.passedMessages(slot, side);
    return {
      path: r.get(slot, f.path[side]) === 1 ? 'direct' : 'tcp',
      held: r.get(slot, f.hold[side]) !== 0,
      redirectedBytes: this.redirectedBytes(slot, side),
      redirectedMessages: this.redirectedMessages(slot, side),
      passedMessages,
      switches: r.get(slot, f.switches[side]),
      lastPass: passedMessages === 0 ? undefined : this.lastPass(slot, side),
      overtaken: this.overtaken(slot, side),
      stalledNs: this.stalledNs(slot, otherSide(side)),
    };
  }
}

/** Splits a control word into generation and state. */
export function decodeControl(word: number): Control {
  return {
    word: word >>> 0,
    generation: word >>> STATE_BITS,
    state: STATES[word & STATE_MASK] ?? 'closed',
  };
}

/** Whether 16 address bytes are an IPv4 address. */
export function isMapped(bytes: Buffer): boolean {
  return bytes.subarray(0, 10).every((byte) => byte === 0) && bytes[10] === 0xff && bytes[11] === 0xff;
}

/** Text form of 16 address bytes: RFC 5952, v4-mapped as dotted quad. */
export function formatAddress(bytes: Buffer): string {
  if (isMapped(bytes)) return bytes.subarray(12).join('.');
  const groups = Array.from({ length: 8 }, (_, i) => bytes.readUInt16BE(2 * i).toString(16));
  return new URL(`http://[${groups.join(':')}]/`).hostname.slice(1, -1);
}
