/** Slips on the command line that yargs lets pass or words for programmers. */
import type { Argv, CommandModule, MiddlewareFunction } from 'yargs';

import { EXIT, UserError } from '../errors.js';
import { anyOf, quote, suggest } from '../policy/words.js';

/** What yargs' getOptions() returns; @types/yargs leaves it out. */
interface KnownOptions {
  key: Record<string, unknown>;
  alias: Record<string, string[]>;
  boolean: string[];
  choices: Record<string, string[]>;
}

type Values = Readonly<Record<string, unknown>>;

/** A command, whatever its arguments. */
export type Named = Pick<CommandModule, 'command'>;

/** What yargs says, in the words of the rest. */
const WORDS = {
  'Not enough arguments following: %s': '--%s needs a value',
  'Not enough non-option arguments: got %s, need at least %s': {
    one: '%s argument given, %s needed',
    other: '%s arguments given, %s needed',
  },
  'Missing required argument: %s': { one: '--%s is missing', other: '--%s are missing' },
  'Unknown argument: %s': { one: 'unexpected argument: %s', other: 'unexpected arguments: %s' },
};

/** Makes a parser that takes nothing but what it knows. */
export function rejectMistakes(parser: Argv, written: readonly string[]): Argv {
  const check = (values: Values, inner: Argv): void => {
    checkOptions(written, values, inner);
  };
  return parser
    .parserConfiguration({ 'boolean-negation': false, 'camel-case-expansion': false, 'dot-notation': false })
    .updateStrings(WORDS as unknown as Record<string, string>)
    .strict()
    .middleware(check as unknown as MiddlewareFunction, true);
}

/**
 * Looks at the options before yargs does.
 * @param written the arguments as they were typed
 * @throws UserError (exit code 2) that names the option and the remedy
 */
function checkOptions(written: readonly string[], values: Values, parser: Argv): void {
  const known = (parser as unknown as { getOptions(): KnownOptions }).getOptions();
  const names = [...new Set([...Object.keys(known.key), ...Object.entries(known.alias).flat(2)])];
  const flags = names.filter((name) => name.length > 1).map((name) => `--${name}`);
  for (const [name, value] of Object.entries(values)) {
    if (['_', '--', '$0'].includes(name)) continue;
    if (!names.includes(name)) {
      const flag = name.length > 1 ? `--${name}` : `-${name}`;
      throw new UserError(`unknown option ${quote(flag)}: ${suggest(flag, flags)}`, EXIT.usage);
    }
    if (Array.isArray(value)) throw new UserError(`--${name} was given more than once: give it once`, EXIT.usage);
    const choices = known.choices[name];
    if (typeof value === 'string' && choices !== undefined && !choices.includes(value)) {
      throw new UserError(`--${name}: unknown value ${quote(value)}: ${suggest(value, choices)}`, EXIT.usage);
    }
    // yargs makes a 0 of an empty number.
    const isEmpty = written.some(
      (word, index) => word === `--${name}=` || (word === '' && written[index - 1] === `--${name}`),
    );
    if (value === '' || isEmpty) throw new UserError(`--${name} needs a value: it is empty`, EXIT.usage);
  }
  // yargs takes every such value but "true" for a no.
  for (const flag of known.boolean) {
    const bad = written.find((word) => word.startsWith(`--${flag}=`) && !/=(true|false)$/.test(word));
    if (bad !== undefined) {
      throw new UserError(`${quote(bad)}: --${flag} is there or not, write it without a value`, EXIT.usage);
    }
  }
}

/**
 * Adds commands to a parser; one that is missing or misspelt is named with its remedy.
 * @param depth how many words of the command line come before these commands
 */
export function addCommands(parser: Argv, modules: readonly Named[], depth = 0): Argv {
  const names = modules.map(({ command }) => String(command).split(' ', 1)[0] ?? '');
  for (const module of modules) parser.command(module as CommandModule);
  return parser.demandCommand(1, `a command is missing: write ${anyOf(names)}`).middleware(({ _ }) => {
    const name = _[depth];
    if (name !== undefined && !names.includes(String(name))) {
      throw new UserError(`unknown command ${quote(String(name))}: ${suggest(String(name), names)}`, EXIT.usage);
    }
  }, true);
}
