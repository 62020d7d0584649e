import { down } from '../../daemon/down.js';
import type { DownArguments } from '../commands/down.js';
import { makeLog } from '../log.js';
import { say } from '../options.js';
import { borrowProgram, objectFile } from '../package-info.js';

export async function runDown(args: DownArguments): Promise<void> {
  await down(
    {
      pinDir: args['pin-dir'],
      timeout: args.timeout,
      force: args.force,
    },
    { objectFile: objectFile(), borrowProgram: borrowProgram(), log: makeLog('warn'), say },
  );
}
