/** The kernel's half of an adoption (bpf/adopt.bpf.c): loaded and attached for one round, held by this process alone. */
import { randomBytes } from 'node:crypto';

import { type BpfLink, type BpfMap, BpfObject, setSocketOptions } from '../../addon/index.js';
import type { Datapath } from '../datapath/datapath.js';
import { Layout, Records } from '../datapath/layout.js';
import type { Descriptor } from '../explain/host.js';
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

const IPPROTO_TCP = 6;
/** ADOPTION_OPTION of bpf/abi.h; a unit test compares them. */
export const ADOPTION_OPTION = 0x61646f70;

export class AdoptProgram {
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
   * @throws NativeError with the verifier's reason
   */
  constructor(datapath: Datapath, objectFile: string, cgroupDir: string, capacity: number) {
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

  /** Asks sockets one after the other; the answers are in their order. */
  async ask(sockets: readonly (Descriptor & { readonly order?: Order })[]): Promise<Answer[]> {
    await setSocketOptions(
      sockets.map(({ pid, descriptor, inode, order }, index) => {
        this.#write(index, order ?? LOOK);
        return { process: pid, descriptor, inode, value: this.#request(index) };
      }),
      IPPROTO_TCP,
      ADOPTION_OPTION,
    );
    return sockets.map((_, index) => this.#read(index));
  }

  /** Detaches; nothing of it stays. */
  close(): void {
    this.#link.close();
    this.#object.close();
  }

  #request(index: number): Buffer {
    const request = Buffer.alloc(this.#layout.size('adoption_request'));
    this.#nonce.copy(request, this.#layout.field('adoption_request', 'nonce').offset);
    request.writeUInt32LE(index, this.#layout.field('adoption_request', 'index').offset);
    return request;
  }

  #write(index: number, { order, sequence, expected, key, slot, control }: Order): void {
    const r = this.#records;
    const f = this.#f;
    r.set(index, f.answer, 0);
    r.set(index, f.order, this.#orders[order] ?? 0);
    r.set(index, f.sequence, sequence);
    r.set(index, f.expected, expected);
    r.set(index, f.key, key);
    r.set(index, f.slot, slot);
    r.set(index, f.control, control);
  }

  #read(index: number): Answer {
    const r = this.#records;
    const f = this.#f;
    const answer = this.#answers[r.get(index, f.answer)] ?? 'none';
    const counted = r.get(index, f.counted);
    if (answer === 'none' || answer === 'unsuitable') return { answer, socket: undefined, counted };
    const control = r.get(index, f.control);
    const socket: SeenSocket = {
      index,
      cookie: r.getBig(index, f.cookie),
      quiet: answer !== 'busy',
      sequence: r.get(index, f.sequence),
      expected: r.get(index, f.expected),
      acked: r.get(index, f.acked),
      received: r.get(index, f.received),
      slot:
        control === 0
          ? undefined
          : { slot: r.get(index, f.slot), control, side: r.get(index, f.side), key: r.getBig(index, f.key) },
    };
    return { answer, socket, counted };
  }
}
