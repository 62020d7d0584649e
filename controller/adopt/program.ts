/** The kernel's half of an adoption (bpf/adopt.bpf.c): loaded and attached for one round, held by this process alone. */
import { randomBytes } from 'node:crypto';

import { type BpfLink, type BpfMap, BpfObject } from '../../addon/index.js';
import type { Datapath } from '../datapath/datapath.js';
import { Layout, Records } from '../datapath/layout.js';
import type { Descriptor } from '../explain/host.js';
import { Borrower } from './borrow.js';
import type { SeenSocket } from './match.js';

/** What is asked of one socket. */
export interface Order {
  readonly order: 'ADOPT_LOOK' | 'ADOPT_CLIENT' | 'ADOPT_SERVER' | 'ADOPT_COUNT';
  /** The numbers that it must have. */
  readonly sequence: number;
  readonly expected: number;
  readonly key: bigint;
  readonly slot: number;
  readonly control: number;
}

const LOOK: Order = { order: 'ADOPT_LOOK', sequence: 0, expected: 0, key: 0n, slot: 0, control: 0 };

/** What came of it. */
export interface Answer {
  /** Without ADOPTION_, in lower case. */
  readonly answer: string;
  /** Undefined if the socket is gone, or none that is of interest. */
  readonly socket: SeenSocket | undefined;
  /** Bytes received as observe has them. */
  readonly counted: number;
}

const UNASKED: Answer = { answer: 'none', socket: undefined, counted: 0 };

const IPPROTO_TCP = 6;
/** ADOPTION_OPTION of bpf/abi.h; a unit test compares them. */
export const ADOPTION_OPTION = 0x61646f70;

/** What asks: one for all rounds, so that a socket that is locked is not waited for in each. */
export function makeBorrower(program: string, onStuck: (socket: Descriptor) => void): Borrower {
  return new Borrower({ program, level: IPPROTO_TCP, option: ADOPTION_OPTION, onStuck });
}

export class AdoptProgram {
  readonly #borrower: Borrower;
  readonly #signal: AbortSignal | undefined;
  /**
   * Each socket keeps its element of the map, by its inode: what is answered once nobody waits for it any more is in
   * nobody's way.
   */
  readonly #elements = new Map<number, number>();
  readonly #object: BpfObject;
  readonly #link: BpfLink;
  readonly #adoptions: BpfMap;
  readonly #records: Records;
  readonly #layout: Layout;
  readonly #nonce = randomBytes(8);
  readonly #f;
  readonly #orders: Record<string, number>;
  readonly #answers: string[];

  /**
   * Loads it and attaches it to the cgroup.
   * @param capacity sockets that can be asked in one round, at least 1
   * @param signal ends all asking
   * @throws NativeError with the verifier's reason
   */
  constructor(
    datapath: Datapath,
    objectFile: string,
    cgroupDir: string,
    capacity: number,
    borrower: Borrower,
    signal?: AbortSignal,
  ) {
    this.#borrower = borrower;
    this.#signal = signal;
    this.#object = BpfObject.open(objectFile);
    try {
      datapath.shareMaps(this.#object);
      this.#object.setMaxEntries('adoptions', capacity);
      this.#object.load();
      this.#adoptions = this.#object.map('adoptions');
      this.#object.map('adoption_settings').update(Buffer.alloc(4), this.#nonce);
      this.#layout = new Layout(BpfObject.open(objectFile));
      this.#records = new Records(this.#adoptions.mmap(), Math.ceil(this.#layout.size('adoption') / 8) * 8);
      const field = (name: string) => this.#layout.field('adoption', name);
      this.#f = {
        order: field('order'),
        answer: field('answer'),
        sequence: field('sequence'),
        expected: field('expected'),
        key: field('key'),
        slot: field('slot'),
        control: field('control'),
        side: field('side'),
        counted: field('counted'),
        received: field('received'),
        acked: field('acked'),
        cookie: field('cookie'),
      };
      this.#orders = this.#layout.values('adoption_order');
      this.#answers = this.#layout.labels('adoption_answer');
      this.#link = this.#object.program('adopt').attachCgroup(cgroupDir);
    } catch (error) {
      this.#object.close();
      throw error;
    }
  }

  /**
   * Asks sockets one after the other; the answers are in their order. Of a process with a locked socket there are none.
   * @throws if they can't be asked, or no longer
   */
  async ask(sockets: readonly (Descriptor & { readonly order?: Order })[]): Promise<Answer[]> {
    const results = await this.#borrower.set(
      sockets.map(({ order, ...socket }) => {
        const element = this.#elements.get(socket.inode) ?? this.#elements.size;
        this.#elements.set(socket.inode, element);
        this.#write(element, order ?? LOOK);
        return { ...socket, value: this.#request(element) };
      }),
      this.#signal,
    );
    return sockets.map(({ inode }, index) =>
      results[index] === undefined ? UNASKED : this.#read(this.#elements.get(inode) ?? -1, index),
    );
  }

  /** Detaches; nothing of it stays. */
  close(): void {
    this.#link.close();
    this.#object.close();
  }

  #request(element: number): Buffer {
    const request = Buffer.alloc(this.#layout.size('adoption_request'));
    this.#nonce.copy(request, this.#layout.field('adoption_request', 'nonce').offset);
    request.writeUInt32LE(element, this.#layout.field('adoption_request', 'index').offset);
    return request;
  }

  #write(element: number, { order, sequence, expected, key, slot, control }: Order): void {
    const r = this.#records;
    const f = this.#f;
    r.set(element, f.answer, 0);
    r.set(element, f.order, this.#orders[order] ?? 0);
    r.set(element, f.sequence, sequence);
    r.set(element, f.expected, expected);
    r.set(element, f.key, key);
    r.set(element, f.slot, slot);
    r.set(element, f.control, control);
  }

  #read(element: number, index: number): Answer {
    const r = this.#records;
    const f = this.#f;
    const answer = this.#answers[r.get(element, f.answer)] ?? 'none';
    const counted = r.get(element, f.counted);
    if (answer === 'none' || answer === 'unsuitable') return { answer, socket: undefined, counted };
    const control = r.get(element, f.control);
    const socket: SeenSocket = {
      index,
      cookie: r.getBig(element, f.cookie),
      quiet: answer !== 'busy',
      sequence: r.get(element, f.sequence),
      expected: r.get(element, f.expected),
      acked: r.get(element, f.acked),
      received: r.get(element, f.received),
      slot:
        control === 0
          ? undefined
          : { slot: r.get(element, f.slot), control, side: r.get(element, f.side), key: r.getBig(element, f.key) },
    };
    return { answer, socket, counted };
  }
}
