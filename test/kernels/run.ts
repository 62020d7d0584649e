/**
 * Boots kernels one after the other and runs tests on each. Arguments: [--full] [--write] [VERSION...]; --write makes
 * docs/kernels.md of it, and of earlier runs with the same datapath (build/kernels.json). Exits with 1 if a test failed or a guest did not come to its end.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { OBJECT_FILE, ROOT } from '../kernel/support/sandbox.js';
import { makeSystem, packProject } from './archive.js';
import { Cache } from './cache.js';
import { type Kernel, Kernels } from './kernels.js';
import { boot } from './machine.js';
import { FULL, SMOKE, WITHOUT } from './profiles.js';
import { count, type Counts, inWords, type KernelResult, merge, renderPage } from './report.js';
import { catchSignals, Interrupted } from './shell.js';

/** What the project promises something about; the last is whatever Debian has newest. */
const VERSIONS = ['6.1', '6.12', '6.18', 'latest'];
const USAGE = 'usage: scripts/test-kernels [--full] [--write] [VERSION...], for instance 6.12 7.2 latest';

function say(line: string): void {
  console.log(line);
}

function digest(): string {
  return createHash('sha256').update(readFileSync(OBJECT_FILE)).digest('hex').slice(0, 16);
}

async function testOn(
  version: string,
  kernel: Kernel,
  kernels: Kernels,
  archives: string[],
  dir: string,
): Promise<KernelResult> {
  const files = await kernels.fetch(kernel, say);
  say(`\nkernel ${version}: Linux ${kernel.release}`);
  const started = Date.now();
  const { records, trouble } = await boot({ kernel: files, archives, dir, onLine: say });
  const result: KernelResult = {
    ...({ version, release: kernel.release, datapath: digest(), doctor: undefined, files: {} } satisfies KernelResult),
    ...(Object.assign({}, ...records) as Partial<KernelResult>),
    ...(trouble !== undefined && { trouble }),
  };
  if (trouble !== undefined) say(trouble);
  say(
    `kernel ${version} (${kernel.release}): ${inWords(count(result))}, in ${Math.round((Date.now() - started) / 1000)} s`,
  );
  return result;
}

async function main(args: readonly string[], dir: string): Promise<Counts> {
  const versions = args.filter((argument) => !argument.startsWith('-'));
  const full = args.includes('--full');
  if (
    args.some((argument) => argument.startsWith('-') && !['--full', '--write'].includes(argument)) ||
    versions.some((version) => !/^\d+(\.\d+){0,2}$|^latest$/.test(version))
  ) {
    throw new Error(USAGE);
  }
  if (process.arch !== 'x64') throw new Error(`guests are x86-64, and this project was built for ${process.arch}`);
  const cache = new Cache();
  const system = await makeSystem(cache, say);
  const kernels = new Kernels(cache, system.mirror);
  // All are known to be there before the first one boots.
  const found: [string, Kernel][] = [];
  for (const version of versions.length > 0 ? versions : VERSIONS)
    found.push([version, await kernels.find(version, say)]);

  const project = join(dir, 'project.cpio');
  const list = (files: readonly string[]): string => files.map((name) => `${name.replace(/\.ts$/, '.js')}\n`).join('');
  await packProject(dir, project, { tests: list([...SMOKE, ...(full ? FULL : [])]), 'tests-without': list(WITHOUT) });
  const results: KernelResult[] = [];
  for (const [version, kernel] of found) {
    results.push(await testOn(version, kernel, kernels, [system.archive, project], dir));
  }

  const file = join(ROOT, 'build', 'kernels.json');
  const before = existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as KernelResult[]) : [];
  const all = merge(before, results);
  writeFileSync(file, `${JSON.stringify(all, null, 2)}\n`);
  if (args.includes('--write')) writeFileSync(join(ROOT, 'docs', 'kernels.md'), renderPage(all));
  say('');
  for (const result of results) say(`kernel ${result.version} (${result.release}): ${inWords(count(result))}`);
  const sums = results.map(count);
  const sum = (name: keyof Counts): number => sums.reduce((total, counts) => total + counts[name], 0);
  return { passed: sum('passed'), failed: sum('failed'), skipped: sum('skipped') };
}

catchSignals();
const dir = mkdtempSync(join(tmpdir(), 'slipstream-kernels-'));
try {
  const counts = await main(process.argv.slice(2), dir);
  say(inWords(counts));
  process.exitCode = counts.failed > 0 || counts.passed === 0 ? 1 : 0;
} catch (error) {
  const message = error instanceof Error ? error.message : String(error);
  console.error(error instanceof Interrupted ? `slipstream-bpf: ended by ${message}` : `slipstream-bpf: ${message}`);
  process.exitCode = message === USAGE ? 2 : 1;
} finally {
  rmSync(dir, { recursive: true, force: true });
}
