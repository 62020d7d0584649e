/** Compiles the datapath with something taken out. */
import { spawnSync } from 'node:child_process';
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

import type { Mutant } from './mutants.js';

/** What is needed of a mutant to build it. */
export type Change = Pick<Mutant, 'name' | 'file' | 'from' | 'to' | 'also'>;

export const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
const clang = process.env['CLANG'] ?? 'clang-19';

/** Compiles the datapath with a mutation, or without one, in a new directory; returns the object file. */
export function build(mutant: Change | undefined, dir: string): string {
  cpSync(join(root, 'bpf'), dir, { recursive: true });
  if (mutant !== undefined) {
    const file = join(dir, mutant.file);
    let text = readFileSync(file, 'utf8');
    for (const { from, to } of [mutant, ...(mutant.also ?? [])]) {
      const parts = text.split(from);
      if (parts.length !== 2) throw new Error(`${mutant.name}: "${from}" stands ${String(parts.length - 1)} times`);
      text = parts.join(to);
    }
    writeFileSync(file, text);
  }
  const object = join(dir, 'mutant.bpf.o');
  const machine = process.arch === 'arm64' ? 'aarch64' : 'x86_64';
  const flags = ['-target', 'bpf', '-mcpu=v3', '-O2', '-g', '-I', dir, '-I', `/usr/include/${machine}-linux-gnu`];
  const result = spawnSync(clang, [...flags, '-c', join(dir, 'slipstream.bpf.c'), '-o', object], { encoding: 'utf8' });
  if (result.status !== 0) throw new Error(`${mutant?.name ?? 'unchanged'}: ${result.stderr}`);
  return object;
}
