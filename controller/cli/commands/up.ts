import type { CommandModule } from 'yargs';

import { parseListenAddress } from '../../daemon/listen-address.js';
import { checked, logLevelOption, numberOption, pinDirOption, stateDirOption, timeoutOption } from '../options.js';

export interface UpArguments {
  policy: string | undefined;
  cgroup: string | undefined;
  'pin-dir': string;
  metrics: string;
  'web-config': string | undefined;
  'max-pairs': number;
  'detach-on-exit': boolean;
  'state-dir': string;
  'stall-after': number;
  'accept-known-bugs': boolean;
  adopt: boolean;
  timeout: number;
  'log-level': string;
}

export const upCommand: CommandModule<object, UpArguments> = {
  command: 'up',
  describe: 'Load and attach the datapath, or adopt it, and run in the foreground until SIGINT or SIGTERM',
  builder: (yargs) =>
    yargs
      .option('policy', {
        type: 'string',
        requiresArg: true,
        placeholder: 'FILE',
        describe: 'Policy file; reloaded on change and on SIGHUP',
      })
      .option('cgroup', {
        type: 'string',
        requiresArg: true,
        placeholder: 'DIR',
        describe: "Find connections at and below this cgroup v2 directory [default: the host's root]",
      })
      .option('pin-dir', pinDirOption)
      .option('metrics', {
        type: 'string',
        default: '127.0.0.1:9468',
        requiresArg: true,
        placeholder: 'ADDR:PORT',
        coerce: checked(parseListenAddress),
        describe: 'Address and port of the dashboard, /metrics, /api, /healthz and /readyz',
      })
      .option('web-config', {
        type: 'string',
        requiresArg: true,
        placeholder: 'FILE',
        describe: "TLS and users for that address: a file in the format of Prometheus' exporter-toolkit",
      })
      .option('max-pairs', {
        ...numberOption('max-pairs', [1, 1_048_576], { placeholder: 'N', describe: 'Size of the pair table' }),
        default: 16384,
      })
      .option('detach-on-exit', { type: 'boolean', default: false, describe: 'Drain and remove everything at exit' })
      .option('state-dir', stateDirOption)
      .option('stall-after', {
        ...numberOption('stall-after', [0.1, 86_400], {
          whole: false,
          placeholder: 'S',
          describe: 'When redirected data that nobody takes is reported and its reader remembered, seconds',
        }),
        default: 30,
      })
      .option('accept-known-bugs', {
        type: 'boolean',
        default: false,
        describe: 'Promote although this kernel release has a known bug that may strike',
      })
      .option('adopt', {
        type: 'boolean',
        default: false,
        describe: 'Also take connections that are established already, each in a moment of silence',
      })
      .option('timeout', timeoutOption)
      .option('log-level', logLevelOption),
  handler: async (args) => {
    const { runUp } = await import('../actions/up.js');
    await runUp(args);
  },
};
