import type { CommandModule } from 'yargs';

import { readStatus, renderStatus } from '../../view/status.js';
import { jsonOption, pinDirOption, say } from '../options.js';
import { objectFile, VERSION } from '../package-info.js';

export const statusCommand: CommandModule<object, { 'pin-dir': string; json: boolean }> = {
  command: 'status',
  describe: 'Say whether the datapath is loaded, who runs it and what it did',
  builder: (yargs) => yargs.option('pin-dir', pinDirOption).option('json', jsonOption),
  handler: (args) => {
    const status = readStatus(args['pin-dir'], objectFile(), VERSION);
    say(args.json ? JSON.stringify(status, undefined, 2) : renderStatus(status));
  },
};
