import type { CommandModule } from 'yargs';

import { down } from '../../daemon/down.js';
import { makeLog, pinDirOption, say, timeoutOption } from '../options.js';
import { objectFile } from '../package-info.js';

interface DownArguments {
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
    await down(
      {
        pinDir: args['pin-dir'],
        timeout: args.timeout,
        force: args.force,
      },
      { objectFile: objectFile(), log: makeLog('warn'), say },
    );
  },
};
