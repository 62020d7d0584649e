/** A ConfigMap in a directory, replaced as the kubelet does it (AtomicWriter of k8s.io/kubernetes/pkg/volume/util). */
import { mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export class ConfigMapVolume {
  readonly dir: string;
  #version = 0;

  constructor(dir: string, files: Record<string, string>) {
    this.dir = dir;
    mkdirSync(dir, { recursive: true });
    this.update(files);
    for (const name of Object.keys(files)) symlinkSync(join('..data', name), join(dir, name));
  }

  /** All files at once: what a reader sees is the old or the new version. */
  update(files: Record<string, string>): void {
    const old = this.#name();
    this.#version++;
    mkdirSync(join(this.dir, this.#name()));
    for (const [name, text] of Object.entries(files)) writeFileSync(join(this.dir, this.#name(), name), text);
    symlinkSync(this.#name(), join(this.dir, '..data_tmp'));
    renameSync(join(this.dir, '..data_tmp'), join(this.dir, '..data'));
    rmSync(join(this.dir, old), { recursive: true, force: true });
  }

  #name(): string {
    return `..2026_11_23_02_22_58.${String(this.#version)}`;
  }
}
