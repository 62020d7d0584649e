import type { CommandModule } from 'yargs';

import { STATES, type State } from '../../datapath/pair-table.js';
import { EXIT, UserError } from '../../errors.js';
import { cgroupMatcher, cgroupProblem, type Matcher } from '../../policy/glob.js';
import { quote, suggest } from '../../policy/words.js';
import { type PairFilter, SORT_KEYS, type SortKey } from '../../view/pair-list.js';
import { PAIR_COLUMNS } from '../../view/pairs.js';
import { jsonOption, numberOption, pinDirOption } from '../options.js';

export interface PairsArguments {
  'pin-dir': string;
  state: State | undefined;
  cgroup: PairFilter['cgroup'];
  port: number | undefined;
  sort: SortKey | undefined;
  columns: string[] | undefined;
  'no-header': boolean;
  watch: boolean;
  json: boolean;
}

export const pairsCommand: CommandModule<object, PairsArguments> = {
  command: 'pairs',
  describe: 'List the connections with both ends on this host',
  builder: (yargs) =>
    yargs
      .option('pin-dir', pinDirOption)
      .option('state', {
        choices: STATES.filter((state) => state !== 'free'),
        requiresArg: true,
        describe: 'Only pairs in this state',
      })
      .option('cgroup', {
        type: 'string',
        requiresArg: true,
        placeholder: 'PATH',
        coerce: cgroupFilter,
        describe:
          'Only pairs with an end in this cgroup or below it: a path below the v2 root, or a glob as in policies',
      })
      .option(
        'port',
        numberOption('port', [1, 65_535], {
          placeholder: 'N',
          describe: 'Only pairs with this port, at either end',
        }),
      )
      .option('sort', {
        choices: SORT_KEYS,
        requiresArg: true,
        describe: 'Sort by this, numbers from the largest [default: the order of the table]',
      })
      .option('columns', {
        type: 'string',
        requiresArg: true,
        placeholder: 'COLUMNS',
        coerce: requireColumns,
        describe: `Show these, with commas between them: ${PAIR_COLUMNS.join(', ')}`,
      })
      .option('no-header', { type: 'boolean', default: false, describe: 'Leave out the line of names' })
      .option('watch', { type: 'boolean', default: false, describe: 'Print the list every second until interrupted' })
      .option('json', jsonOption),
  handler: async (args) => {
    const { runPairs } = await import('../actions/pairs.js');
    await runPairs(args);
  },
};

/** @throws UserError (exit code 2) */
function cgroupFilter(pattern: string): Matcher {
  const problem = cgroupProblem(pattern);
  if (problem !== undefined) throw new UserError(`--cgroup ${quote(pattern)} ${problem}`, EXIT.usage);
  return cgroupMatcher(pattern);
}

/** @throws UserError (exit code 2) that names the first wrong one */
function requireColumns(list: string): string[] {
  const names = list.split(',').map((name) => name.trim().toLowerCase());
  const wrong = names.find((name) => !PAIR_COLUMNS.includes(name));
  if (wrong === undefined) return names;
  throw new UserError(`--columns: unknown column ${quote(wrong)}: ${suggest(wrong, PAIR_COLUMNS)}`, EXIT.usage);
}
