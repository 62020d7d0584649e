import { EXIT, UserError } from '../../errors.js';
import { diagnose, renderDiagnosis } from '../../probe/doctor.js';
import { requirePinDir } from '../../probe/host.js';
import { makeLog } from '../log.js';
import { say } from '../options.js';
import { objectFile, socketsProgram } from '../package-info.js';

export async function runDoctor(args: { 'pin-dir': string; json: boolean }): Promise<void> {
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
}
