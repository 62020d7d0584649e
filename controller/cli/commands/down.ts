import type { CommandModule } from 'yargs';

import { pinDirOption, timeoutOption } from '../options.js';

export interface DownArguments {
  'pin-dir': string;
  timeout: number;
  force: boolean;
}

export const downCommand: CommandModule<object, DownArguments> = {
  command: 'down',
  describe: 'Take every connection back to TCP, detach and unload',
  builder: (yargs) =>
    yargs.option('pin-dir', pinDirOption).option('timeout', timeoutOption).option('force', {
      type: 'boolean',
      default: false,
      describe: 'Remove what is not drained in time too: those connections lose redirected data',
    }),
  handler: async (args) => {
    const { runDown } = await import('../actions/down.js');
    await runDown(args);
  },
};
