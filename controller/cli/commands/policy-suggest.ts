import type { CommandModule } from 'yargs';

import { jsonOption, numberOption, outputOption, pinDirOption, stateDirOption } from '../options.js';

export interface SuggestArguments {
  seconds: number;
  measure: boolean;
  output: string | undefined;
  policy: string | undefined;
  'pin-dir': string;
  'state-dir': string;
  json: boolean;
}

export const policySuggestCommand: CommandModule<object, SuggestArguments> = {
  command: 'suggest',
  describe: 'Report what would be accelerated if what is observed were, and write the policy for it; touches nothing',
  builder: (yargs) =>
    yargs
      .option('seconds', {
        ...numberOption('seconds', [0.5, 86_400], {
          whole: false,
          placeholder: 'S',
          describe: 'How long to watch the traffic',
        }),
        default: 10,
      })
      .option('output', {
        ...outputOption,
        describe:
          'Write the policy in force with rules that accelerate exactly these to a file, which must not be there',
      })
      .option('measure', {
        type: 'boolean',
        default: false,
        describe: 'Estimate the gain from a measurement on this host, on connections of its own; takes some seconds',
      })
      .option('policy', {
        type: 'string',
        requiresArg: true,
        placeholder: 'FILE',
        describe: 'Go by this policy [default: the one that the controller goes by]',
      })
      .option('pin-dir', pinDirOption)
      .option('state-dir', stateDirOption)
      .option('json', jsonOption),
  handler: async (args) => {
    const { runPolicySuggest } = await import('../actions/policy-suggest.js');
    await runPolicySuggest(args);
  },
};
