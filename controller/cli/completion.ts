/**
 * Completion for bash and zsh, written from the description of the commands.
 *
 * yargs has a generator, too. Its scripts start Node.js at every press of the key and can't tell an option that takes a
 * file from one that takes a number. These know everything but the names of live pairs by themselves.
 */
import { COMMON_OPTIONS, type CommandDescription, type OptionDescription } from './description.js';

export const SHELLS = ['bash', 'zsh'] as const;
export type Shell = (typeof SHELLS)[number];

/** A script to be sourced by that shell. */
export function completionScript(shell: Shell, program: string, commands: readonly CommandDescription[]): string {
  return shell === 'bash' ? bashScript(program, commands) : zshScript(program, commands);
}

/** Something that takes a value: an option or an argument. */
type Valued = Pick<OptionDescription, 'placeholder' | 'choices'>;

const offersPairs = ({ placeholder }: Valued): boolean => placeholder === 'TARGET' || placeholder === 'PAIR';

/** Every command with those below it, without those that only hold others. */
function flatten(commands: readonly CommandDescription[]): CommandDescription[] {
  return commands.flatMap((command) => [command, ...flatten(command.commands)]);
}

const lastWord = ({ words }: CommandDescription): string => words.at(-1) ?? '';
const flag = ({ name }: OptionDescription): string => `--${name}`;
/** A word of a shell that stays one. */
const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;
const functionName = (program: string): string => `_${program.replace(/\W/g, '_')}`;

function bashScript(program: string, commands: readonly CommandDescription[]): string {
  const name = functionName(program);
  const all = flatten(commands);
  const words = [
    `    '') words=${quoted(commands.map(lastWord).join(' '))} ;;`,
    ...all.map(({ words: path, commands: below, arguments: [argument] }) =>
      below.length > 0
        ? `    ${quoted(path.join(' '))}) words=${quoted(below.map(lastWord).join(' '))} ;;`
        : `    ${quoted(path.join(' '))}) ${bashValue(argument)} ;;`,
    ),
  ];
  const options = [
    `    '') options=${quoted(COMMON_OPTIONS.map(flag).join(' '))} ;;`,
    ...all.map(
      ({ words: path, options: own }) =>
        `    ${quoted(path.join(' '))}) options=${quoted([...own, ...COMMON_OPTIONS].map(flag).join(' '))} ;;`,
    ),
  ];
  const values = all.flatMap(({ words: path, options: own }) =>
    own
      .filter(({ placeholder }) => placeholder !== undefined)
      .map((option) => `    ${quoted(`${path.join(' ')} ${flag(option)}`)}) takes=yes; ${bashValue(option)} ;;`),
  );
  return `# bash completion for ${program}: source it, or keep it as ${program} in bash-completion's directory
${name}_value() { # COMMAND OPTION: sets words or kind; true if the option takes a value
  local takes=''
  words='' kind=''
  case "$1 $2" in
${values.join('\n')}
  esac
  [[ -n $takes ]]
}

${name}() {
  local current=\${COMP_WORDS[COMP_CWORD]} command='' words='' kind='' options='' pin_dir='' option='' word i
  local -a line=()
  # An option and its value may come apart at "=".
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=\${COMP_WORDS[i]}
    if [[ $word == = ]]; then continue; fi
    line+=("$word")
  done
  if [[ $current == = ]]; then current=''; fi
  for word in \${line[@]+"\${line[@]}"}; do
    if [[ -n $option ]]; then
      if [[ $option == --pin-dir ]]; then pin_dir=$word; fi
      option=''
    elif [[ $word == -* ]]; then
      if ${name}_value "$command" "$word"; then option=$word; fi
    else
      case "\${command:+$command }$word" in
        ${all.map(({ words: path }) => quoted(path.join(' '))).join(' | ')}) command="\${command:+$command }$word" ;;
      esac
    fi
  done
  words='' kind=''
  if [[ -n $option ]]; then
    ${name}_value "$command" "$option"
  elif [[ $current == -* ]]; then
    case $command in
${options.join('\n')}
    esac
    words=$options
  else
    case $command in
${words.join('\n')}
    esac
  fi
  case $kind in
    file) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$current") ;;
    directory) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$current") ;;
    pair)
      words=$("\${COMP_WORDS[0]}" pairs --columns pair --no-header \${pin_dir:+--pin-dir "$pin_dir"} 2>/dev/null)
      mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
      ;;
    *) mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current") ;;
  esac
}

complete -F ${name} ${program}
`;
}

