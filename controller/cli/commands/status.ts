import type { CommandModule } from 'yargs';

import { jsonOption, pinDirOption } from '../options.js';

export const statusCommand: CommandModule<object, { 'pin-dir': string; json: boolean }> = {
  command: 'status',
  describe: 'Say whether the datapath is loaded, who runs it and what it did',
  builder: (yargs) => yargs.option('pin-dir', pinDirOption).option('json', jsonOption),
  handler: async (args) => {
    const { runStatus } = await import('../actions/status.js');
    runStatus(args);
  },
};
