/**
 * Slips that every command must refuse with one sentence and exit code 2, made up from the description of the commands,
 * so that none is forgotten; and what is written from the same description: completion, the manual page, schemas.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import type { Argv, CommandModule } from 'yargs';

import { COMMANDS, describedCommands, PROGRAM as NAME } from '../../controller/cli/commands.js';
import { completionScript } from '../../controller/cli/completion.js';
import { type CommandDescription, COMMON_OPTIONS, type OptionDescription } from '../../controller/cli/description.js';
import { manualPage } from '../../controller/cli/manual.js';
import type { Named } from '../../controller/cli/mistakes.js';
import { VERSION } from '../../controller/cli/package-info.js';
import { runCommandLine } from '../../controller/cli/run.js';
import { OUTPUTS, outputSchema } from '../../controller/view/schemas.js';
import { mapAtOnce } from '../kernel/support/at-once.js';
import { Daemon, PROGRAM, type Result, run, stateDir } from '../kernel/support/daemon.js';
import { Connection } from '../kernel/support/endpoint.js';
import { needsRoot, Sandbox, skip } from '../kernel/support/sandbox.js';
import { parseOutput, readSchema } from './schema.js';
import { Terminal } from './terminal.js';

/** Those that do something, with the words that lead to them. */
function leaves(commands: readonly CommandDescription[]): CommandDescription[] {
  return commands.flatMap((command) => (command.commands.length === 0 ? [command] : leaves(command.commands)));
}

/** A command line that is right so far: with what must be given. */
function complete({ words, arguments: places, options }: CommandDescription): string[] {
  return [
    ...words,
    ...places.map(({ choices: [first = '6379'] }) => first),
    ...options.filter(({ required }) => required).flatMap((option) => [`--${option.name}`, valueOf(option)]),
  ];
}

/** Something that an option takes. */
function valueOf({ choices: [first], placeholder = '' }: OptionDescription): string {
  return first ?? VALUES[placeholder]?.[0] ?? '1';
}

/** Of each kind of value: one that may be given, and what can't be; none: anything may. */
const VALUES: Partial<Record<string, [good: string, ...bad: string[]]>> = {
  'ADDR:PORT': ['127.0.0.1:0', 'nonsense', '127.0.0.1', '127.0.0.1:65536', '::1:80'],
  CGROUP: [
    '/x',
    'nonsense',
    'x/y',
    '/sys/fs/cgroup/x',
    '/a//b',
    'pid:0',
    'pid:x',
    'unit:a/b',
    'container:nonsense',
    'pod:nonsense',
  ],
  COLUMNS: ['pair', 'nonsense', 'pair,,state'],
  DIR: ['/x'],
  FILE: ['/x'],
  N: ['1', 'nonsense', '-1', '1.5', '1e99', 'NaN', 'Infinity'],
  NAME: ['x'],
  PAIR: ['1.1', 'nonsense', '1', '-1.1'],
  PATH: ['/x', 'nonsense', '/a//b', '/[x'],
  S: ['1', 'nonsense', '-1', '1e99', 'NaN'],
  TARGET: ['6379', 'nonsense', '0', 'pid:0', '10.0.0.1:99999', '::1:80'],
  WORD: ['x'],
};

