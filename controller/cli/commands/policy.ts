import type { CommandModule } from 'yargs';

import { readPolicy } from '../../daemon/policy-source.js';
import { formatProblem } from '../../policy/parse.js';
import { policyJsonSchema } from '../../policy/schema.js';
import { addCommands } from '../mistakes.js';
import { jsonOption, say } from '../options.js';
import { policyInitCommand } from './policy-init.js';
import { policySuggestCommand } from './policy-suggest.js';
import { policyTestCommand } from './policy-test.js';

const checkCommand: CommandModule<object, { file: string; json: boolean }> = {
  command: 'check <file>',
  describe: 'Check a policy file; problems are printed as file:line:column: message',
  builder: (yargs) =>
    yargs
      .positional('file', { type: 'string', demandOption: true, placeholder: 'FILE', describe: 'The policy file' })
      .option('json', jsonOption),
  handler: async ({ file, json }) => {
    const { policy, warnings, hash } = await readPolicy(file);
    if (json) {
      say(JSON.stringify({ file, hash, warnings, policy }, undefined, 2));
      return;
    }
    for (const warning of warnings) say(`warning: ${formatProblem(warning)}`);
    say(`${file}: valid, ${String(policy.rules.length)} rules, default action ${policy.defaults.action}`);
  },
};

const schemaCommand: CommandModule = {
  command: 'schema',
  describe: 'Print the JSON Schema of policy files',
  handler: () => {
    say(JSON.stringify(policyJsonSchema(), undefined, 2));
  },
};

export const policyCommand: CommandModule = {
  command: 'policy',
  describe: 'Work with policy files',
  builder: (yargs) =>
    addCommands(yargs, [checkCommand, policyTestCommand, policyInitCommand, policySuggestCommand, schemaCommand], 1),
  handler: () => undefined,
};
