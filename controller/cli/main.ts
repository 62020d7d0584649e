/** The program: runs the command line that it was started with. */
import { hideBin } from 'yargs/helpers';

import { EXIT } from '../errors.js';
import { complain, runCommandLine } from './run.js';

// A reader that has seen enough, such as head(1), is no failure; a full disk is one.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') return;
  complain(`standard output can't be written (${error.code ?? error.message})`);
  process.exitCode = EXIT.failed;
});
process.stderr.on('error', () => undefined); // there is nowhere left to complain to

const exitCode = await runCommandLine(hideBin(process.argv));
process.exitCode ??= exitCode;
