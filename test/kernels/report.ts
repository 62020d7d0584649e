/** What a run on several kernels came to, as JSON and as docs/kernels.md. */
import type { Check, Diagnosis } from '../../controller/probe/doctor.js';

/** Of one test file. */
export interface FileResult {
  passed: number;
  failed: number;
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
    sums.failed += failed;
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
const OF_THE_GUEST = new Set(['TCP memory', 'waking', 'other programs', 'datapath']);

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
    ...(failed > 0 ? [`${failed} failed`] : []),
    ...(skipped.length > 0 ? [`${skipped.length} skipped`] : []),
  ];
  return parts.join(', ');
}

/** Tests that were skipped, by reason. */
function skips(results: readonly KernelResult[]): string {
  const reasons = new Map<string, string[]>();
  for (const { release, files } of results) {
    for (const { skipped } of Object.values(files)) {
      for (const { title, reason } of skipped) {
        const key = `${title}: ${reason}`;
        reasons.set(key, [...(reasons.get(key) ?? []), release]);
      }
    }
  }
  if (reasons.size === 0) return '';
  const lines = [...reasons].map(([what, where]) =>
    where.length === results.length ? `- ${what}\n` : `- ${what} (${where.join(', ')})\n`,
  );
  return `\nSkipped:\n\n${lines.join('')}`;
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
)}${skips(results)}`;
}
