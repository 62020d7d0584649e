import type { CommandModule } from 'yargs';

import { jsonOption, stateDirOption } from '../options.js';

export interface LearnedArguments {
  'state-dir': string;
  forget: string | undefined;
  'forget-all': boolean | undefined;
  json: boolean;
}

export const learnedCommand: CommandModule<object, LearnedArguments> = {
  command: 'learned',
  describe: 'Programs that are not accelerated because they left redirected data unread',
  builder: (yargs) =>
    yargs
      .option('state-dir', stateDirOption)
      .option('forget', {
        type: 'string',
        requiresArg: true,
        placeholder: 'NAME',
        describe: 'Accelerate this program again; a running controller sees it within seconds',
      })
      .option('forget-all', { type: 'boolean', describe: 'Likewise all of them' })
      .conflicts('forget', 'forget-all')
      .option('json', jsonOption),
  handler: async (args) => {
    const { runLearned } = await import('../actions/learned.js');
    runLearned(args);
  },
};
