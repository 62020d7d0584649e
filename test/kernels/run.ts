/**
 * Boots kernels one after the other, in as many guests at a time as there are lists of tests, and runs these on each. Arguments: [--full | --quick] [--write] [VERSION...]; --write makes
 * docs/kernels.md of it, and of earlier runs with the same datapath (build/kernels.json). Exits with 1 if a test failed or a guest
 * did not come to its end, with 2 when called wrongly, with 4 if a kernel or the guest's system could not be fetched.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { OBJECT_FILE, ROOT } from '../kernel/support/sandbox.js';
import { makeSystem, packLists, packProject } from './archive.js';
import { Cache } from './cache.js';
import { type Kernel, Kernels } from './kernels.js';
import { boot } from './machine.js';
import { PROFILES, WITHOUT } from './profiles.js';
import { count, type Counts, inWords, type KernelResult, merge, renderPage } from './report.js';
import { catchSignals, Interrupted } from './shell.js';

/** What the project promises something about; the last is whatever Debian has newest. */
const VERSIONS = ['6.1', '6.12', '6.18', 'latest'];
/** What a machine without a network can't have. */
class NotFetched extends Error {}

async function fetching<T>(what: Promise<T>): Promise<T> {
  return what.catch((error: unknown) => {
    throw error instanceof Interrupted ? error : new NotFetched(error instanceof Error ? error.message : String(error));
  });
}

const USAGE = 'usage: scripts/test-kernels [--full | --quick] [--write] [VERSION...], for instance 6.12 7.2 latest';

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
  lists: string[],
  dir: string,
): Promise<KernelResult> {
  const files = await fetching(kernels.fetch(kernel, say));
  say(`\nkernel ${version}: Linux ${kernel.release}`);
  const started = Date.now();
  const outcomes = await Promise.all(
    lists.map(async (list, index) => {
      const own = join(dir, `guest-${String(index)}`);
      mkdirSync(own, { recursive: true });
      // What two guests print is not mixed.
      const later: string[] = [];
      const onLine = index === 0 ? say : (line: string): unknown => later.push(line);
      return { ...(await boot({ kernel: files, archives: [...archives, list], dir: own, onLine })), later };
    }),
  );
  for (const { later } of outcomes) later.forEach(say);
  const found = outcomes.map(
    ({ records }) => Object.assign({}, ...records) as Partial<KernelResult> & { status?: number },
  );
  const result: KernelResult = {
    version,
    release: kernel.release,
    datapath: digest(),
    doctor: found[0]?.doctor,
    files: Object.assign({}, ...found.map(({ files: of }) => of)) as KernelResult['files'],
  };
  const unfinished = outcomes.find(({ trouble }) => trouble !== undefined)?.trouble;
  const status = found.find((one) => one.status !== 0)?.status ?? 0;
  const trouble = unfinished ?? (status !== 0 && count(result).failed === 0 ? 'the tests could not be run' : undefined);
  if (trouble !== undefined) result.trouble = trouble;
  if (trouble !== undefined) say(trouble);
  say(
    `kernel ${version} (${kernel.release}): ${inWords(count(result))}, in ${Math.round((Date.now() - started) / 1000)} s`,
  );
  return result;
}

async function main(args: readonly string[], dir: string): Promise<Counts> {
  const versions = args.filter((argument) => !argument.startsWith('-'));
  const full = args.includes('--full');
  const quick = args.includes('--quick');
  if (
    args.some((argument) => argument.startsWith('-') && !['--full', '--quick', '--write'].includes(argument)) ||
    (quick && (full || args.includes('--write'))) ||
    versions.some((version) => !/^\d+(\.\d+){0,2}$|^latest$/.test(version))
  ) {
    throw new Error(USAGE);
  }
  if (process.arch !== 'x64') throw new Error(`guests are x86-64, and this project was built for ${process.arch}`);
  const cache = new Cache();
  const system = await fetching(makeSystem(cache, say));
  const kernels = new Kernels(cache, system.mirror);
  // All are known to be there before the first one boots.
  const found: [string, Kernel][] = [];
  for (const version of versions.length > 0 ? versions : VERSIONS)
    found.push([version, await fetching(kernels.find(version, say))]);

  const project = join(dir, 'project.cpio');
  await packProject(dir, project);
  const lists: string[] = [];
  for (const tests of PROFILES[quick ? 'quick' : full ? 'full' : 'smoke']) {
    const archive = join(dir, `lists-${String(lists.length)}.cpio`);
    // Where the kernel lacks what the datapath needs, one guest says all there is to be said.
    await packLists(dir, archive, { tests, 'tests-without': WITHOUT });
    lists.push(archive);
  }
  const results: KernelResult[] = [];
  for (const [version, kernel] of found) {
    results.push(await testOn(version, kernel, kernels, [system.archive, project], lists, dir));
  }

  const file = join(ROOT, 'build', 'kernels.json');
  const before = existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as KernelResult[]) : [];
  const all = merge(before, results);
  // A quick run tells less than what may be known already.
  if (!quick) writeFileSync(file, `${JSON.stringify(all, null, 2)}\n`);
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
  process.exitCode = message === USAGE ? 2 : error instanceof NotFetched ? 4 : 1;
} finally {
  rmSync(dir, { recursive: true, force: true });
}
