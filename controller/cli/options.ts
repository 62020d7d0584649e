/** Options that several commands share, and checks of their values. */
import { EXIT, UserError } from '../errors.js';
import { DEFAULT_PIN_DIR } from '../probe/paths.js';

/** What stands for a value in the manual page, and what completion offers for it. */
export type Placeholder =
  | 'FILE'
  | 'DIR'
  | 'ADDR:PORT'
  | 'CGROUP'
  | 'PAIR'
  | 'COLUMN'
  | 'COLUMNS'
  | 'N'
  | 'NAME'
  | 'PATH'
  | 'S'
  | 'TARGET'
  | 'WORD';

declare module 'yargs' {
  interface Options {
    placeholder?: Placeholder;
  }
  interface PositionalOptions {
    placeholder?: Placeholder;
  }
}

export const pinDirOption = {
  type: 'string',
  default: DEFAULT_PIN_DIR,
  requiresArg: true,
  placeholder: 'DIR',
  describe: 'Directory in the BPF file system that keeps the datapath',
} as const;

export const stateDirOption = {
  type: 'string',
  default: '/var/lib/slipstream-bpf',
  requiresArg: true,
  placeholder: 'DIR',
  describe: 'Directory that keeps what was learned about programs',
} as const;

export const jsonOption = {
  type: 'boolean',
  default: false,
  describe: 'Print JSON',
} as const;

export const outputOption = {
  type: 'string',
  requiresArg: true,
  placeholder: 'FILE',
} as const;

export const logLevelOption = {
  choices: ['error', 'warn', 'info', 'debug'],
  default: 'info',
  requiresArg: true,
  describe: 'What to log, as JSON lines on standard error',
} as const;

/** An option that is a number, refused outside of its range before the command runs. @param whole by default */
export function numberOption(
  name: string,
  [least, most]: readonly [number, number],
  { whole = true, ...rest }: { whole?: boolean; placeholder: Placeholder; describe: string },
) {
  return {
    type: 'number',
    requiresArg: true,
    ...rest,
    coerce: (value: number) => requireNumber(name, value, least, most, whole),
  } as const;
}

/** A text that is refused before the command runs. @param parse throws UserError; what it returns is of no interest */
export function checked(parse: (text: string) => unknown): (text: string) => string {
  return (text) => {
    parse(text);
    return text;
  };
}

export const timeoutOption = {
  ...numberOption('timeout', [0, 86_400], {
    whole: false,
    placeholder: 'S',
    describe: 'How long to wait for readers to take what was redirected to them, seconds',
  }),
  default: 10,
} as const;

/** Prints to standard output, for a person. */
export function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

/** @throws UserError (exit code 2) */
export function requireNumber(name: string, value: number, least: number, most: number, whole = true): number {
  if (Number.isFinite(value) && value >= least && value <= most && (!whole || Number.isInteger(value))) return value;
  throw new UserError(
    `--${name}: give ${whole ? 'a whole number' : 'a number'} from ${String(least)} to ${String(most)}`,
    EXIT.usage,
  );
}
