import type { CommandModule } from 'yargs';

import { addCommands } from '../mistakes.js';
import { jsonOption } from '../options.js';
import { policyInitCommand } from './policy-init.js';
import { policySuggestCommand } from './policy-suggest.js';
import { policyTestCommand } from './policy-test.js';

export interface CheckArguments {
  file: string;
  json: boolean;
}

const checkCommand: CommandModule<object, CheckArguments> = {
  command: 'check <file>',
  describe: 'Check a policy file; problems are printed as file:line:column: message',
  builder: (yargs) =>
    yargs
      .positional('file', { type: 'string', demandOption: true, placeholder: 'FILE', describe: 'The policy file' })
      .option('json', jsonOption),
  handler: async (args) => {
    const { runPolicyCheck } = await import('../actions/policy-check.js');
    runPolicyCheck(args);
  },
};

const schemaCommand: CommandModule = {
  command: 'schema',
  describe: 'Print the JSON Schema of policy files',
  handler: async () => {
    const { runPolicySchema } = await import('../actions/policy-schema.js');
    runPolicySchema();
  },
};

export const policyCommand: CommandModule = {
  command: 'policy',
  describe: 'Work with policy files',
  builder: (yargs) =>
    addCommands(yargs, [checkCommand, policyTestCommand, policyInitCommand, policySuggestCommand, schemaCommand], 1),
  handler: () => undefined,
};
