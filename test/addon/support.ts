// What the addon's tests share: the compiled fixture, and clean-up that also happens after a failure.
import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, rmdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

import { BpfObject, fileSystemType, mountBpf } from '../../addon/index.js';

export { needsRoot, skip } from '../skip.js';

/** The cgroup v2 mount: its own on a hybrid host. */
export const CGROUP_ROOT = ['/sys/fs/cgroup', '/sys/fs/cgroup/unified'].find(
  (folder) => existsSync(folder) && fileSystemType(folder) === 'cgroup2',
)!;

const compiled = new Map<string, string>();
let compiledFolder: string | undefined;

/** The path of the compiled fixture, with the program that this adds. */
export function fixture(added?: 'REJECTED' | 'MAP_ITERATOR'): string {
  const name = `${added ?? 'fixture'}.bpf.o`;
  const known = compiled.get(name);
  if (known !== undefined) return known;
  if (compiledFolder === undefined) {
    compiledFolder = mkdtempSync(join(tmpdir(), 'slipstream-fixture-'));
    chmodSync(compiledFolder, 0o755); // a test reads it as another user
  }
  const target = join(compiledFolder, name);
  const machine = { x64: 'x86_64', arm64: 'aarch64' }[process.arch as string] ?? process.arch;
  execFileSync(process.env['BPF_CLANG'] ?? 'clang-19', [
    ...['-target', 'bpf', '-mcpu=v3', '-O2', '-g', '-Wall', '-Werror'],
    ...['-idirafter', `/usr/include/${machine}-linux-gnu`],
    `-DGETPPID=${process.arch === 'x64' ? 110 : 173}`,
    ...(added === undefined ? [] : [`-D${added}`]),
    ...['-c', script('fixture.bpf.c'), '-o', target],
  ]);
  compiled.set(name, target);
  return target;
}

after(() => {
  if (compiledFolder !== undefined) rmSync(compiledFolder, { recursive: true });
});

/** The path of a file in fixtures/. */
export function script(name: string): string {
  return fileURLToPath(new URL(`fixtures/${name}`, import.meta.url));
}

/** Undoes what a test made, last first, whether it passed or failed. Call it in describe(). */
export function cleanUpAfterEach(): (undo: () => void) => void {
  const undos: (() => void)[] = [];
  afterEach(() => {
    const failures: unknown[] = [];
    for (let undo = undos.pop(); undo; undo = undos.pop()) {
      try {
        undo();
      } catch (error) {
        failures.push(error);
      }
    }
    if (failures.length > 0) throw new AggregateError(failures, 'clean-up failed');
  });
  return (undo) => undos.push(undo);
}

type Later = ReturnType<typeof cleanUpAfterEach>;

export function temporaryFolder(later: Later): string {
  const folder = mkdtempSync(join(tmpdir(), 'slipstream-addon-'));
  later(() => {
    rmSync(folder, { recursive: true });
  });
  return folder;
}

export function temporaryBpffs(later: Later): string {
  const folder = temporaryFolder(later);
  mountBpf(folder);
  later(() => {
    execFileSync('umount', [folder]);
  });
  return folder;
}

let cgroups = 0;

export function temporaryCgroup(later: Later, name = 'test', parent = CGROUP_ROOT): string {
  const folder = join(parent, `slipstream-${process.pid}-${++cgroups}-${name}`);
  mkdirSync(folder);
  later(() => {
    rmdirSync(folder);
  });
  return folder;
}

export function loadFixture(later: Later, added?: Parameters<typeof fixture>[0]): BpfObject {
  const object = BpfObject.open(fixture(added));
  later(() => {
    object.close();
  });
  object.setMaxEntries('numbers', 100);
  object.load();
  return object;
}

/** The fixture's struct fixture_control, as shared memory. */
export class Control {
  readonly #view: DataView;
  readonly #offsets: Map<string, number>;

  constructor(object: BpfObject) {
    const { members } = object.structLayout('fixture_control');
    this.#offsets = new Map(members.map((member) => [member.name, member.offset]));
    const map = object.map('control');
    this.#view = new DataView(map.mmap());
    map.close(); // the memory stays
  }

  #at(name: string): number {
    const offset = this.#offsets.get(name);
    if (offset === undefined) throw new Error(`no ${name} in struct fixture_control`);
    return offset;
  }

  /** Getppid calls that fixture_syscall has counted. */
  get calls(): number {
    return Number(this.#view.getBigUint64(this.#at('calls'), true));
  }

  get lost(): number {
    return this.#view.getUint32(this.#at('lost'), true);
  }

  get messages(): number {
    return this.#view.getUint32(this.#at('messages'), true);
  }

  /** Lets this process's getppid calls count, each with `burst` records. */
  watch(burst: number): void {
    this.#view.setUint32(this.#at('burst'), burst, true);
    this.#view.setUint32(this.#at('process'), process.pid, true);
  }
}

/** Makes one getppid call. */
export function getppid(): number {
  return process.ppid;
}

/** Collects what only a WeakRef or nothing refers to. */
export async function collectGarbage(): Promise<void> {
  await setImmediate(); // what a WeakRef has been made for or asked for stays until then
  setFlagsFromString('--expose_gc');
  (runInNewContext('gc') as () => void)();
  await setImmediate(); // finalizers
}

export function u32(...values: number[]): Buffer {
  return Buffer.from(new Uint32Array(values).buffer);
}

export function u64(value: number): Buffer {
  return Buffer.from(new BigUint64Array([BigInt(value)]).buffer);
}
