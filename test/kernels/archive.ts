/**
 * Initial RAM file systems, the only kind of disk that a guest has: its system, the modules of its kernel, this project.
 * Each is a cpio archive; the kernel unpacks several one after the other.
 */
import { createHash } from 'node:crypto';
import { chmodSync, copyFileSync, cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

import { ROOT } from '../kernel/support/sandbox.js';
import type { Cache } from './cache.js';
import { must } from './shell.js';

/** Of the guest's system, whatever its kernel. Its C library must not be older than the one that the project was built with. */
const RELEASE = 'trixie';
const PACKAGES = [
  ...['nodejs', 'libbpf1', 'libelf1t64', 'liburing2', 'kmod', 'mount', 'procps', 'python3'],
  ...['iproute2', 'iptables', 'nftables', 'conntrack', 'socat', 'haproxy', 'nginx', 'libnginx-mod-stream'],
];
const NOT_NEEDED = ['doc', 'locale', 'man', 'info', 'zoneinfo', 'lintian'].map((name) => `/usr/share/${name}/*`);

/** Packs a folder; files belong to root in the guest. */
export async function pack(dir: string, archive: string): Promise<void> {
  await must(
    'sh',
    '-c',
    'cd "$0" && find . -path "./dev/*" -prune -o -print | cpio --quiet --create --format newc --owner 0:0 >"$1"',
    dir,
    archive,
  );
}

export interface System {
  /** Path of the cpio archive. */
  readonly archive: string;
  /** Where its packages came from, and those of kernels can be had. */
  readonly mirror: string;
}

/** A Debian with what the tests need. */
export async function makeSystem(cache: Cache, say: (line: string) => void): Promise<System> {
  const recipe = { RELEASE, PACKAGES, NOT_NEEDED, version: 1 };
  const key = createHash('sha256').update(JSON.stringify(recipe)).digest('hex').slice(0, 16);
  const dir = await cache.folder(`system-${key}`, async (part) => {
    say(`guest: a Debian ${RELEASE} with ${PACKAGES.join(' ')}`);
    const root = join(part, 'root');
    await must(
      'mmdebstrap',
      ...['--quiet', '--mode=root', '--variant=essential', '--dpkgopt=force-unsafe-io', '--skip=cleanup/reproducible'],
      ...NOT_NEEDED.map((path) => `--dpkgopt=path-exclude=${path}`),
      ...[`--include=${PACKAGES.join(',')}`, RELEASE, root],
    );
    await pack(root, join(part, 'system.cpio'));
    copyFileSync(join(root, 'etc/apt/sources.list'), join(part, 'sources.list'));
    rmSync(root, { recursive: true });
  });
  const source = readFileSync(join(dir, 'sources.list'), 'utf8');
  const mirror = /^deb (?:\[[^\]]*\] )?(\S+)/m.exec(source)?.[1];
  if (mirror === undefined) throw new Error(`no mirror in ${dir}/sources.list`);
  return { archive: join(dir, 'system.cpio'), mirror };
}

/** Packages of node_modules that no test in a guest imports. */
const NOT_FOR_GUESTS = [
  ...['typescript', 'typescript-eslint', '@typescript-eslint', 'eslint', '@eslint', 'prettier', 'node-gyp', '@types'],
  ...['playwright-core', 'axe-core', 'kubernetes-models', '@kubernetes-models', '@prometheus-io', '.bin'],
];

/** Which test files a guest runs, as compiled, by the name of the list (test/kernels/guest.sh). */
export async function packLists(
  dir: string,
  archive: string,
  lists: Readonly<Record<string, readonly string[]>>,
): Promise<void> {
  const root = join(dir, 'lists');
  mkdirSync(root);
  for (const [name, files] of Object.entries(lists)) {
    writeFileSync(join(root, name), files.map((file) => `${file.replace(/\.ts$/, '.js')}\n`).join(''));
  }
  await pack(root, archive);
  rmSync(root, { recursive: true });
}

/** This checkout as it was built, with its tests compiled, and the first process. */
export async function packProject(dir: string, archive: string): Promise<void> {
  const root = join(dir, 'project');
  const project = join(root, 'slipstream');
  const files = (await must('git', '-C', ROOT, 'ls-files', '-co', '--exclude-standard')).split('\n').filter(Boolean);
  const built = ['bpf', 'fixtures', 'js', 'probe', 'programs'].map((name) => join('build', name));
  for (const name of [...files, ...built, 'addon/build/Release/slipstream_bpf.node', 'node_modules']) {
    // Deleted here and not yet in git.
    if (!existsSync(join(ROOT, name))) continue;
    mkdirSync(dirname(join(project, name)), { recursive: true });
    cpSync(join(ROOT, name), join(project, name), {
      recursive: true,
      filter: (source) => !NOT_FOR_GUESTS.some((unwanted) => source === join(ROOT, 'node_modules', unwanted)),
    });
  }
  // tsx compiles at every start, which takes a guest long.
  const tsc = join(ROOT, 'node_modules/typescript/bin/tsc');
  await must('node', tsc, '-p', ROOT, '--noCheck', '--sourceMap', 'false', '--outDir', project);
  const settings = JSON.parse(readFileSync(join(ROOT, '.mocharc.json'), 'utf8')) as Record<string, unknown>;
  writeFileSync(join(project, '.mocharc.json'), JSON.stringify({ ...settings, 'node-option': [] }));
  copyFileSync(join(ROOT, 'test/kernels/guest.sh'), join(root, 'init'));
  chmodSync(join(root, 'init'), 0o755);
  await pack(root, archive);
  rmSync(root, { recursive: true });
}
