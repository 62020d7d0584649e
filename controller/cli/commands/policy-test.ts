import type { CommandModule } from 'yargs';

import { EXIT, UserError } from '../../errors.js';
import { parsePlace, type Place } from '../../explain/place.js';
import { programProblem } from '../../policy/glob.js';
import { comm } from '../../policy/programs.js';
import { quote } from '../../policy/words.js';
import { jsonOption, numberOption, stateDirOption } from '../options.js';

export interface TestArguments {
  file: string;
  cgroup: Place;
  port: number | undefined;
  program: string | undefined;
  'peer-cgroup': Place | undefined;
  'peer-port': number | undefined;
  'peer-program': string | undefined;
  'state-dir': string;
  json: boolean;
}

const PLACES = 'a path below the v2 root, unit:NAME, container:ID, pod:UID, or pid:N';

export const policyTestCommand: CommandModule<object, TestArguments> = {
  command: 'test <file>',
  describe: 'Say which rule of a policy file decides for an end, or both ends, of a connection, and why',
  builder: (yargs) =>
    yargs
      .positional('file', { type: 'string', demandOption: true, placeholder: 'FILE', describe: 'The policy file' })
      .option('cgroup', {
        type: 'string',
        requiresArg: true,
        demandOption: true,
        placeholder: 'CGROUP',
        coerce: placeOf('cgroup'),
        describe: `Where the end is: ${PLACES}`,
      })
      .option('port', numberOption('port', [1, 65_535], { placeholder: 'N', describe: "The server's port" }))
      .option('program', {
        type: 'string',
        requiresArg: true,
        placeholder: 'NAME',
        coerce: programName('program'),
        describe: 'The program that reads at this end, as in /proc/PID/comm [default: that of pid:N]',
      })
      .option('peer-cgroup', {
        type: 'string',
        requiresArg: true,
        placeholder: 'CGROUP',
        coerce: placeOf('peer-cgroup'),
        describe: 'Where the other end is, likewise',
      })
      .option(
        'peer-port',
        numberOption('peer-port', [1, 65_535], {
          placeholder: 'N',
          describe: "The server's port as the other end sees it, where it is translated [default: --port]",
        }),
      )
      .option('peer-program', {
        type: 'string',
        requiresArg: true,
        placeholder: 'NAME',
        coerce: programName('peer-program'),
        describe: 'The program that reads at the other end',
      })
      .option('state-dir', stateDirOption)
      .option('json', jsonOption),
  handler: async (args) => {
    const { runPolicyTest } = await import('../actions/policy-test.js');
    runPolicyTest(args);
  },
};

function placeOf(option: string): (text: string) => Place {
  return (text) => {
    try {
      return parsePlace(text);
    } catch (error) {
      throw error instanceof UserError ? new UserError(`--${option} ${error.message}`, error.exitCode) : error;
    }
  };
}

/** As the kernel keeps it. */
function programName(option: string): (text: string) => string {
  return (text) => {
    // What can be no name in a policy can be none here.
    if (text.startsWith('/')) {
      throw new UserError(`--${option} ${quote(text)} ${programProblem(text) ?? ''}`, EXIT.usage);
    }
    return comm(text);
  };
}
