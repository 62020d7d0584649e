import { readFileSync } from 'node:fs';

import type { CommandModule } from 'yargs';

import { readPolicy } from '../../daemon/policy-source.js';
import { EXIT, UserError } from '../../errors.js';
import { findPlace, parsePlace, type Place } from '../../explain/place.js';
import { LearnedPrograms } from '../../policy/learned.js';
import { programProblem } from '../../policy/glob.js';
import { comm } from '../../policy/programs.js';
import { type TrialEnd, tryPolicy } from '../../policy/trial.js';
import { quote } from '../../policy/words.js';
import { renderTrial } from '../../view/trial.js';
import { jsonOption, numberOption, say, stateDirOption } from '../options.js';

interface TestArguments {
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
    const { policy, hash, places } = await readPolicy(args.file);
    const learned = readLearned(args['state-dir']);
    const end = (place: Place | undefined, port: number | undefined, program: string | undefined): TrialEnd => {
      const found = place === undefined ? { cgroup: null, program: null } : findPlace(place);
      const name = program ?? found.program;
      return {
        cgroup: found.cgroup,
        port: port ?? null,
        program: name,
        learned: learned === undefined ? null : learned.has(name ?? '', found.cgroup ?? undefined),
      };
    };
    const own = end(args.cgroup, args.port, args.program);
    const peer = [args['peer-cgroup'], args['peer-port'], args['peer-program']].some((given) => given !== undefined)
      ? end(args['peer-cgroup'], args['peer-port'] ?? args.port, args['peer-program'])
      : undefined;
    const result = tryPolicy({ file: args.file, hash, policy, places }, peer === undefined ? [own] : [own, peer]);
    say(args.json ? JSON.stringify(result, undefined, 2) : renderTrial(result));
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

/** Undefined where only root can see it. */
function readLearned(stateDir: string): LearnedPrograms | undefined {
  try {
    readFileSync(`${stateDir}/learned.json`);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EACCES') return undefined;
  }
  return new LearnedPrograms(stateDir);
}
