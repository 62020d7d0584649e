/**
 * The soak as a command.
 *
 *   npm run soak -- [--minutes N] [--seed S] [--json FILE]
 */
import { writeFileSync } from 'node:fs';

import yargs from 'yargs';
import { hideBin } from 'yargs/helpers';

import { table } from './report.js';
import { soak } from './soak.js';

function refuse(sentence: string, code: number): never {
  console.error(sentence);
  process.exit(code);
}

const options = await yargs(hideBin(process.argv))
  .scriptName('npm run soak --')
  .option('minutes', { type: 'number', default: 10, requiresArg: true, describe: 'How long, fractions allowed' })
  .option('seed', {
    type: 'number',
    requiresArg: true,
    describe: 'Repeats the actions of an earlier run, in their order; the default is drawn and printed',
  })
  .option('json', { type: 'string', requiresArg: true, describe: 'Write the counts to this file' })
  .parserConfiguration({ 'duplicate-arguments-array': false })
  .version(false)
  .strict()
  .fail((message, error) => {
    refuse(`soak: ${message || String(error)}`, 2);
  })
  .parseAsync();

const seed = options.seed ?? Math.floor(Math.random() * 2 ** 31);
if (!(options.minutes >= 0.1 && options.minutes <= 10_000)) {
  refuse('soak: --minutes takes a number from 0.1 to 10000', 2);
}
if (!Number.isSafeInteger(seed) || seed < 0) refuse('soak: --seed takes a whole number from 0 on', 2);
if (process.geteuid?.() !== 0) refuse('soak: it needs root to attach the datapath: run it with sudo', 1);

console.log(
  `seed ${seed}, ${options.minutes} minutes; the order of actions follows the seed, the kernel's timing does not`,
);
const report = await soak({ seconds: options.minutes * 60, seed, say: console.log });
console.log(table(report));
if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(report, undefined, 2)}\n`);
if (report.failure !== null) {
  console.error(`FAILED with seed ${seed}: ${report.failure}`);
  console.error(`again: npm run soak -- --minutes ${options.minutes} --seed ${seed}`);
}
process.exit(report.failure === null ? 0 : 1);
