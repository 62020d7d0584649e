/** A table of pairs in ordinary memory, laid out as the compiled object says. */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { BpfObject } from '../../addon/index.js';
import { type Field, Layout, Records } from '../../controller/datapath/layout.js';
import { PairTable, type State, STATES } from '../../controller/datapath/pair-table.js';

export const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..', '..');

const OBJECT = join(ROOT, 'build', 'bpf', 'slipstream.bpf.o');

let shared: Layout | undefined;

/** Types are read without privileges. */
export function objectLayout(): Layout {
  if (!existsSync(OBJECT)) throw new Error('the BPF object is missing: run scripts/build');
  return (shared ??= new Layout(BpfObject.open(OBJECT)));
}

export interface FakeTable {
  pairs: PairTable;
  records: Records;
  memory: ArrayBuffer;
  field: (path: string) => Field;
  /** Writes a control word as the kernel side would. */
  put: (slot: number, generation: number, state: State) => void;
}

export function fakeTable(capacity: number): FakeTable {
  const layout = objectLayout();
  const size = Math.ceil(layout.size('pair') / 8) * 8;
  const memory = new ArrayBuffer(size * capacity);
  const records = new Records(memory, size);
  const field = (path: string): Field => layout.field('pair', path);
  return {
    pairs: new PairTable(layout, memory, capacity),
    records,
    memory,
    field,
    put(slot, generation, state) {
      records.set(slot, field('control'), ((generation << 8) | STATES.indexOf(state)) >>> 0);
    },
  };
}
