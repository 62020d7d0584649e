import { setTimeout } from 'node:timers/promises';

import type { CommandModule } from 'yargs';

import { STATES, type State } from '../../datapath/pair-table.js';
import { pairRows, renderPairs } from '../../view/pairs.js';
import { withDatapath } from '../../view/reader.js';
import { jsonOption, pinDirOption, say } from '../options.js';
import { objectFile } from '../package-info.js';

interface PairsArguments {
  'pin-dir': string;
  state: State | undefined;
  watch: boolean;
  json: boolean;
}

const WATCH_INTERVAL = 1000;

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
      .option('watch', { type: 'boolean', default: false, describe: 'Print the list every second until interrupted' })
      .option('json', jsonOption),
  handler: async (args) => {
    const print = (): void => {
      const rows = withDatapath(args['pin-dir'], objectFile(), ({ datapath, cgroups }) =>
        pairRows(datapath, cgroups, args.state),
      );
      say(args.json ? JSON.stringify(rows, undefined, args.watch ? 0 : 2) : renderPairs(rows));
    };
    const stop = new AbortController();
    const end = (): void => {
      stop.abort();
    };
    // Standard output fails when nobody reads it any more.
    if (args.watch) {
      process.once('SIGINT', end).once('SIGTERM', end);
      process.stdout.once('error', end);
    }
    do print();
    while (args.watch && (await pause(WATCH_INTERVAL, stop.signal)));
  },
};

/** False if it was cut short. */
function pause(ms: number, signal: AbortSignal): Promise<boolean> {
  return setTimeout(ms, true, { signal }).catch(() => false);
}
