/**
 * Runs suites of others and scenarios with real servers, plain and accelerated, and prints where they differ.
 * Arguments: names of suites (default: all), or --list.
 */
import { type Form, Place, type Work } from './place.js';
import { count, differing, type Outcomes, outcomeOf, type Suite, Unavailable } from './suite.js';
import { cpython } from './suites/cpython.js';
import { go } from './suites/go.js';
import { servers } from './suites/servers.js';

const suites: Suite[] = [...cpython, ...go, ...servers];

interface Run {
  outcomes: Outcomes;
  work: Work | undefined;
}

let running: Suite | undefined;
const totals = { passed: 0, failed: 0, skipped: 0 };

function say(line: string): void {
  console.log(line);
}

async function runIn(form: Form, suite: Suite, only?: string): Promise<Run> {
  const place = await Place.open(suite.name, form);
  try {
    const outcomes = await suite.run(place, only);
    for (const line of place.trouble) say(`    the daemon says: ${line}`);
    return { outcomes, work: await place.work() };
  } finally {
    await place.close();
  }
}

function indented(text: string): string {
  return text.trim().replaceAll(/^/gm, '        ');
}

/** Runs a test that differs up to two times more, alone. */
async function sortOut(suite: Suite, form: Form, test: string): Promise<string | undefined> {
  for (let again = 0; again < 2; again++) {
    const plain = outcomeOf((await runIn('plain', suite, test)).outcomes, test).verdict;
    const fast = outcomeOf((await runIn(form, suite, test)).outcomes, test).verdict;
    if (plain === fast) return `${fast} both ways when run ${again === 0 ? 'again' : 'a third time'}, alone`;
  }
  return undefined;
}

/** `3 of 5, 2 skipped` */
function tally(outcomes: Outcomes): string {
  const verdicts = new Set([...outcomes.values()].map(({ verdict }) => verdict));
  verdicts.delete('passed');
  const others = [...verdicts].map((verdict) => `, ${String(count(outcomes, verdict))} ${verdict}`);
  return `${String(count(outcomes, 'passed'))} of ${String(outcomes.size)}${others.join('')}`;
}

/** Compares one accelerated form. */
async function compare(suite: Suite, form: Exclude<Form, 'plain'>, plain: Run): Promise<void> {
  const name = form === 'blocking' ? `${suite.name} (blocking readers)` : suite.name;
  const started = Date.now();
  const fast = await runIn(form, suite);
  const work = fast.work!;
  const problems: string[] = [];
  for (const test of differing(plain.outcomes, fast.outcomes)) {
    const [was, is] = [outcomeOf(plain.outcomes, test), outcomeOf(fast.outcomes, test)];
    const detail = is.verdict === 'passed' ? was.detail : is.detail;
    const difference = `${test}: plain ${was.verdict}, accelerated ${is.verdict}`;
    if (suite.known?.matches.test(test)) {
      say(`    known: ${difference}: ${suite.known.reason}`);
      continue;
    }
    const flaky = await sortOut(suite, form, test);
    if (flaky === undefined) problems.push(`${difference}\n${indented(detail)}`);
    else say(`    flaky: ${difference}; ${flaky}`);
  }
  if (suite.ours) {
    for (const [test, { verdict, detail }] of plain.outcomes) {
      if (verdict !== 'passed') problems.push(`${test}: ${verdict} without acceleration\n${indented(detail)}`);
    }
  }
  const inherent = suite.forms[form] ?? '';
  if (work.messages === 0 && inherent === '') problems.push('nothing was accelerated');
  for (const problem of problems) say(`    DIFFERS: ${problem}`);
  totals[problems.length === 0 ? 'passed' : 'failed']++;
  const refused = Object.entries(work.refusals).map(([reason, times]) => `${reason} ${String(times)}`);
  say(
    [
      `  ${problems.length === 0 ? 'ok' : 'FAILED'} ${name}: passed plain ${tally(plain.outcomes)}; accelerated ${tally(fast.outcomes)}`,
      `${String(work.promotions)} promotions of ${String(work.pairs)} pairs`,
      `${String(work.messages)} messages (${(work.bytes / 2 ** 20).toFixed(1)} MiB) redirected, ${String(work.passed)} passed to TCP`,
      ...(refused.length > 0 ? [`refused: ${refused.join(', ')}`] : []),
      ...(work.messages === 0 && inherent !== '' ? [`not accelerated: ${inherent}`] : []),
      `${((Date.now() - started) / 1000).toFixed(0)} s`,
    ].join('; '),
  );
}

async function runSuite(suite: Suite): Promise<void> {
  const forms = Object.keys(suite.forms) as Exclude<Form, 'plain'>[];
  running = suite;
  try {
    await suite.prepare?.();
    const plain = await runIn('plain', suite);
    for (const form of forms) await compare(suite, form, plain);
  } catch (error) {
    if (error instanceof Unavailable) {
      totals.skipped++;
      say(`  skipped ${suite.name}: ${error.message}`);
    } else {
      totals.failed++;
      say(
        `  FAILED ${suite.name}: ${indented(error instanceof Error ? (error.stack ?? error.message) : String(error))}`,
      );
    }
  } finally {
    suite.finish?.();
  }
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    void Place.closeAll()
      .then(() => running?.finish?.())
      .finally(() => process.exit(1));
  });
}

const wanted = process.argv.slice(2);
if (wanted.includes('--list')) {
  for (const { name } of suites) say(name);
} else {
  const unknown = wanted.filter((name) => !suites.some((suite) => suite.name === name));
  if (unknown.length > 0) {
    console.error(`slipstream-bpf: no suite ${unknown.join(', ')}: scripts/test-apps --list names them.`);
    process.exit(2);
  }
  for (const suite of suites) {
    if (wanted.length === 0 || wanted.includes(suite.name)) await runSuite(suite);
  }
  say(`${String(totals.passed)} passed, ${String(totals.failed)} failed, ${String(totals.skipped)} skipped`);
  process.exitCode = totals.failed === 0 ? 0 : 1;
}
