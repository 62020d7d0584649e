/**
 * The pair table as the controller sees it: the kernel's own memory, one slot a
 * pair. State changes are compare-and-swap on the control word (bpf/abi.h), so a
 * decision taken on an old reading never touches a later pair.
 */
import { type Control, DrainTable, otherSide, type Side, SIDES, type State } from './drainable.js';
import { type Field, type Layout, Records } from './layout.js';

export * from './drainable.js';

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
  /** What the next message would use, if nothing else keeps it from that. */
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
  /** Runs in one direction are redirected, too: it was measured to be faster. */
  readonly stream: boolean;
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

type PerSide = readonly [Field, Field];

export class PairTable extends DrainTable {
  readonly #records: Records;
  readonly #f;
  readonly #refusals: string[];
  readonly #demotions: string[];
  readonly #passes: string[];
  readonly #notices: { EMPTY: number; MEMORY: number };

  /** @param memory the mapped values of the map `pairs`. */
  constructor(layout: Layout, memory: ArrayBuffer, capacity: number) {
    super(layout, memory, capacity);
    const stride = Math.ceil(layout.size('pair') / 8) * 8;
    this.#records = new Records(memory, stride);
    const one = (path: string): Field => layout.field('pair', path);
    const two = (path: string): PerSide => [one(path.replace('%', '0')), one(path.replace('%', '1'))];
    this.#f = {
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
      streamRetryNs: one('stream_retry_ns'),
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
      redirectedMessages: two('direction[%].redirected_messages'),
      passedMessages: two('direction[%].passed_messages'),
      fenced: two('direction[%].fenced'),
      path: two('direction[%].path'),
      lastPass: two('direction[%].last_pass'),
      switches: two('direction[%].switches'),
      behind: two('direction[%].behind'),
      leaveSince: two('direction[%].leave_since'),
      stream: two('direction[%].stream'),
      crossing: two('reader[%].crossing'),
      stalledNs: two('stalled_ns[%]'),
      receivedBytes: two('reader[%].received_bytes'),
      receives: two('reader[%].receives'),
      thread: two('reader[%].thread'),
      evidence: two('evidence[%]'),
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
      closedSides: this.closedSides(slot),
      createdNs: r.getBig(slot, f.createdNs),
      candidateNs: r.getBig(slot, f.candidateNs),
      insertedNs: r.getBig(slot, f.insertedNs),
      retryNs: this.retryNs(slot),
      promotions: r.get(slot, f.promotions),
      adopted: r.get(slot, f.adopted) !== 0,
      stream: this.isStream(slot),
      promoteAfter: r.get(slot, f.promoteAfter),
      window: {
        turns: r.get(slot, f.turns),
        receives: r.get(slot, f.windowReceives),
        bytes: r.get(slot, f.windowBytes),
      },
      refusal: this.refusal(slot),
      demotion: this.demotion(slot),
      backlogLimit: r.get(slot, f.backlogLimit),
      ends: [this.#end(slot, 0), this.#end(slot, 1)],
      directions: [this.#direction(slot, 0, control.state), this.#direction(slot, 1, control.state)],
    };
    r.keepOrder();
    return this.control(slot).generation === control.generation ? record : undefined;
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

  /** Whether either end has this port, of its own or of its peer. */
  hasPort(slot: number, port: number): boolean {
    return SIDES.some(
      (side) =>
        this.#records.get(slot, this.#f.localPort[side]) === port ||
        this.#records.get(slot, this.#f.remotePort[side]) === port,
    );
  }

  /** Why it was last taken back; `none` if it never was. */
  demotion(slot: number): string {
    return this.#demotions[this.#records.get(slot, this.#f.demotion)] ?? 'unknown';
  }

  refusal(slot: number): string {
    return this.#refusals[this.#records.get(slot, this.#f.reason)] ?? 'unknown';
  }

  retryNs(slot: number): bigint {
    return this.#records.getBig(slot, this.#f.retryNs);
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
   * @param stream whether runs in one direction are redirected, too
   */
  prepare(slot: number, backlogLimit: number, forbidden: number, stream = false): void {
    const r = this.#records;
    const f = this.#f;
    this.setLimits(slot, backlogLimit, forbidden);
    r.set(slot, f.reason, 0);
    for (const side of SIDES) {
      r.set(slot, f.path[side], 0);
      r.set(slot, f.behind[side], 0);
      r.set(slot, f.leaveSince[side], 0);
      r.set(slot, f.stream[side], stream ? 1 : 0);
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

  /** @param counts false: it says nothing of how long promotions of this pair last */
  markInserted(slot: number, nowNs: bigint, counts = true): void {
    this.#records.set(slot, this.#f.insertedNs, nowNs);
    if (counts) this.#records.add(slot, this.#f.promotions, 1);
  }

  /** drained() as of the iterator's last run that met this socket, with its number; 0: none has. */
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

  /** No candidate as a stream before this time (CLOCK_MONOTONIC, nanoseconds). */
  setStreamRetry(slot: number, ns: bigint): void {
    this.#records.set(slot, this.#f.streamRetryNs, ns);
  }

  /** Bytes received in the present window of observation. */
  windowBytes(slot: number): number {
    return this.#records.get(slot, this.#f.windowBytes);
  }

  /** Starts the observation anew, of a CANDIDATE: nobody else writes then. */
  startWindow(slot: number): void {
    for (const field of [this.#f.turns, this.#f.windowReceives, this.#f.windowBytes]) {
      this.#records.set(slot, field, field.size === 8 ? 0n : 0);
    }
  }

  /** Whether runs in one direction are redirected, too. */
  isStream(slot: number): boolean {
    return this.#records.get(slot, this.#f.stream[0]) !== 0;
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

  #direction(slot: number, side: Side, state: State): Direction {
    const r = this.#records;
    const f = this.#f;
    const passedMessages = this.passedMessages(slot, side);
    return {
      // The word is that of the last message; outside this state the next one uses TCP.
      path: state === 'inserted' && r.get(slot, f.path[side]) === 1 ? 'direct' : 'tcp',
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
