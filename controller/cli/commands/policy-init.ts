import type { CommandModule } from 'yargs';

import { outputOption, pinDirOption, stateDirOption } from '../options.js';

const ACTIONS = ['observe', 'accelerate'] as const;

/** Touches nothing. */
const FIRST: { action: (typeof ACTIONS)[number] } = { action: 'observe' };

export interface InitArguments {
  output: string | undefined;
  action: (typeof ACTIONS)[number];
  'pin-dir': string;
  'state-dir': string;
}

export const policyInitCommand: CommandModule<object, InitArguments> = {
  command: 'init',
  describe: 'Write a commented policy file from what talks to itself on this host at present',
  builder: (yargs) =>
    yargs
      .option('output', {
        ...outputOption,
        describe: 'File to write, which must not be there [default: standard output]',
      })
      .option('action', {
        choices: ACTIONS,
        default: FIRST.action,
        requiresArg: true,
        describe: 'What the rules say; what no rule is about is observed',
      })
      .option('pin-dir', pinDirOption)
      .option('state-dir', stateDirOption),
  handler: async (args) => {
    const { runPolicyInit } = await import('../actions/policy-init.js');
    runPolicyInit(args);
  },
};
