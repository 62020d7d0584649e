import type { CommandModule } from 'yargs';

import { LearnedPrograms } from '../../policy/learned.js';
import { requireRoot } from '../../probe/host.js';
import { renderTable } from '../../view/pairs.js';
import { shortName } from '../../view/short-name.js';
import { jsonOption, say, stateDirOption } from '../options.js';

interface LearnedArguments {
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
        describe: 'Accelerate this program again; a running controller sees it within seconds',
      })
      .option('forget-all', { type: 'boolean', describe: 'Likewise all of them' })
      .conflicts('forget', 'forget-all')
      .option('json', jsonOption),
  handler: (args) => {
    requireRoot('learned');
    const learned = new LearnedPrograms(args['state-dir']);
    if (args.forget !== undefined || args['forget-all'] === true) {
      const count = learned.forget(args.forget);
      say(args.json ? JSON.stringify({ forgotten: count }) : `forgot ${String(count)}`);
    } else if (args.json) {
      say(JSON.stringify(learned.list, undefined, 2));
    } else if (learned.list.length === 0) {
      say('nothing learned');
    } else {
      const rows = learned.list.map(({ program, cgroup, cause, at, kernel }) => [
        program,
        shortName(cgroup),
        cause,
        at,
        kernel,
      ]);
      say(renderTable([['PROGRAM', 'CGROUP', 'CAUSE', 'SINCE', 'KERNEL'], ...rows]));
    }
  },
};