describe('every command', () => {
  /** Commands that only say that they ran: a slip that is not noticed must not start anything. */
  const harmless = COMMANDS.map(makeHarmless);

  function makeHarmless(module: Named): Named {
    const { builder, command } = module as CommandModule;
    const handler = (): never => {
      throw new Error(`${String(command)} ran`);
    };
    // Those below it are added by its builder.
    const build = (yargs: Argv): unknown => {
      const add = yargs.command.bind(yargs) as (module: Named) => Argv;
      yargs.command = ((below: Named) => add(makeHarmless(below))) as Argv['command'];
      return typeof builder === 'function' ? builder(yargs) : yargs;
    };
    return { ...module, builder: build, handler } as Named;
  }

  async function refuse(args: string[], sentence: RegExp): Promise<void> {
    let said = '';
    const code = await runCommandLine(args, harmless, (text) => {
      said += text;
    });
    assert.match(said, sentence, args.join(' '));
    assert.match(said, /^slipstream-bpf: [^\n]+\n$/, 'one sentence');
    assert.equal(code, 2);
  }

  /** Nothing is wrong with it: the command runs. */
  async function accept(args: string[]): Promise<void> {
    let said = '';
    const code = await runCommandLine(args, harmless, (text) => {
      said += text;
    });
    assert.match(said, / ran\n$/, args.join(' '));
    assert.equal(code, 1);
  }

  for (const command of leaves(describedCommands())) {
    const right = complete(command);
    /** The same without an option that must be given. */
    const without = (flag: string): string[] => {
      const at = right.indexOf(flag);
      return at < 0 ? right : right.toSpliced(at, 2);
    };

    describe(command.words.join(' '), () => {
      it('is described in one line', () => {
        assert.match(command.describe, /^[A-Z][^\n]{10,150}[^.]$/);
        for (const { describe: meaning } of command.options) assert.match(meaning, /^[A-Z][^\n]+[^.]$/);
      });

      it('refuses an unknown option, a misspelt one and a letter', async () => {
        await refuse([...right, '--no-such-thing'], /unknown option '--no-such-thing'/);
        await refuse([...right, '-x'], /unknown option '-x'/);
        for (const { name } of command.options.filter(({ name: long }) => long.length > 4)) {
          await refuse([...right, `--${name.slice(0, -1)}`], new RegExp(`did you mean '--`));
        }
      });

      it('refuses an argument too many, and one too few', async () => {
        await refuse([...right, 'too', 'many'], /unexpected argument/);
        if (command.arguments.length > 0) await refuse([...command.words], /0 arguments given, 1 needed/);
      });

      it('refuses options without their value, twice, and with values that they do not know', async () => {
        for (const option of command.options) {
          const { name, placeholder, choices } = option;
          const flag = `--${name}`;
          if (placeholder === undefined) {
            await refuse([...right, `${flag}=maybe`], /is there or not, write it without a value/);
          } else {
            await refuse([...without(flag), flag], new RegExp(`${flag} needs a value`));
            const [one = valueOf(option), other = one === '1' ? '2' : one] = choices;
            const once = right.includes(flag) ? right : [...right, flag, one];
            await refuse([...once, flag, other], new RegExp(`${flag} was given more than once`));
            await refuse(
              [...without(flag), flag, ''],
              new RegExp(`${flag}(: unknown value| needs a value: it is empty)`),
            );
          }
          if (choices.length > 0)
            await refuse([...right, flag, 'nonsense'], new RegExp(`${flag}: unknown value 'nonsense'`));
        }
      });

      it('refuses a value of the wrong kind', async () => {
        for (const { name, placeholder, choices } of command.options) {
          if (placeholder === undefined || choices.length > 0) continue;
          const values = VALUES[placeholder];
          assert.ok(values, `--${name}: say above what a ${placeholder} may be`);
          const [good, ...bad] = values;
          for (const value of bad)
            await refuse([...without(`--${name}`), `--${name}=${value}`], new RegExp(`--${name}\\b`));
          // What may be given gets as far as the command.
          await accept([...without(`--${name}`), `--${name}=${good}`]);
        }
        for (const [index, { name, placeholder, choices }] of command.arguments.entries()) {
          const [, ...bad] = choices.length > 0 ? ['', 'nonsense'] : (VALUES[placeholder ?? ''] ?? []);
          assert.ok(
            choices.length > 0 || VALUES[placeholder ?? ''],
            `${name}: say above what a ${String(placeholder)} may be`,
          );
          const at = command.words.length + index;
          for (const value of bad) await refuse(right.toSpliced(at, 1, value), /nonsense|is no target|shell/);
        }
      });

      it('says what is missing', async () => {
        for (const { name } of command.options.filter(({ required }) => required)) {
          await refuse(without(`--${name}`), new RegExp(`--${name} is missing`));
        }
      });
    });
  }

  it('refuses a shell that it knows no completion for', () => refuse(['completion', 'fish'], /completion|shell/));
});

