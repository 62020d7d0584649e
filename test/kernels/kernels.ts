/** Debian's kernels for virtual machines, found and fetched by an apt with folders of its own: the machine's stays as it is. */
import { cpSync, existsSync, mkdirSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { pack } from './archive.js';
import type { Cache } from './cache.js';
import { must } from './shell.js';

const SUITES = ['bookworm', 'bookworm-backports', 'trixie', 'trixie-backports', 'sid'];
const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';
const IMAGE = /^linux-image-((\d+)\.(\d+)(?:\.(\d+))?(?:\+[^-]+)?(?:-(\d+))?-cloud-amd64)$/;

/** Modules that no guest has a device or a disk for. */
const NOT_FOR_GUESTS = [
  'kernel/sound',
  'kernel/fs',
  ...['ata', 'block', 'gpu', 'hid', 'hv', 'infiniband', 'input', 'md', 'media', 'nvme', 'scsi', 'target', 'usb'].map(
    (name) => `kernel/drivers/${name}`,
  ),
];

export interface Kernel {
  /** As `uname -r` says it. */
  readonly release: string;
  /** major, minor, patch, and what Debian counts. */
  readonly level: readonly number[];
}

export interface Files {
  /** What a boot loader starts. */
  readonly image: string;
  /** cpio archive with its modules. */
  readonly modules: string;
}

/** The kernel that a package brings; undefined: none that can be used here. */
export function kernelOf(packageName: string): Kernel | undefined {
  const [, release, ...numbers] = IMAGE.exec(packageName) ?? [];
  return release === undefined ? undefined : { release, level: numbers.map((number) => Number(number || 0)) };
}

/** The latest one of a version such as `6.12` or `7`; of all, if it is `latest`. */
export function latest(kernels: readonly Kernel[], version: string): Kernel | undefined {
  const wanted = version === 'latest' ? [] : version.split('.').map(Number);
  return kernels
    .filter(({ level }) => wanted.every((number, place) => level[place] === number))
    .toSorted((a, b) => a.level.map((number, place) => number - (b.level[place] ?? 0)).find(Boolean) ?? 0)
    .at(-1);
}

export class Kernels {
  readonly #cache: Cache;
  readonly #mirror: string;
  #known: Kernel[] | undefined;

  constructor(cache: Cache, mirror: string) {
    this.#cache = cache;
    this.#mirror = mirror;
  }

  /** @throws Error if no suite has one. */
  async find(version: string, say: (line: string) => void): Promise<Kernel> {
    this.#known ??= await this.#list(say);
    const found = latest(this.#known, version);
    if (found !== undefined) return found;
    const versions = new Set(this.#known.map(({ level }) => level.slice(0, 2).join('.')));
    throw new Error(`none of ${SUITES.join(', ')} has a kernel ${version}, but ${[...versions].sort().join(', ')}`);
  }

  /** Fetched and unpacked. */
  async fetch({ release }: Kernel, say: (line: string) => void): Promise<Files> {
    const dir = await this.#cache.folder(`linux-${release}`, async (part) => {
      say(`guest: Linux ${release}`);
      // One package, or since 7.2 three.
      const names = ['image', 'binary', 'modules'].map((kind) => `linux-${kind}-${release}`);
      const wanted: string[] = [];
      for (const name of names) {
        if ((await this.#apt('apt-cache', 'pkgnames', name)).split('\n').includes(name)) wanted.push(name);
      }
      await must('sh', '-c', 'cd "$0" && exec apt-get "$@"', part, ...this.#options(), 'download', ...wanted);
      const unpacked = join(part, 'unpacked');
      for (const deb of readdirSync(part).filter((name) => name.endsWith('.deb'))) {
        await must('dpkg-deb', '-x', join(part, deb), unpacked);
        rmSync(join(part, deb));
      }
      await arrange(unpacked, release, part);
    });
    return { image: join(dir, 'vmlinuz'), modules: join(dir, 'modules.cpio') };
  }

  async #list(say: (line: string) => void): Promise<Kernel[]> {
    const lists = this.#cache.path('apt/lists');
    const age = Date.now() - (statSync(join(lists, 'partial'), { throwIfNoEntry: false })?.mtimeMs ?? 0);
    if (age > 24 * 3600 * 1000) {
      say(`guest: which kernels ${SUITES.join(', ')} have`);
      for (const name of ['apt/lists/partial', 'apt/archives/partial'])
        mkdirSync(this.#cache.path(name), { recursive: true });
      writeFileSync(this.#cache.path('apt/status'), '');
      const sources = SUITES.map((suite) => `deb [arch=amd64 signed-by=${KEYRING}] ${this.#mirror} ${suite} main\n`);
      writeFileSync(this.#cache.path('apt/sources.list'), sources.join(''));
      await this.#apt('apt-get', 'update');
    }
    return (await this.#apt('apt-cache', 'pkgnames', 'linux-image-'))
      .split('\n')
      .flatMap((name) => kernelOf(name) ?? []);
  }

  #apt(command: string, ...args: string[]): Promise<string> {
    return must(command, ...this.#options(), ...args);
  }

  #options(): string[] {
    const apt = this.#cache.path('apt');
    return Object.entries({
      'Dir::Etc::SourceList': join(apt, 'sources.list'),
      'Dir::Etc::SourceParts': '/dev/null',
      'Dir::State': apt,
      'Dir::State::status': join(apt, 'status'),
      'Dir::Cache': apt,
      'APT::Architecture': 'amd64',
      'APT::Architectures': 'amd64',
      'APT::Sandbox::User': 'root',
      'Acquire::Languages': 'none',
    }).flatMap(([name, value]) => ['-o', `${name}=${value}`]);
  }
}

/** Leaves `vmlinuz` and `modules.cpio` of what Debian's packages hold. */
async function arrange(unpacked: string, release: string, dir: string): Promise<void> {
  const places = ['usr/lib/modules', 'lib/modules'].map((place) => join(unpacked, place, release));
  const modules = places.find((place) => existsSync(join(place, 'kernel')));
  if (modules === undefined) throw new Error(`the packages of Linux ${release} have no modules`);
  const images = [join(unpacked, 'boot', `vmlinuz-${release}`), ...places.map((place) => join(place, 'vmlinuz'))];
  const image = images.find((path) => existsSync(path));
  if (image === undefined) throw new Error(`the packages of Linux ${release} have no vmlinuz`);
  cpSync(image, join(dir, 'vmlinuz'));
  const root = join(dir, 'root');
  cpSync(modules, join(root, 'usr/lib/modules', release), {
    recursive: true,
    filter: (path) => !NOT_FOR_GUESTS.some((unwanted) => path === join(modules, unwanted)),
  });
  rmSync(join(root, 'usr/lib/modules', release, 'vmlinuz'), { force: true });
  // As a Debian has it, for depmod; the archive must not replace the guest's.
  symlinkSync('usr/lib', join(root, 'lib'));
  await must('depmod', '--basedir', root, release);
  rmSync(join(root, 'lib'));
  await pack(root, join(dir, 'modules.cpio'));
  rmSync(root, { recursive: true });
  rmSync(unpacked, { recursive: true });
}
