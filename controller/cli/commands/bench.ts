import type { CommandModule } from 'yargs';

import { jsonOption, numberOption, pinDirOption } from '../options.js';

export interface BenchArguments {
  seconds: number;
  port: number | undefined;
  'pin-dir': string;
  json: boolean;
}

export const benchCommand: CommandModule<object, BenchArguments> = {
  command: 'bench',
  describe: 'Measure TCP and the direct path in turns, on connections of its own or on those of a port',
  builder: (yargs) =>
    yargs
      .option('seconds', {
        ...numberOption('seconds', [0.5, 600], {
          whole: false,
          placeholder: 'S',
          describe: 'How long to measure in all',
        }),
        default: 20,
      })
      .option(
        'port',
        numberOption('port', [1, 65_535], {
          placeholder: 'N',
          describe: 'Measure the promoted connections with this port at either end, as they are used',
        }),
      )
      .option('pin-dir', pinDirOption)
      .option('json', jsonOption)
      .epilogue(
        'Without --port no other connection is touched. With it, the running controller takes the promoted connections of ' +
          'the port to TCP and back every second; nothing is lost, also if this command is killed.',
      ),
  handler: async (args) => {
    const { runBench } = await import('../actions/bench.js');
    await runBench(args);
  },
};