describe('values that only a command can judge', function () {
  this.timeout(60_000);
  let sandbox: Sandbox;

  before(function () {
    needsRoot(this);
    sandbox = new Sandbox('values');
  });

  after(() => sandbox.dispose());

  const cases: [string[], RegExp][] = [
    [['explain', 'nonsense'], /'nonsense' is no target: give a port \(6379\)/],
    [['explain', '10.0.0.1:99999'], /is no target/],
    [['pairs', '--port', '0'], /--port: give a whole number from 1 to 65535/],
    [['pairs', '--cgroup', 'system.slice'], /--cgroup 'system\.slice' must start with '\/'/],
    [['pairs', '--columns', 'pair,stat'], /--columns: unknown column 'stat': did you mean 'state'\?/],
    [['top', '--interval', '0'], /--interval: give a number from 0\.1 to 3600/],
    [['top', '--iterations', '1.5'], /--iterations: give a whole number from 1 to/],
    [['bench', '--port', '0'], /--port: give a whole number from 1 to 65535/],
    [['bench', '--port', '70000'], /--port: give a whole number from 1 to 65535/],
    [['bench', '--seconds', 'ten'], /--seconds: give a number from 0\.5 to 600/],
  ];
  let results: Result[];

  before(async () => {
    results = await mapAtOnce(cases, ([args]) =>
      run(sandbox, [...args, ...(args[0] === 'bench' ? [] : ['--pin-dir', sandbox.pinDir])]),
    );
  });

  cases.forEach(([args, sentence], index) => {
    it(`refuses ${args.join(' ')}`, () => {
      const { code, stdout, stderr } = results[index]!;
      assert.match(stderr, sentence);
      assert.match(stderr, /^slipstream-bpf: [^\n]+\n$/);
      assert.deepEqual([code, stdout], [2, '']);
    });
  });

  it('explain and top say that nothing is loaded', async () => {
    for (const args of [['explain', '80'], ['top']]) {
      const { code, stderr } = await run(sandbox, [...args, '--pin-dir', sandbox.pinDir]);
      assert.match(stderr, /no datapath is loaded in/);
      assert.equal(code, 1);
    }
  });
});

describe('JSON output', function () {
  this.timeout(60_000);
  let sandbox: Sandbox;

  before(function () {
    needsRoot(this);
    sandbox = new Sandbox('schemas');
  });

  after(() => sandbox.dispose());

  it('has a published schema, which is the present one', () => {
    for (const name of Object.keys(OUTPUTS) as (keyof typeof OUTPUTS)[]) {
      assert.deepEqual(readSchema(name), JSON.parse(JSON.stringify(outputSchema(name))), `${name}: npm run schemas`);
    }
  });

  it('is as published: status, pairs, learned, policy check, doctor, bench', async () => {
    const output = async (...args: string[]): Promise<string> => {
      const { code, stdout, stderr } = await run(sandbox, [...args, '--json']);
      assert.deepEqual([code, stderr], [0, ''], args.join(' '));
      return stdout;
    };
    const pinDir = ['--pin-dir', sandbox.pinDir];
    parseOutput('status', await output('status', ...pinDir));
    const daemon = await Daemon.start(sandbox);
    assert.equal((parseOutput('status', await output('status', ...pinDir)) as { loaded: boolean }).loaded, true);
    parseOutput('pairs', await output('pairs', ...pinDir));
    parseOutput('doctor', await output('doctor', ...pinDir));
    assert.equal(await daemon.stop(), 0);
    const learned = {
      version: 1,
      programs: [{ program: 'x', cgroup: '/y', cause: 'stalled', at: '2026-01-01T00:00:00.000Z', kernel: '6.18' }],
    };
    mkdirSync(stateDir(sandbox), { recursive: true });
    writeFileSync(join(stateDir(sandbox), 'learned.json'), JSON.stringify(learned));
    const state = ['--state-dir', stateDir(sandbox)];
    assert.equal((parseOutput('learned', await output('learned', ...state)) as unknown[]).length, 1);
    parseOutput('learned-forget', await output('learned', '--forget', 'x', ...state));
    const policy = join(sandbox.dir, 'policy.yaml');
    writeFileSync(policy, 'version: 1\nrules: [{ name: a, ports: [1-5], action: tcp }, { name: b }, { name: c }]\n');
    parseOutput('policy-check', await output('policy', 'check', policy));
    const bench = await output('bench', '--seconds', '0.5');
    const { rows } = parseOutput('bench', bench) as { rows: { redirected: number; tcp: { p50: number } }[] };
    assert.equal(rows.length, 3);
    for (const { redirected, tcp } of rows) {
      assert.ok(redirected > 0.9, 'what was measured as redirected was');
      assert.ok(tcp.p50 > 0);
    }
    const left = readdirSync('/sys/fs/cgroup').filter((name) => name === `slipstream-gate-${String(process.pid)}`);
    assert.deepEqual(left, []);
  });

  it('of another shape is noticed', () => {
    assert.throws(() => parseOutput('learned-forget', '{"forgotten":"1"}'), /must be integer/);
    assert.throws(() => parseOutput('learned-forget', '{"forgotten":1,"more":2}'), /additional properties/);
  });
});

