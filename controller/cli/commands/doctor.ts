import type { CommandModule } from 'yargs';

import { jsonOption, pinDirOption } from '../options.js';

export const doctorCommand: CommandModule<object, { 'pin-dir': string; json: boolean }> = {
  command: 'doctor',
  describe: 'Check whether this host and its kernel can do it, with the remedy if not; changes nothing',
  builder: (yargs) => yargs.option('pin-dir', pinDirOption).option('json', jsonOption),
  handler: async (args) => {
    const { runDoctor } = await import('../actions/doctor.js');
    await runDoctor(args);
  },
};
