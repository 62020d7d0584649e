import type { CommandModule } from 'yargs';

import { capture } from '../../capture/capture.js';
import { EXIT, UserError } from '../../errors.js';
import { pinDirOption, requireNumber } from '../options.js';
import { captureObjectFile, objectFile, VERSION } from '../package-info.js';

interface CaptureArguments {
  'pin-dir': string;
  write: string | undefined;
  pair: string | undefined;
  port: number | undefined;
  cgroup: string | undefined;
  snaplen: number | undefined;
  count: number | undefined;
  duration: number | undefined;
}

const MOST = 2 ** 32 - 1;

export const captureCommand: CommandModule<object, CaptureArguments> = {
  command: 'capture',
  describe: 'Write what promoted connections send to a file for Wireshark',
  builder: (yargs) =>
    yargs
      .option('write', {
        alias: 'w',
        type: 'string',
        requiresArg: true,
        describe: 'File in pcapng format, which is replaced; - is standard output, for a pipe',
      })
      .option('pair', { type: 'string', requiresArg: true, describe: 'Only this one, as "pairs" shows it' })
      .option('port', { type: 'number', requiresArg: true, describe: 'Only connections with this port, at either end' })
      .option('cgroup', {
        type: 'string',
        requiresArg: true,
        describe: 'Only connections with an end at or below this cgroup, as in a policy',
      })
      .option('snaplen', {
        type: 'number',
        requiresArg: true,
        describe: 'Bytes to keep of the payload of each message; default: all',
      })
      .option('count', { type: 'number', requiresArg: true, describe: 'Packets after which it ends' })
      .option('duration', { type: 'number', requiresArg: true, describe: 'Seconds after which it ends' })
      .option('pin-dir', pinDirOption)
      .epilogue(
        'Connections that are not promoted are ordinary TCP, which tcpdump sees. One capture can run at a time; it needs ' +
          'no controller. The file holds payload and is for its owner only.',
      ),
  handler: async (args) => {
    const number = (name: 'port' | 'snaplen' | 'count' | 'duration', least: number, most: number, whole = true) => {
      const value = args[name];
      return value === undefined ? undefined : requireNumber(name, value, least, most, whole);
    };
    if (args.write === undefined) throw new UserError('-w is missing: give it a file, or - for a pipe', EXIT.usage);
    const options = {
      pinDir: args['pin-dir'],
      output: args.write,
      pair: args.pair,
      port: number('port', 1, 65535),
      cgroup: args.cgroup,
      snaplen: number('snaplen', 0, MOST) ?? MOST,
      count: number('count', 1, MOST) ?? Infinity,
      duration: number('duration', 0.1, 1e6, false),
    };
    const stop = new AbortController();
    const end = (): void => {
      stop.abort();
    };
    // Once: a second signal ends a process whose output nobody takes.
    process.once('SIGINT', end).once('SIGTERM', end);
    await capture(options, {
      objectFile: objectFile(),
      captureObjectFile: captureObjectFile(),
      version: VERSION,
      say: (line) => {
        process.stderr.write(`${line}\n`);
      },
      stop: stop.signal,
    });
  },
};