describe('completion', function () {
  this.timeout(60_000);
  let sandbox: Sandbox;
  const scripts = (): string => join(sandbox.dir, 'completion');

  before(function () {
    needsRoot(this);
    sandbox = new Sandbox('completion');
    mkdirSync(scripts());
    for (const shell of ['bash', 'zsh'] as const) {
      writeFileSync(join(scripts(), shell), completionScript(shell, NAME, describedCommands()));
    }
    writeFileSync(join(sandbox.dir, 'policy.yaml'), '');
    mkdirSync(join(sandbox.dir, 'bin'));
    symlinkSync(PROGRAM, join(sandbox.dir, 'bin', NAME));
  });

  after(() => sandbox.dispose());

  /** What bash offers for the last word. */
  function bash(...words: string[]): string[] {
    const script = `source completion/bash
      COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); compopt() { :; }
      _slipstream_bpf; printf '%s\\n' "\${COMPREPLY[@]}"`;
    const { stdout, stderr, status } = spawnSync('bash', ['--norc', '-uc', script, 'bash', NAME, ...words], {
      cwd: sandbox.dir,
      encoding: 'utf8',
      // As bash takes an unset SHLVL and a socket for rsh, it would read start-up files of the host.
      env: { PATH: `${join(sandbox.dir, 'bin')}:${process.env['PATH'] ?? ''}` },
    });
    assert.deepEqual([status, stderr], [0, '']);
    return stdout.split('\n').filter(Boolean);
  }

  it('bash: commands, and those below a command', () => {
    assert.deepEqual(
      bash(''),
      COMMANDS.map(({ command }) => String(command).split(' ')[0]),
    );
    assert.deepEqual(bash('st'), ['status']);
    assert.ok(bash('policy', '').includes('check'));
  });

  it('bash: options of every command', () => {
    for (const { words, options } of leaves(describedCommands())) {
      assert.deepEqual(
        bash(...words, '--'),
        [...options, ...COMMON_OPTIONS].map(({ name }) => `--${name}`),
        words.join(' '),
      );
    }
  });

  it('bash: values, with a blank and with =, which bash takes for a word of its own', () => {
    assert.deepEqual(bash('pairs', '--state', 'ins'), ['inserted']);
    assert.deepEqual(bash('pairs', '--state', '=', 'ins'), ['inserted']);
    assert.deepEqual(bash('pairs', '--json', '--sort', 'red'), ['redirected']);
    assert.deepEqual(bash('completion', ''), ['bash', 'zsh']);
    assert.deepEqual(bash('top', '--interval', ''), [], "a number is anybody's guess");
  });

  it('bash: files and directories', () => {
    assert.deepEqual(bash('up', '--policy', 'pol'), ['policy.yaml']);
    assert.deepEqual(bash('policy', 'check', 'pol'), ['policy.yaml']);
    assert.deepEqual(bash('up', '--policy', 'policy.yaml', '--state-dir', 'comp'), ['completion']);
  });

  it('bash: pairs that are there', async () => {
    assert.deepEqual(bash('explain', '--pin-dir', sandbox.pinDir, ''), []);
    const daemon = await Daemon.start(sandbox);
    await Connection.open(sandbox);
    assert.deepEqual(bash('explain', '--pin-dir', sandbox.pinDir, ''), ['0.1']);
    await daemon.stop();
  });

  it('bash: passes shellcheck', () => {
    execFileSync('shellcheck', ['--shell=bash', join(scripts(), 'bash')], { stdio: 'pipe' });
  });

  it('zsh: commands, options, values and files, as a person types', async function () {
    if (!existsSync('/usr/bin/zsh')) skip(this, 'zsh is not installed');
    const terminal = new Terminal(sandbox, ['zsh', '-f'], 100, 30, {
      HOME: sandbox.dir,
      PS1: '> ',
      ZDOTDIR: sandbox.dir,
    });
    const shows = (text: string): Promise<string[]> =>
      terminal.until((lines) => lines.some((line) => line.includes(text)));
    terminal.type("PS1='> '; autoload -Uz compinit; compinit -u -D; source completion/zsh; echo rea''dy\r");
    await shows('ready');
    const cases: [string, string][] = [
      ['slipstream-bpf stat\t', 'slipstream-bpf status'],
      ['slipstream-bpf policy ch\t', 'slipstream-bpf policy check'],
      ['slipstream-bpf pairs --no-h\t', 'slipstream-bpf pairs --no-header'],
      ['slipstream-bpf pairs --state ins\t', 'slipstream-bpf pairs --state inserted'],
      ['slipstream-bpf pairs --state=ins\t', 'slipstream-bpf pairs --state=inserted'],
      ['slipstream-bpf up --policy pol\t', 'slipstream-bpf up --policy policy.yaml'],
      ['slipstream-bpf completion b\t', 'slipstream-bpf completion bash'],
    ];
    for (const [typed, shown] of cases) {
      terminal.type(typed);
      await shows(`> ${shown}`);
      terminal.type('\u0015');
      // What is typed ahead may reach it in the middle of a completion.
      await terminal.until((lines) => lines.some((line) => line.trimEnd() === '>'));
    }
    terminal.type('exit\r');
    assert.equal((await terminal.exited()).code, 0);
  });
});

