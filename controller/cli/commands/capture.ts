import type { CommandModule } from 'yargs';

import { parseCgroup, parsePair } from '../../capture/selection.js';
import { checked, numberOption, pinDirOption } from '../options.js';

export interface CaptureArguments {
  'pin-dir': string;
  write: string | undefined;
  pair: string | undefined;
  port: number | undefined;
  cgroup: string | undefined;
  snaplen: number | undefined;
  count: number | undefined;
  duration: number | undefined;
}

export const MOST = 2 ** 32 - 1;

export const captureCommand: CommandModule<object, CaptureArguments> = {
  command: 'capture',
  describe: 'Write what promoted connections send to a file for Wireshark',
  builder: (yargs) =>
    yargs
      .option('write', {
        alias: 'w',
        type: 'string',
        requiresArg: true,
        placeholder: 'FILE',
        describe: 'File in pcapng format, which is replaced; - is standard output, for a pipe',
      })
      .option('pair', {
        type: 'string',
        requiresArg: true,
        placeholder: 'PAIR',
        coerce: checked(parsePair),
        describe: 'Only this one, as "pairs" shows it',
      })
      .option(
        'port',
        numberOption('port', [1, 65_535], {
          placeholder: 'N',
          describe: 'Only connections with this port, at either end',
        }),
      )
      .option('cgroup', {
        type: 'string',
        requiresArg: true,
        placeholder: 'PATH',
        coerce: checked(parseCgroup),
        describe: 'Only connections with an end at or below this cgroup, as in a policy',
      })
      .option(
        'snaplen',
        numberOption('snaplen', [0, MOST], {
          placeholder: 'N',
          describe: 'Bytes to keep of the payload of each message; default: all',
        }),
      )
      .option('count', numberOption('count', [1, MOST], { placeholder: 'N', describe: 'Packets after which it ends' }))
      .option(
        'duration',
        numberOption('duration', [0.1, 1e6], {
          whole: false,
          placeholder: 'S',
          describe: 'Seconds after which it ends',
        }),
      )
      .option('pin-dir', pinDirOption)
      .epilogue(
        'Connections that are not promoted are ordinary TCP, which tcpdump sees. One capture can run at a time; it needs ' +
          'no controller. The file holds payload and is for its owner only.',
      ),
  handler: async (args) => {
    const { runCapture } = await import('../actions/capture.js');
    await runCapture(args);
  },
};
