/** The command line. Every failure a person can mend is one sentence and an exit code. */
import yargs from 'yargs';
import { hideBin } from 'yargs/helpers';

import { EXIT, UserError } from '../errors.js';
import { downCommand } from './commands/down.js';
import { pairsCommand } from './commands/pairs.js';
import { policyCommand } from './commands/policy.js';
import { statusCommand } from './commands/status.js';
import { upCommand } from './commands/up.js';
import { VERSION } from './package-info.js';

export const PROGRAM = 'slipstream-bpf';

/** @returns the exit code */
export async function main(args: string[]): Promise<number> {
  const parser = yargs(args)
    .scriptName(PROGRAM)
    .usage('$0 COMMAND\n\nMoves the payload of local TCP connections past the network stack.')
    .command(upCommand)
    .command(downCommand)
    .command(statusCommand)
    .command(pairsCommand)
    .command(policyCommand)
    .demandCommand(1, 'a command is missing: up, down, status, pairs or policy')
    .recommendCommands()
    .strict()
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
    return Number(process.exitCode ?? EXIT.done);
  } catch (error) {
    return report(error);
  }
}

function report(error: unknown): number {
  if (error instanceof UserError) {
    process.stderr.write(`${error.message.replace(/^/gm, error.message.includes('\n') ? '' : `${PROGRAM}: `)}\n`);
    return error.exitCode;
  }
  const { name, message } = error instanceof Error ? error : { name: 'Error', message: String(error) };
  // yargs' own complaints about values: a YError is always the user's.
  if (name === 'YError') {
    process.stderr.write(`${PROGRAM}: ${message}; see "${PROGRAM} --help"\n`);
    return EXIT.usage;
  }
  process.stderr.write(`${PROGRAM}: ${message}\n`);
  if (process.env['SLIPSTREAM_DEBUG'] !== undefined && error instanceof Error)
    process.stderr.write(`${error.stack ?? ''}\n`);
  return EXIT.failed;
}

process.exitCode = await main(hideBin(process.argv));