describe('the manual page', () => {
  const page = manualPage({ program: NAME, version: VERSION, date: '2026-01-02', commands: describedCommands() });

  it('names every command and option', () => {
    for (const { words, options } of leaves(describedCommands())) {
      const section = page.slice(page.indexOf(`.SS ${words.join(' ').replaceAll('-', '\\-')}`));
      assert.notEqual(section, page);
      for (const { name } of options) assert.ok(section.includes(`\\fB\\-\\-${name.replaceAll('-', '\\-')}\\fR`), name);
    }
  });

  it('names the short forms of options', () => {
    assert.ok(page.includes('\\fB\\-w\\fR, \\fB\\-\\-write\\fR \\fIFILE\\fR\n'));
  });

  it('is formatted without a warning', function () {
    const { error, status, stderr } = spawnSync('groff', ['-ww', '-man', '-Tutf8', '-z'], {
      input: page,
      encoding: 'utf8',
    });
    if (error !== undefined) skip(this, 'groff is not installed');
    assert.deepEqual([status, stderr], [0, '']);
  });

  it('is in good style', function () {
    const { error, status, stdout } = spawnSync('mandoc', ['-Tlint'], { input: page, encoding: 'utf8' });
    if (error !== undefined) skip(this, 'mandoc is not installed');
    assert.deepEqual([status, stdout], [0, '']);
  });
});
