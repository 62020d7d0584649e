/** Runs a command line. Every failure a person can mend is one sentence and an exit code. */
import yargs from 'yargs';

import { EXIT, PolicyError, UserError } from '../errors.js';
import { COMMANDS, PROGRAM } from './commands.js';
import { addCommands, type Named, rejectMistakes } from './mistakes.js';
import { VERSION } from './package-info.js';

/**
 * @param commands others than the real ones, for tests
 * @param tell takes what a person is to read
 * @returns the exit code
 */
export async function runCommandLine(
  args: string[],
  commands: readonly Named[] = COMMANDS,
  tell: Tell = onStandardError,
): Promise<number> {
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
    return report(error, tell);
  }
}

type Tell = (text: string) => void;

const onStandardError: Tell = (text) => {
  process.stderr.write(text);
};

/** @throws what could not be loaded, such as the addon: bin/slipstream-bpf knows the remedy */
function report(error: unknown, tell: Tell): number {
  if (isLoadError(error)) throw error;
  if (error instanceof PolicyError) {
    tell(`${error.message}\n`);
    return error.exitCode;
  }
  if (error instanceof UserError) {
    complain(error.message, tell);
    return error.exitCode;
  }
  const { name, message, stack = '' } = error instanceof Error ? error : new Error(String(error));
  // yargs' own complaints about values: a YError is always the user's.
  if (name === 'YError') {
    complain(`${message}; see "${PROGRAM} --help"`, tell);
    return EXIT.usage;
  }
  complain(message, tell);
  if (process.env['SLIPSTREAM_DEBUG'] !== undefined) tell(`${stack}\n`);
  return EXIT.failed;
}

function isLoadError(error: unknown): boolean {
  return (
    error instanceof Error &&
    (['ERR_DLOPEN_FAILED', 'ERR_MODULE_NOT_FOUND'].includes((error as NodeJS.ErrnoException).code ?? '') ||
      error.message.startsWith('No native build was found'))
  );
}

/** Tells the person at the terminal. */
export function complain(sentence: string, tell: Tell = onStandardError): void {
  tell(`${PROGRAM}: ${sentence}\n`);
}