function bashValue(valued: Valued | undefined): string {
  if (valued === undefined) return ':';
  if (valued.choices.length > 0) return `words=${quoted(valued.choices.join(' '))}`;
  if (valued.placeholder === 'FILE') return "kind='file'";
  if (valued.placeholder === 'DIR') return "kind='directory'";
  return offersPairs(valued) ? "kind='pair'" : ':';
}

/** Text inside `[...]` of a specification of _arguments. */
const bracketed = (text: string): string => text.replace(/[[\]\\:]/g, '\\$&');

function zshScript(program: string, commands: readonly CommandDescription[]): string {
  const name = functionName(program);
  return `#compdef ${program}
# zsh completion for ${program}: source it after compinit, or keep it as _${program} in a directory of $fpath
${name}_pairs() {
  local -a pairs=(\${(f)"$(\${words_typed[1]} pairs --columns pair --no-header \${opt_args[--pin-dir]:+--pin-dir \${opt_args[--pin-dir]}} 2>/dev/null)"})
  compadd -a pairs
}

${flatten(commands)
  .filter(({ commands: below }) => below.length > 0)
  .map((command) => zshGroup(name, command.words, command.commands))
  .join('')}${zshGroup(name, [], commands)}
${name}() {
  local -a words_typed=($words)
  ${name}_of
}

if [[ \${funcstack[1]} == _${program} ]]; then
  ${name} "$@"
else
  compdef ${name} ${program}
fi
`;
}

/** A function that completes one of these commands and what belongs to it. */
function zshGroup(name: string, above: readonly string[], commands: readonly CommandDescription[]): string {
  const described = commands.map((command) =>
    quoted(`${lastWord(command)}:${command.describe.replaceAll(':', '\\:')}`),
  );
  const cases = commands.map((command) => {
    const next =
      command.commands.length > 0
        ? zshFunction(name, command.words)
        : `_arguments -s : ${[...command.options, ...COMMON_OPTIONS].map(zshOption).join(' ')} ${command.arguments
            .map((argument) => quoted(`:${argument.name}:${zshAction(name, argument)}`))
            .join(' ')}`.trimEnd();
    return `    ${lastWord(command)}) ${next} ;;`;
  });
  return `${zshFunction(name, above)}() {
  local context state state_descr line
  typeset -A opt_args
  local -a commands=(${described.join(' ')})
  _arguments -C : ${COMMON_OPTIONS.map(zshOption).join(' ')} ':command:->command' '*::argument:->argument'
  case $state in
  command) _describe -t commands command commands ;;
  argument)
    case $line[1] in
${cases.join('\n')}
    esac
    ;;
  esac
}
`;

  function zshOption(option: OptionDescription): string {
    const value =
      option.placeholder === undefined
        ? ''
        : `=:${option.placeholder.replaceAll(':', '\\:')}:${zshAction(name, option)}`;
    const [equals, rest] = value === '' ? ['', ''] : ['=', value.slice(1)];
    return quoted(`${flag(option)}${equals}[${bracketed(option.describe)}]${rest}`);
  }
}

const zshFunction = (name: string, words: readonly string[]): string => [`${name}_of`, ...words].join('_');

function zshAction(name: string, { placeholder, choices }: Valued): string {
  if (choices.length > 0) return `(${choices.join(' ')})`;
  if (placeholder === 'FILE') return '_files';
  if (placeholder === 'DIR') return '_files -/';
  return offersPairs({ placeholder, choices }) ? `${name}_pairs` : ' ';
}
