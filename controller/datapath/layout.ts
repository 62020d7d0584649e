/**
 * Offsets and names of the kernel contract (bpf/abi.h), taken from the BTF of the
 * compiled object, so that no second copy of a structure can go stale.
 */
import type { StructLayout, StructMember } from '../../addon/index.js';

/** What is needed of an object file: its types. */
export interface TypeSource {
  structLayout(name: string): StructLayout;
  enumValues(name: string): Record<string, number>;
}

/** A scalar inside a structure. */
export interface Field {
  /** Bytes from the structure's start. */
  readonly offset: number;
  /** Bytes: 1, 2, 4 or 8; for character arrays their whole length. */
  readonly size: number;
  readonly signed: boolean;
}

export class Layout {
  readonly #source: TypeSource;
  readonly #structs = new Map<string, StructLayout>();

  constructor(source: TypeSource) {
    this.#source = source;
  }

  /** Size of a structure in bytes, its alignment padding included. */
  size(struct: string): number {
    return this.#struct(struct).size;
  }

  /**
   * Finds a member by its C path, for instance `direction[1].redirected_bytes`.
   * @throws if the object has no such member: object and controller were built apart.
   */
  field(struct: string, path: string): Field {
    let current: string | undefined = struct;
    let field: Field = { offset: 0, size: 0, signed: false };
    for (const part of path.split('.')) {
      const [, name, index] = /^(\w+)(?:\[(\d+)\])?$/.exec(part) ?? [];
      const member: StructMember | undefined =
        current === undefined ? undefined : this.#struct(current).members.find((m) => m.name === name);
      if (member === undefined) throw new Error(`the BPF object has no member ${struct}.${path}`);
      const item = index === undefined ? 0 : Number(index);
      if (index !== undefined && item >= (member.count ?? 0)) {
        throw new Error(`${struct}.${path} lies outside an array of ${String(member.count ?? 0)}`);
      }
      field = {
        offset: field.offset + member.offset + item * (member.elementSize ?? 0),
        size: index === undefined ? member.size : (member.elementSize ?? 0),
        signed: member.signed,
      };
      current = member.typeName;
    }
    return field;
  }

  /** Number of elements of an array member. */
  count(struct: string, name: string): number {
    return this.#struct(struct).members.find((m) => m.name === name)?.count ?? 0;
  }

  /** An enumeration as value by enumerator, in C's spelling. */
  values(name: string): Record<string, number> {
    return this.#source.enumValues(name);
  }

  /** Value of one enumerator. */
  value(name: string, enumerator: string): number {
    const value = this.values(name)[enumerator];
    if (value === undefined) throw new Error(`the BPF object has no enumerator ${enumerator}`);
    return value;
  }

  /**
   * Names for people and metric labels, by value: `PASS_LOW_WATER_MARK` becomes
   * `low_water_mark`. A closing `…_REASONS` is the length, not a reason.
   */
  labels(name: string): string[] {
    const labels: string[] = [];
    for (const [enumerator, value] of Object.entries(this.values(name))) {
      if (!enumerator.endsWith('_REASONS')) {
        labels[value] = enumerator.slice(enumerator.indexOf('_') + 1).toLowerCase();
      }
    }
    return labels;
  }

  #struct(name: string): StructLayout {
    let layout = this.#structs.get(name);
    if (layout === undefined) {
      layout = this.#source.structLayout(name);
      this.#structs.set(name, layout);
    }
    return layout;
  }
}

/** A word for atomic operations whose effect is the order they keep. */
const nobodys = new Int32Array(1);

/** Typed access to an array of one structure, mostly in shared memory. */
export class Records {
  readonly #view: DataView;
  readonly #stride: number;
  readonly #buffer: ArrayBuffer;
  #words: Int32Array | undefined;

  /** @param base where in the buffer the array begins */
  constructor(buffer: ArrayBuffer, stride: number, base = 0) {
    this.#buffer = buffer;
    this.#view = new DataView(buffer, base);
    this.#stride = stride;
  }

  /** Reads a scalar. 64-bit counters become numbers: exact up to 2^53. */
  get(index: number, field: Field): number {
    const at = index * this.#stride + field.offset;
    switch (field.size) {
      case 1:
        return this.#view.getUint8(at);
      case 2:
        return this.#view.getUint16(at, true);
      case 4:
        return field.signed ? this.#view.getInt32(at, true) : this.#view.getUint32(at, true);
      case 8:
        return Number(this.#view.getBigUint64(at, true));
      default:
        throw new RangeError(`not a scalar: ${String(field.size)} bytes`);
    }
  }

  /** Reads a 64-bit value that is a name and not a quantity. */
  getBig(index: number, field: Field): bigint {
    return this.#view.getBigUint64(index * this.#stride + field.offset, true);
  }

  set(index: number, field: Field, value: number | bigint): void {
    const at = index * this.#stride + field.offset;
    switch (field.size) {
      case 1:
        this.#view.setUint8(at, Number(value));
        break;
      case 2:
        this.#view.setUint16(at, Number(value), true);
        break;
      case 4:
        this.#view.setUint32(at, Number(value), true);
        break;
      case 8:
        this.#view.setBigUint64(at, BigInt(value), true);
        break;
      default:
        throw new RangeError(`not a scalar: ${String(field.size)} bytes`);
    }
  }

  add(index: number, field: Field, value: number): void {
    this.set(index, field, this.get(index, field) + value);
  }

  /** The bytes of a member, copied. */
  bytes(index: number, field: Field): Buffer {
    return Buffer.from(
      Buffer.from(this.#buffer, this.#view.byteOffset + index * this.#stride + field.offset, field.size),
    );
  }

  /** A NUL-terminated string. */
  text(index: number, field: Field): string {
    const bytes = this.bytes(index, field);
    const end = bytes.indexOf(0);
    return bytes.toString('utf8', 0, end < 0 ? bytes.length : end);
  }

  setText(index: number, field: Field, text: string): void {
    const bytes = Buffer.from(this.#buffer, this.#view.byteOffset + index * this.#stride + field.offset, field.size);
    bytes.fill(0);
    bytes.write(text.slice(0, field.size - 1), 'utf8');
  }

  /** Reads a 32-bit member before whatever is read after it. */
  load(index: number, field: Field): number {
    this.#words ??= new Int32Array(this.#buffer, 0, this.#buffer.byteLength >> 2);
    return Atomics.load(this.#words, (this.#view.byteOffset + index * this.#stride + field.offset) >> 2) >>> 0;
  }

  /** What was read before it was read before what is read after it; a processor of arm64 may do otherwise. */
  keepOrder(): void {
    Atomics.exchange(nobodys, 0, 0);
  }

  /** Compare-and-swap of a 32-bit member; true if it held `from`. */
  exchange(index: number, field: Field, from: number, to: number): boolean {
    const words = new Int32Array(this.#buffer, this.#view.byteOffset + index * this.#stride + field.offset, 1);
    return Atomics.compareExchange(words, 0, from | 0, to | 0) === (from | 0);
  }

  /** Likewise of a 64-bit member. */
  exchangeBig(index: number, field: Field, from: bigint, to: bigint): boolean {
    const words = new BigUint64Array(this.#buffer, this.#view.byteOffset + index * this.#stride + field.offset, 1);
    return Atomics.compareExchange(words, 0, from, to) === from;
  }
}
