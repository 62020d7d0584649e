/** What a run on several kernels came to, as JSON and as docs/kernels.md. */
import type { Check, Diagnosis } from '../../controller/probe/doctor.js';

/** Of one test file. */
export interface FileResult {
  passed: number;
  /** Full titles. */
  failed: string[];
  skipped: { title: string; reason: string }[];
}

export interface KernelResult {
  /** As it was asked for, for instance `6.12`. */
  version: string;
  /** `uname -r` */
  release: string;
  /** Digest of the datapath that was tried. */
  datapath: string;
  /** What `doctor` said there. */
  doctor: Diagnosis | undefined;
  files: Record<string, FileResult>;
  /** What kept the tests from coming to an end. */
  trouble?: string;
}

export interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

/** Results of earlier runs with the same datapath, and those of this run in their place. */
export function merge(before: readonly KernelResult[], now: readonly KernelResult[]): KernelResult[] {
  const kept = before.filter(
    ({ version, datapath }) => datapath === now[0]?.datapath && now.every((result) => result.version !== version),
  );
  const order = ({ release }: KernelResult): number[] => release.split(/\D+/).map(Number);
  return [...kept, ...now].sort(
    (a, b) =>
      order(a)
        .map((number, place) => number - (order(b)[place] ?? 0))
        .find(Boolean) ?? 0,
  );
}

/** A guest that did not come to its end is one failure more. */
export function count({ files, trouble }: Pick<KernelResult, 'files' | 'trouble'>): Counts {
  const sums = { passed: 0, failed: trouble === undefined ? 0 : 1, skipped: 0 };
  for (const { passed, failed, skipped } of Object.values(files)) {
    sums.passed += passed;
    sums.failed += failed.length;
    sums.skipped += skipped.length;
  }
  return sums;
}

export function inWords({ passed, failed, skipped }: Counts): string {
  return `${passed} passed, ${failed} failed, ${skipped} skipped`;
}

const cell = (text: string): string => text.replaceAll('|', '\\|').replaceAll('\n', ' ');
const row = (...cells: string[]): string => `| ${cells.map(cell).join(' | ')} |\n`;
const table = (head: string[], rows: string[][]): string =>
  row(...head) + row(...head.map(() => '---')) + rows.map((cells) => row(...cells)).join('');

/** Says nothing of the kernel but of the guest. */
const OF_THE_GUEST = new Set(['TCP memory', 'promotion', 'waking', 'other programs', 'datapath']);

/** What a kernel is bad at, as `doctor` says it there. */
function off({ doctor, trouble }: KernelResult): string {
  if (doctor === undefined) return trouble === undefined ? '' : 'did not come up';
  const said = ({ status, id }: Check): boolean => (status === 'warn' || status === 'fail') && !OF_THE_GUEST.has(id);
  return doctor.checks
    .filter(said)
    .map(({ id, detail }) => `${id}: ${detail}`)
    .join('; ');
}

function outcome(result: FileResult | undefined): string {
  if (result === undefined) return '–';
  const { passed, failed, skipped } = result;
  const parts = [
    `${passed} passed`,
    ...(failed.length > 0 ? [`${failed.length} failed`] : []),
    ...(skipped.length > 0 ? [`${skipped.length} skipped`] : []),
  ];
  return parts.join(', ');
}

/** A list of what was not as on every kernel, with where that was. */
function listed(
  heading: string,
  results: readonly KernelResult[],
  lines: (file: FileResult) => readonly string[],
): string {
  const where = new Map<string, string[]>();
  for (const { release, files } of results) {
    for (const line of Object.values(files).flatMap(lines)) where.set(line, [...(where.get(line) ?? []), release]);
  }
  if (where.size === 0) return '';
  const items = [...where].map(([line, releases]) =>
    releases.length === results.length ? `- ${line}\n` : `- ${line} (${releases.join(', ')})\n`,
  );
  return `\n${heading}:\n\n${items.join('')}`;
}

/** docs/kernels.md */
export function renderPage(results: readonly KernelResult[]): string {
  const files = [...new Set(results.flatMap((result) => Object.keys(result.files)))].sort();
  return `# Kernels

Made by \`sudo scripts/test-kernels --write\`, which boots Debian's kernels under software emulation. Nothing here goes by
version numbers: \`up\` asks each kernel for what it needs, and tries it out before it attaches anything
([guarantees.md](guarantees.md#kernels)).

${table(
  ['kernel', 'connections', 'what is off there, and why', 'tests'],
  results.map((result) => [
    result.doctor?.kernel ?? result.release,
    result.doctor === undefined ? '' : result.doctor.able ? 'accelerated' : 'left alone',
    off(result),
    inWords(count(result)),
  ]),
)}
${table(
  ['tests', ...results.map(({ release }) => release)],
  files.map((file) => [`\`${file}\``, ...results.map((result) => outcome(result.files[file]))]),
)}${listed('Failed', results, ({ failed }) => failed)}${listed('Skipped', results, ({ skipped }) =>
    skipped.map(({ title, reason }) => `${title}: ${reason}`),
  )}`;
}
