import type { CommandModule } from 'yargs';

import { parseTarget, type Target } from '../../explain/target.js';
import { jsonOption, pinDirOption, stateDirOption } from '../options.js';

export interface ExplainArguments {
  target: Target;
  'pin-dir': string;
  'state-dir': string;
  policy: string | undefined;
  json: boolean;
}

export const explainCommand: CommandModule<object, ExplainArguments> = {
  command: 'explain <target>',
  describe: 'Say why connections are or are not accelerated, and what would change it',
  builder: (yargs) =>
    yargs
      .positional('target', {
        type: 'string',
        demandOption: true,
        placeholder: 'TARGET',
        coerce: parseTarget,
        describe: 'A port (6379), address and port (10.0.0.1:80), process (pid:4711) or pair (3.1)',
      })
      .option('pin-dir', pinDirOption)
      .option('state-dir', stateDirOption)
      .option('policy', {
        type: 'string',
        requiresArg: true,
        placeholder: 'FILE',
        describe: 'Go by this policy [default: the one that the controller goes by]',
      })
      .option('json', jsonOption),
  handler: async (args) => {
    const { runExplain } = await import('../actions/explain.js');
    runExplain(args);
  },
};
