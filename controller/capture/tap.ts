/**
 * The kernel's half of a capture (bpf/capture.bpf.c), loaded for it and held by this process alone: nothing of it is
 * pinned, and it goes with the process however that ends.
 */
import { release } from 'node:os';
import { setImmediate, setTimeout } from 'node:timers/promises';

import { type BpfLink, type BpfMap, BpfObject, rcuBarrier, RingBuffer } from '../../addon/index.js';
import type { Datapath } from '../datapath/datapath.js';
import { Layout, Records } from '../datapath/layout.js';
import { UserError } from '../errors.js';
import { CAPTURE_FEATURES, requireKernel } from '../probe/kernel.js';
import { type CaptureRecord, RecordDecoder } from './record.js';
import type { PairName } from './streams.js';

/** The one element of the datapath's map `capture`. */
const ELEMENT = 0;
const KEY = Buffer.alloc(4);

/** Elements of an array map lie so many bytes apart, if they are not larger. */
const STRIDE = 8;

/** How long to leave a slow output alone, milliseconds. */
const PAUSE = 10;

export class Tap {
  readonly #object: BpfObject;
  readonly #slot: BpfMap;
  readonly #ring: BpfMap;
  readonly #decoder: RecordDecoder;
  readonly #settings: Records;
  readonly #lost;
  readonly #skipped: DataView;
  readonly #programId: number;
  #link: BpfLink | undefined;
  #reader: RingBuffer | undefined;
  #receive: (records: CaptureRecord[]) => void = () => undefined;
  #deliveries = 0;
  #wanted = false;

  /**
   * Loads it; {@link start} attaches.
   * @param snaplen bytes wanted of each message
   * @throws UserError if the kernel or the version that loaded the datapath can't capture, or a capture runs already
   */
  constructor(datapath: Datapath, objectFile: string, snaplen: number) {
    requireKernel(release(), CAPTURE_FEATURES);
    this.#slot = freeSlot(datapath);
    this.#object = BpfObject.open(objectFile);
    datapath.shareMaps(this.#object);
    this.#object.reuseMap('capture', this.#slot);
    this.#object.setMaxEntries('capture_skip', datapath.pairs.capacity);
    this.#object.load();
    this.#programId = this.#object.program('capture_message').id;
    this.#ring = this.#object.map('capture_ring');
    this.#skipped = new DataView(this.#object.map('capture_skip').mmap());
    const layout = new Layout(BpfObject.open(objectFile));
    this.#decoder = new RecordDecoder(layout);
    this.#settings = new Records(this.#object.map('capture_settings').mmap(), layout.size('capture_settings'));
    this.#settings.set(0, layout.field('capture_settings', 'snaplen'), snaplen);
    this.#lost = [layout.field('capture_settings', 'lost[0]'), layout.field('capture_settings', 'lost[1]')] as const;
  }

  /** Attaches; what comes goes to `receive`, many records at a time. */
  start(receive: (records: CaptureRecord[]) => void): void {
    this.#receive = receive;
    this.resume();
    this.#link = this.#object.program('capture_sent').attachTracepoint();
    this.#object.program('capture_message').attachTailCall(this.#slot, ELEMENT);
  }

  /** False when another capture has taken its place. */
  get attached(): boolean {
    return this.#slot.lookup(KEY)?.readUInt32LE() === this.#programId;
  }

  /** Messages that found no room, by enum direction_path. */
  get lost(): readonly [number, number] {
    return [this.#settings.get(0, this.#lost[0]), this.#settings.get(0, this.#lost[1])];
  }

  /** The kernel tells nothing more of this pair. */
  skip({ slot, generation }: PairName): void {
    this.#skipped.setUint32(slot * STRIDE, generation + 1, true);
  }

  /** Leaves what comes in the ring buffer, where it is lost when that is full. */
  pause(): void {
    this.#wanted = false;
    this.#reader?.close();
    this.#reader = undefined;
  }

  resume(): void {
    this.#wanted = true;
    this.#reader ??= new RingBuffer(this.#ring, (records) => {
      this.#deliveries++;
      this.#receive(records.map((record) => this.#decoder.decode(record)));
    });
  }

  /** Detaches, and resolves when all that was recorded has been received, or nobody wants it. */
  async finish(isUnwanted: () => boolean): Promise<void> {
    if (this.attached) this.#slot.delete(KEY);
    this.#link?.close();
    await rcuBarrier();
    for (let before = -1; !isUnwanted() && (before !== this.#deliveries || !this.#wanted);) {
      before = this.#deliveries;
      if (!this.#wanted) await setTimeout(PAUSE);
      // Between two of these the event loop asks the ring buffer once.
      await setImmediate();
      await setImmediate();
    }
  }

  close(): void {
    this.pause();
    this.#slot.close();
    this.#object.close();
  }
}

function freeSlot(datapath: Datapath): BpfMap {
  const slot = datapath.captureProgram();
  if (slot === undefined) {
    throw new UserError(
      `the datapath was loaded by version ${datapath.settings.version}, whose programs can't be captured: ` +
        'take it down with "slipstream-bpf down" and start it again',
    );
  }
  if (slot.lookup(KEY) === undefined) return slot;
  slot.close();
  throw new UserError('another capture of this datapath is running: end it first');
}
