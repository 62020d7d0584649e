/** The command line. Every failure a person can mend is one sentence and an exit code. */
import yargs from 'yargs';
import { hideBin } from 'yargs/helpers';

import { PolicyError } from '../daemon/policy-source.js';
import { EXIT, UserError } from '../errors.js';
import { captureCommand } from './commands/capture.js';
import { doctorCommand } from './commands/doctor.js';
import { downCommand } from './commands/down.js';
import { learnedCommand } from './commands/learned.js';
import { pairsCommand } from './commands/pairs.js';
import { policyCommand } from './commands/policy.js';
import { statusCommand } from './commands/status.js';
import { upCommand } from './commands/up.js';
import { addCommands, rejectMistakes } from './mistakes.js';
import { VERSION } from './package-info.js';

export const PROGRAM = 'slipstream-bpf';

/** @returns the exit code */
export async function main(args: string[]): Promise<number> {
  const commands = [
    upCommand,
    downCommand,
    statusCommand,
    pairsCommand,
    captureCommand,
    policyCommand,
    learnedCommand,
    doctorCommand,
  ];
  const parser = rejectMistakes(addCommands(yargs(args), commands), args)
    .scriptName(PROGRAM)
    .usage('$0 COMMAND\n\nMoves the payload of local TCP connections past the network stack.')
    .version(VERSION)
    .help()
    .alias('help', 'h')
    .wrap(Math.min(100, process.stdout.columns || 100))
    .exitProcess(false)
    .fail((message: string | null, error: Error | undefined) => {
      throw error ?? new UserError(`${message ?? 'wrong usage'}; see "${PROGRAM} --help"`, EXIT.usage);
    });
  try {
    await parser.parseAsync();
    return EXIT.done;
  } catch (error) {
    return report(error);
  }
}

function report(error: unknown): number {
  if (error instanceof PolicyError) {
    process.stderr.write(`${error.message}\n`);
    return error.exitCode;
  }
  if (error instanceof UserError) {
    complain(error.message);
    return error.exitCode;
  }
  const { name, message, stack = '' } = error instanceof Error ? error : new Error(String(error));
  // yargs' own complaints about values: a YError is always the user's.
  if (name === 'YError') {
    complain(`${message}; see "${PROGRAM} --help"`);
    return EXIT.usage;
  }
  complain(message);
  if (process.env['SLIPSTREAM_DEBUG'] !== undefined) process.stderr.write(`${stack}\n`);
  return EXIT.failed;
}

function complain(sentence: string): void {
  process.stderr.write(`${PROGRAM}: ${sentence}\n`);
}

// A reader that has seen enough, such as head(1), is no failure; a full disk is one.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') return;
  complain(`standard output can't be written (${error.code ?? error.message})`);
  process.exitCode = EXIT.failed;
});
process.stderr.on('error', () => undefined); // there is nowhere left to complain to

const exitCode = await main(hideBin(process.argv));
process.exitCode ??= exitCode;
