import type { CommandModule } from 'yargs';

import { EXIT, UserError } from '../../errors.js';
import { diagnose, renderDiagnosis } from '../../probe/doctor.js';
import { requirePinDir } from '../../probe/host.js';
import { jsonOption, makeLog, pinDirOption, say } from '../options.js';
import { objectFile, socketsProgram } from '../package-info.js';

export const doctorCommand: CommandModule<object, { 'pin-dir': string; json: boolean }> = {
  command: 'doctor',
  describe: 'Check whether this host and its kernel can do it, with the remedy if not; changes nothing',
  builder: (yargs) => yargs.option('pin-dir', pinDirOption).option('json', jsonOption),
  handler: async (args) => {
    requirePinDir(args['pin-dir']);
    const diagnosis = await diagnose({
      pinDir: args['pin-dir'],
      objectFile: objectFile(),
      socketsProgram: socketsProgram(),
      log: makeLog('error'),
    });
    say(args.json ? JSON.stringify(diagnosis, undefined, 2) : renderDiagnosis(diagnosis));
    if (diagnosis.able) return;
    const failed = diagnosis.checks.filter(({ status }) => status === 'fail').map(({ id }) => id);
    throw new UserError(`this host can't: ${failed.join(', ')}`, EXIT.unsupported);
  },
};
