import type { CommandModule } from 'yargs';

import { INITIAL, TOP_SORTS, type TopSort } from '../../top/frame.js';
import { numberOption, pinDirOption } from '../options.js';

export interface TopArguments {
  'pin-dir': string;
  sort: TopSort;
  filter: string | undefined;
  interval: number;
  iterations: number | undefined;
  plain: boolean;
}

export const topCommand: CommandModule<object, TopArguments> = {
  command: 'top',
  describe: 'Show the connections live, the busiest first; without a terminal frame after frame as text',
  builder: (yargs) =>
    yargs
      .option('pin-dir', pinDirOption)
      .option('sort', { choices: TOP_SORTS, default: INITIAL.sort, requiresArg: true, describe: 'Sort by this' })
      .option('filter', {
        type: 'string',
        requiresArg: true,
        placeholder: 'WORD',
        describe: 'Only lines with this text, cgroups included',
      })
      .option('interval', {
        ...numberOption('interval', [0.1, 3600], {
          whole: false,
          placeholder: 'S',
          describe: 'Seconds between two frames',
        }),
        default: 2,
      })
      .option(
        'iterations',
        numberOption('iterations', [1, 1_000_000_000], {
          placeholder: 'N',
          describe: 'End after so many frames [default: never]',
        }),
      )
      .option('plain', { type: 'boolean', default: false, describe: 'As text, also on a terminal' }),
  handler: async (args) => {
    const { runTop } = await import('../actions/top.js');
    await runTop(args);
  },
};
