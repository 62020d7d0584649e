/**
 * The command line as data, for completion and the manual page. The builders that set yargs up are run against a
 * recorder, so that nothing is written twice.
 */
import type { Argv, CommandModule, Options } from 'yargs';

import type { Named } from './mistakes.js';

export interface OptionDescription {
  name: string;
  describe: string;
  /** Undefined for a flag. */
  placeholder: string | undefined;
  /** What may be given; empty: anything. */
  choices: readonly string[];
  /** As help prints it; undefined if there is none worth a word. */
  default: string | undefined;
  required: boolean;
}

export interface ArgumentDescription {
  name: string;
  describe: string;
  placeholder: string | undefined;
  choices: readonly string[];
  required: boolean;
}

export interface CommandDescription {
  /** The words that call it, for instance `policy check`. */
  words: readonly string[];
  describe: string;
  arguments: readonly ArgumentDescription[];
  options: readonly OptionDescription[];
  commands: readonly CommandDescription[];
}

/** Options of every command. */
export const COMMON_OPTIONS: readonly OptionDescription[] = [
  { name: 'help', describe: 'Show help', placeholder: undefined, choices: [], default: undefined, required: false },
  {
    name: 'version',
    describe: 'Show version number',
    placeholder: undefined,
    choices: [],
    default: undefined,
    required: false,
  },
];

/** @param above the words before these commands */
export function describeCommands(modules: readonly Named[], above: readonly string[] = []): CommandDescription[] {
  return modules.map((module) => {
    const { command, describe, builder } = module as CommandModule;
    const [name = '', ...places] = String(command).split(' ');
    const recorder = new Recorder();
    if (typeof builder === 'function') void builder(recorder as unknown as Argv);
    const words = [...above, name];
    return {
      words,
      describe: String(describe),
      arguments: places.map((place) => recorder.argument(place)),
      options: recorder.options,
      commands: describeCommands(recorder.commands, words),
    };
  });
}

/** Stands in for yargs: takes notes of what is asked of it. */
class Recorder {
  readonly options: OptionDescription[] = [];
  readonly commands: Named[] = [];
  readonly #positionals = new Map<string, Options>();

  option(name: string, option: Options): this {
    const fallback = option.default as string | number | boolean | undefined;
    this.options.push({
      name,
      describe: option.describe ?? '',
      placeholder: option.type === 'boolean' ? undefined : (option.placeholder ?? name.toUpperCase()),
      choices: (option.choices ?? []).map(String),
      default: fallback === undefined || fallback === false ? undefined : String(fallback),
      required: option.demandOption === true,
    });
    return this;
  }

  positional(name: string, option: Options): this {
    this.#positionals.set(name, option);
    return this;
  }

  command(module: Named): this {
    this.commands.push(module);
    return this;
  }

  conflicts(): this {
    return this;
  }

  epilogue(): this {
    return this;
  }

  demandCommand(): this {
    return this;
  }

  middleware(): this {
    return this;
  }

  /** @param place as in the command's pattern: `<file>`, or `[file]` if it may be left out */
  argument(place: string): ArgumentDescription {
    const name = place.slice(1, -1);
    const option = this.#positionals.get(name);
    return {
      name,
      describe: option?.describe ?? '',
      placeholder: option?.placeholder,
      choices: (option?.choices ?? []).map(String),
      required: place.startsWith('<'),
    };
  }
}
