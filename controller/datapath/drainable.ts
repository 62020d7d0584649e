/**
 * The drain contract: all that has to stay the same from one ABI version to the next, so that a later version of this
 * project can take the connections of a datapath back to TCP that an earlier one has pinned. Offsets may change, they
 * come from the BTF of the pinned maps; the names below and what they mean (bpf/abi.h) may not.
 */
import { type BpfLink, type BpfMap, NativeError } from '../../addon/index.js';
import { type Field, type Layout, Records } from './layout.js';

export const SIDES = [0, 1] as const;
export type Side = (typeof SIDES)[number];

/** The peer's side. */
export function otherSide(side: Side): Side {
  return side === 0 ? 1 : 0;
}

/** By number, which is part of the contract. What is new comes last. */
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

const STATE_BITS = 8;
const STATE_MASK = (1 << STATE_BITS) - 1;

/** Splits a control word into generation and state. */
export function decodeControl(word: number): Control {
  return {
    word: word >>> 0,
    generation: word >>> STATE_BITS,
    state: STATES[word & STATE_MASK] ?? 'closed',
  };
}

export const DRAIN_CONTRACT = {
  /** `sockets` has the socket of a slot's side at 2 × slot + side. */
  maps: ['pairs', 'sockets', 'settings'],
  /** `promote` is the iterator that reports what was drained, `identify` what is attached to the cgroup. */
  links: ['promote', 'identify'],
  /** Their sizes in bytes, by C path; % is a side. */
  members: {
    pair: {
      control: 4,
      closed: 4,
      /** Above 0: the iterator has put this side into the sockmap. */
      'insert[%]': 4,
      'drained[%]': 8,
      'drain_pass[%]': 4,
      'direction[%].redirected_bytes': 8,
      'direction[%].overtaken': 1,
    },
    settings: { abi_version: 4, paused: 4, pass: 4, leave: 4, attached_cgroup: 8 },
  },
} as const;

/** What of the contract these types do not keep; undefined: nothing. */
export function contractBreach(layout: Layout): string | undefined {
  for (const [struct, members] of Object.entries(DRAIN_CONTRACT.members)) {
    for (const [path, size] of Object.entries(members)) {
      for (const side of path.includes('%') ? SIDES : [0]) {
        const name = path.replace('%', String(side));
        try {
          if (layout.field(struct, name).size !== size) return `${struct}.${name} of ${String(size)} bytes`;
        } catch (error) {
          if (error instanceof NativeError && error.code !== 'ENOENT') throw error;
          return `${struct}.${name}`;
        }
      }
    }
  }
  return undefined;
}

type PerSide = readonly [Field, Field];

/** As much of the pair table as a drain goes by. */
export class DrainTable {
  readonly capacity: number;
  readonly #records: Records;
  readonly #c;

