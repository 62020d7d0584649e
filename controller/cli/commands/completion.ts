import type { CommandModule } from 'yargs';

import { completionScript, type Shell, SHELLS } from '../completion.js';
import type { CommandDescription } from '../description.js';
import { say } from '../options.js';

/** @param describe asked when it runs: the command is one of those that it describes */
export function completionCommand(
  program: string,
  describe: () => readonly CommandDescription[],
): CommandModule<object, { shell: Shell }> {
  return {
    command: 'completion <shell>',
    describe: 'Print a completion script: source <(slipstream-bpf completion bash)',
    builder: (yargs) =>
      yargs.positional('shell', { choices: SHELLS, demandOption: true, describe: 'Whose script to print' }),
    handler: ({ shell }) => {
      say(completionScript(shell, program, describe()).trimEnd());
    },
  };
}
