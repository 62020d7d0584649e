/** The manual page, man(7), written from the same definitions as --help. */
import { COMMON_OPTIONS, type CommandDescription, type OptionDescription } from './description.js';

export interface ManualFacts {
  program: string;
  version: string;
  /** YYYY-MM-DD */
  date: string;
  commands: readonly CommandDescription[];
}

const EXIT_CODES = [
  ['0', 'Done.'],
  ['1', 'It failed, or what was asked for is not there.'],
  ['2', 'Wrong usage, or an invalid policy.'],
  ['3', "This kernel or host can't."],
] as const;

const FILES = [
  ['/sys/fs/bpf/slipstream', 'Where the datapath is pinned.'],
  ['/var/lib/slipstream-bpf/learned.json', 'Programs that are not accelerated for what they did.'],
  ['/var/lib/slipstream-bpf/policy-*.json', 'The policy in force of the controller with that pin directory.'],
] as const;

const ENVIRONMENT = [
  ['NO_COLOR', 'Without colours if it is set to anything.'],
  ['SLIPSTREAM_DEBUG', 'If set, an unexpected error comes with its stack.'],
] as const;

const EXAMPLES = [
  ['slipstream-bpf up --policy /etc/slipstream/policy.yaml', 'Start in the foreground with a policy.'],
  ['slipstream-bpf pairs --port 6379 --sort redirected', 'The connections of one port, the busiest first.'],
  ['slipstream-bpf explain 6379', 'Why each of them is or is not accelerated, and what would change it.'],
  ['slipstream-bpf top', 'The same live.'],
] as const;

export function manualPage({ program, version, date, commands }: ManualFacts): string {
  const lines = [
    `.TH ${program.toUpperCase()} 8 ${date} ${argument(`${program} ${version}`)} ${argument('System administration')}`,
    '.SH NAME',
    `${text(program)} \\- move the payload of local TCP connections past the network stack`,
    '.SH SYNOPSIS',
    `.B ${text(program)}`,
    '.I COMMAND',
    `[${italic('OPTION')} ...]`,
    '.SH DESCRIPTION',
    'Programs on one host talk TCP to each other and pay for the whole network stack.',
    bold(program),
    'finds the connections whose two ends live on this host, whatever the route between them, and moves their messages',
    "from the sender straight into the receiver's queue with eBPF. TCP stays underneath and takes over, message by",
    'message, whenever the direct way would not be both safe and faster.',
    '.PP',
    'Commands that read the datapath need root and work while no controller runs.',
    '.SH COMMANDS',
    ...commands.flatMap((command) => describe(command)),
    '.SH COMMON OPTIONS',
    ...COMMON_OPTIONS.flatMap(describeOption),
    '.SH EXIT STATUS',
    ...list(EXIT_CODES),
    '.SH ENVIRONMENT',
    ...list(ENVIRONMENT),
    '.SH FILES',
    ...list(FILES),
    '.SH EXAMPLES',
    ...list(EXAMPLES),
    '.SH SEE ALSO',
    '.BR ss (8),',
    '.BR bpftool (8),',
    '.BR tcp (7)',
  ];
  return `${lines.flatMap(wrap).join('\n')}\n`;
}

/** The longest line that mandoc(1) finds in good style. */
const LINE = 80;

/** Prose over several lines; requests stay one. */
function wrap(line: string): string[] {
  if (line.startsWith('.')) return [line];
  return line.split('\n').flatMap((part) => {
    const lines = [''];
    for (const word of part.split(' ')) {
      const last = lines.at(-1) ?? '';
      if (last !== '' && last.length + 1 + word.length > LINE) lines.push(word.replace(/^[.']/, '\\&$&'));
      else lines[lines.length - 1] = last === '' ? word : `${last} ${word}`;
    }
    return lines;
  });
}

function describe(command: CommandDescription): string[] {
  if (command.commands.length > 0) return command.commands.flatMap(describe);
  const places = command.arguments.map(({ name, placeholder }) => italic(placeholder ?? name.toUpperCase()));
  return [
    `.SS ${[...command.words.map(text), ...places].join(' ')}`,
    sentence(command.describe),
    ...command.arguments.flatMap(({ name, placeholder, describe: meaning, choices }) => [
      '.TP',
      italic(placeholder ?? name.toUpperCase()),
      sentence(withChoices(meaning, choices)),
    ]),
    ...command.options.flatMap(describeOption),
  ];
}

function describeOption({
  name,
  describe: meaning,
  placeholder,
  choices,
  default: fallback,
  required,
}: OptionDescription): string[] {
  const value = placeholder === undefined ? '' : ` ${italic(placeholder)}`;
  return [
    '.TP',
    `${bold(`--${name}`)}${value}`,
    sentence(withChoices(meaning, choices)),
    ...(required ? ['Required.'] : []),
    ...(fallback === undefined ? [] : [`Default: ${text(fallback)}.`]),
  ];
}

/** In front of what is said of the default. */
function withChoices(meaning: string, choices: readonly string[]): string {
  if (choices.length === 0) return meaning;
  const [, what = meaning, fallback = ''] = /^(.*?)( \[default: .*\])?$/.exec(meaning) ?? [];
  return `${what}: ${choices.join(', ')}${fallback}`;
}

function list(entries: readonly (readonly [string, string])[]): string[] {
  return entries.flatMap(([term, meaning]) => ['.TP', bold(term), sentence(meaning)]);
}

/** What a formatter would obey is escaped; hyphens of options stay those of ASCII. */
function text(plain: string): string {
  return plain.replaceAll('\\', '\\e').replaceAll('-', '\\-').replace(/^[.']/, '\\&$&');
}

const bold = (plain: string): string => `\\fB${text(plain)}\\fR`;
const italic = (plain: string): string => `\\fI${text(plain)}\\fR`;
const argument = (plain: string): string => `"${text(plain)}"`;

/** Prose keeps its hyphens; each sentence begins a line, as roff wants it. */
function sentence(plain: string): string {
  const escaped = plain
    .replaceAll('\\', '\\e')
    .replace(/(^|[\s([])(-+)(?=\w)/g, (_, before: string, dashes: string) => {
      return before + '\\-'.repeat(dashes.length);
    });
  const closed = /[.?!]$/.test(escaped) ? escaped : `${escaped}.`;
  return closed.replace(/([.?!]) (?=[A-Z])/g, '$1\n').replace(/^[.']/gm, '\\&$&');
}