  /** @param memory the mapped values of the map `pairs`. */
  constructor(layout: Layout, memory: ArrayBuffer, capacity: number) {
    this.capacity = capacity;
    this.#records = new Records(memory, Math.ceil(layout.size('pair') / 8) * 8);
    const one = (path: string): Field => layout.field('pair', path);
    const two = (path: string): PerSide => [one(path.replace('%', '0')), one(path.replace('%', '1'))];
    this.#c = {
      control: one('control'),
      closed: one('closed'),
      insert: two('insert[%]'),
      drained: two('drained[%]'),
      drainPass: two('drain_pass[%]'),
      redirectedBytes: two('direction[%].redirected_bytes'),
      overtaken: two('direction[%].overtaken'),
    };
  }

  control(slot: number): Control {
    return decodeControl(this.#records.load(slot, this.#c.control));
  }

  /** Moves a pair on if it is still in the state that was read. */
  change(slot: number, control: Control, state: State): Control | undefined {
    const word = ((control.word & ~STATE_MASK) | STATES.indexOf(state)) >>> 0;
    return this.#records.exchange(slot, this.#c.control, control.word, word) ? decodeControl(word) : undefined;
  }

  /** Slots in the wanted states, in order. */
  *slots(...states: State[]): Generator<[number, Control]> {
    const wanted = STATES.map((state) => states.includes(state));
    for (let slot = 0; slot < this.capacity; slot++) {
      const word = this.#records.load(slot, this.#c.control);
      if (wanted[word & STATE_MASK] === true) yield [slot, decodeControl(word)];
    }
  }

  /** Number of slots in each state. */
  tally(): Record<State, number> {
    const tally = Object.fromEntries(STATES.map((state) => [state, 0])) as Record<State, number>;
    for (let slot = 0; slot < this.capacity; slot++) {
      tally[STATES[this.#records.get(slot, this.#c.control) & STATE_MASK] ?? 'closed']++;
    }
    return tally;
  }

  closedSides(slot: number): number {
    return this.#records.get(slot, this.#c.closed);
  }

  redirectedBytes(slot: number, side: Side): number {
    return this.#records.get(slot, this.#c.redirectedBytes[side]);
  }

  /** Whether the iterator put this side's socket into the sockmap when the pair was APPROVED. */
  wasInserted(slot: number, side: Side): boolean {
    return this.#records.get(slot, this.#c.insert[side]) > 0;
  }

  /** Bytes redirected to a reader that it has consumed, as of the iterator's run `pass`. */
  drained(slot: number, reader: Side, pass: number): number | undefined {
    if (this.#records.get(slot, this.#c.drainPass[reader]) !== pass) return undefined;
    return this.#records.get(slot, this.#c.drained[reader]);
  }

  /** Whether TCP bytes of this direction were taken before redirected ones. */
  overtaken(slot: number, sender: Side): boolean {
    return this.#records.get(slot, this.#c.overtaken[sender]) !== 0;
  }
}

/** As much of struct settings. */
export class DrainSettings {
  readonly #records: Records;
  readonly #c;

  constructor(layout: Layout, memory: ArrayBuffer) {
    this.#records = new Records(memory, layout.size('settings'));
    const one = (path: string): Field => layout.field('settings', path);
    this.#c = {
      abiVersion: one('abi_version'),
      paused: one('paused'),
      leave: one('leave'),
      pass: one('pass'),
      attachedCgroup: one('attached_cgroup'),
    };
  }

  /** 0 until the datapath that wrote it was complete. */
  get abiVersion(): number {
    return this.#records.get(0, this.#c.abiVersion);
  }
  set abiVersion(version: number) {
    this.#records.set(0, this.#c.abiVersion, version);
  }

  /** True: no new pairs and no new candidates. */
  get paused(): boolean {
    return this.#records.get(0, this.#c.paused) !== 0;
  }
  set paused(paused: boolean) {
    this.#records.set(0, this.#c.paused, paused ? 1 : 0);
  }

  /** True: `down` asks the running controller to end and leave the datapath to it. */
  get leave(): boolean {
    return this.#records.get(0, this.#c.leave) !== 0;
  }
  set leave(leave: boolean) {
    this.#records.set(0, this.#c.leave, leave ? 1 : 0);
  }

  get attachedCgroup(): bigint {
    return this.#records.getBig(0, this.#c.attachedCgroup);
  }
  set attachedCgroup(id: bigint) {
    this.#records.set(0, this.#c.attachedCgroup, id);
  }

  /** Numbers the iterator's next run. Never 0, which means "never" in a slot. */
  nextPass(): number {
    const next = (this.#records.get(0, this.#c.pass) + 1) % 2 ** 32 || 1;
    this.#records.set(0, this.#c.pass, next);
    return next;
  }
}

/** A datapath whose pairs can be taken back to TCP, whatever version loaded it. */
export class Drainable<Pairs extends DrainTable = DrainTable, Of extends DrainSettings = DrainSettings> {
  readonly pairs: Pairs;
  readonly settings: Of;
  readonly #sockets: BpfMap;
  readonly #promote: BpfLink;

  constructor(pairs: Pairs, settings: Of, sockets: BpfMap, promote: BpfLink) {
    this.pairs = pairs;
    this.settings = settings;
    this.#sockets = sockets;
    this.#promote = promote;
  }

  /** Runs the iterator over all paired sockets; returns the number of the run. */
  runPromote(): number {
    const pass = this.settings.nextPass();
    this.#promote.runIterator();
    return pass;
  }

  /** Takes one socket out of the sockmap. What it has queued is lost: drain first. */
  evict(slot: number, side: Side): boolean {
    try {
      return this.#sockets.delete(socketKey(slot, side));
    } catch (error) {
      // An empty index is EINVAL to a sockmap (__sock_map_delete), not ENOENT.
      if (error instanceof NativeError && error.code === 'EINVAL') return false;
      throw error;
    }
  }

  /** Whether the sockmap holds a socket at this index. */
  holdsSocket(slot: number, side: Side): boolean {
    return this.#sockets.lookup(socketKey(slot, side)) !== undefined;
  }

  /** Slots whose sockets are in the sockmap, whatever their pair's state. */
  occupiedSlots(): number[] {
    const slots: number[] = [];
    for (let slot = 0; slot < this.pairs.capacity; slot++) {
      if (SIDES.some((side) => this.holdsSocket(slot, side))) slots.push(slot);
    }
    return slots;
  }
}

function socketKey(slot: number, side: Side): Buffer {
  const key = Buffer.alloc(4);
  key.writeUInt32LE(2 * slot + side);
  return key;
}
