/**
 * What people get wrong. Each mistake ends in one sentence on standard error and the exit code that
 * the interface promises, and leaves nothing attached, pinned or mounted.
 *
 * Everything runs with a cgroup and a pin directory of its own: an `up` that starts although it
 * should not must never touch the host's connections.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { once } from 'node:events';
import { join } from 'node:path';

import { attachedPrograms } from '../../addon/index.js';
import { VERSION } from '../../controller/cli/package-info.js';
import { Datapath } from '../../controller/datapath/datapath.js';
import { cgroupRoot } from '../../controller/probe/host.js';
import { mapAtOnce } from '../kernel/support/at-once.js';
import { Daemon, PROGRAM, type Result, run } from '../kernel/support/daemon.js';
import { type Child, needsRoot, ROOT, Sandbox } from '../kernel/support/sandbox.js';

/** The test's title, what is typed, what is said. */
type Refusal = [title: string, args: () => string[], sentence: RegExp];

/** `code`: 2 unless given. */
interface Refused {
  code?: number;
  start?: (args: string[]) => Promise<Result>;
}

describe('mistakes on the command line', function () {
  this.timeout(60_000);
  let sandbox: Sandbox;

  before(function () {
    needsRoot(this);
    sandbox = new Sandbox('cli');
    chmodSync(sandbox.dir, 0o755);
  });

  after(() => sandbox.dispose());

  afterEach(() => {
    const left = [
      ...attachedPrograms(sandbox.cgroup, 'sock_ops').map(({ name }) => `program ${name}`),
      ...(existsSync(sandbox.pinDir) ? [`directory ${sandbox.pinDir}`] : []),
    ];
    Datapath.removePins(sandbox.pinDir);
    assert.deepEqual(left, [], 'left behind');
  });

  /** `up` for the sandbox; options given here replace the sandbox's. */
  function up(...options: string[]): string[] {
    const own = {
      '--cgroup': sandbox.cgroup,
      '--pin-dir': sandbox.pinDir,
      '--metrics': '127.0.0.1:0',
      '--max-pairs': '64',
      '--state-dir': join(sandbox.dir, 'state'),
    };
    const given = (name: string): boolean => options.some((option) => option === name || option.startsWith(`${name}=`));
    return ['up', ...Object.entries(own).flatMap(([name, value]) => (given(name) ? [] : [name, value])), ...options];
  }

  const pinDir = (): string[] => ['--pin-dir', sandbox.pinDir];

  async function finish(child: Child): Promise<Result> {
    child.process.stdin.end();
    const code = await child.exited();
    return { code, stdout: child.lines.map((line) => `${line}\n`).join(''), stderr: child.stderr };
  }

  /** Runs it as `sh -c SCRIPT sh PROGRAM ARGUMENTS…`; the script ends with what uses "$@". */
  function shell(script: string, args: string[], wrapper: string[] = []): Promise<Result> {
    const [command = '/bin/sh', ...rest] = [...wrapper, '/bin/sh', '-ec', script, 'sh', PROGRAM, ...args];
    return finish(sandbox.spawn(command, rest, { cgroup: null }));
  }

  /** Runs it in a mount namespace of its own, after the commands that prepare that. */
  function withMounts(prepare: string, args: string[]): Promise<Result> {
    return shell(`${prepare}\nexec "$@"`, args, ['unshare', '--mount', '--propagation', 'private']);
  }

  /** An `up` that starts by mistake ends by itself, and the clean-up reports it. */
  function command(args: string[]): Promise<Result> {
    return shell('exec timeout --kill-after=5 20 "$@"', args);
  }

  function assertRefused(result: Result, code: number, sentence: RegExp): void {
    assert.match(result.stderr, sentence);
    assert.match(result.stderr, /^slipstream-bpf: [^\n]+\n$/, 'one sentence');
    assert.doesNotMatch(result.stderr, /\bat \S+ \(|file:\/\//, 'no stack trace');
    assert.deepEqual([result.code, result.stdout], [code, '']);
  }

  async function refuses(args: string[], code: number, sentence: RegExp): Promise<void> {
    assertRefused(await command(args), code, sentence);
  }

  /** Tests of commands that end before they touch anything: run several at a time, each judged by its own test. */
  function refusals(cases: readonly Refusal[], { code = 2, start = command }: Refused = {}): void {
    let results: Result[];
    before(async function () {
      this.timeout(300_000);
      results = await mapAtOnce(cases, ([, args]) => start(args()));
    });
    cases.forEach(([title, , sentence], index) => {
      it(title, () => {
        assertRefused(results[index]!, code, sentence);
      });
    });
  }

  describe('words', () => {
    const cases: Refusal[] = [
      ['no command', () => [], /a command is missing: write up, down, /],
      ['an unknown command', () => ['statsu', ...pinDir()], /unknown command 'statsu': did you mean 'status'\?/],
      ['a command like no other', () => ['frobnicate'], /unknown command 'frobnicate': write up, down, /],
      ['a missing policy command', () => ['policy'], /a command is missing: write check/],
      ['an unknown policy command', () => ['policy', 'chekc', 'x'], /unknown command 'chekc': did you mean 'check'\?/],
      ['a missing argument', () => ['policy', 'check'], /0 arguments given, 1 needed; see "slipstream-bpf --help"/],
      ['one argument too many', () => ['policy', 'check', 'a', 'b'], /unexpected argument: b; see /],
      ['an argument for up', () => up('now'), /unexpected argument: now; see /],
      ['an unknown option', () => up('--polcy', 'x'), /unknown option '--polcy': did you mean '--policy'\?/],
      ['an unknown option of a command of policy', () => ['policy', 'check', 'x', '--jsn'], /did you mean '--json'\?/],
      ['an option in camel case', () => ['status', '--pinDir', 'x'], /'--pinDir': did you mean '--pin-dir'\?/],
      ['a negated flag', () => ['status', '--no-json', ...pinDir()], /unknown option '--no-json'/],
      ['a letter', () => up('-x'), /unknown option '-x': write --/],
      ['an option with a dot', () => up('--policy.x=1'), /unknown option '--policy\.x'/],
      ['an option without its value', () => up('--policy'), /--policy needs a value; see /],
      ['an empty value', () => up('--policy='), /--policy needs a value: it is empty/],
      ['an empty number', () => up('--timeout='), /--timeout needs a value: it is empty/],
      ['an empty pin directory', () => up('--pin-dir', ''), /--pin-dir needs a value: it is empty/],
      [
        'an option given twice',
        () => up('--policy', 'a', '--policy', 'b'),
        /--policy was given more than once: give it once/,
      ],
      ['a number given twice', () => up('--timeout=1', '--timeout=2'), /--timeout was given more than once/],
      ['a flag with a value', () => up('--detach-on-exit=yes'), /--detach-on-exit is there or not, write it without/],
      [
        'an unknown log level',
        () => up('--log-level', 'debgu'),
        /--log-level: unknown value 'debgu': did you mean 'debug'\?/,
      ],
      [
        'an unknown state',
        () => ['pairs', '--state', 'x', ...pinDir()],
        /--state: unknown value 'x': write half, .* or closed/,
      ],
    ];
    refusals(cases.map(([what, args, sentence]) => [`refuses ${what}`, args, sentence]));
  });

  describe('numbers', () => {
    refusals([
      ...['0', '-1', 'abc', '1e9', '1.5', '1048577'].map((value): Refusal => [
        `refuses --max-pairs=${value}`,
        () => up(`--max-pairs=${value}`),
        /--max-pairs: give a whole number from 1 to 1048576/,
      ]),
      ...['-1', 'soon', 'Infinity', '86401'].map((value): Refusal => [
        `refuses --timeout=${value}`,
        () => up(`--timeout=${value}`),
        /--timeout: give a number from 0 to 86400/,
      ]),
      [
        'takes a negative number after a space for a number',
        () => ['down', ...pinDir(), '--timeout', '-1'],
        /--timeout: give/,
      ],
    ]);
  });

  describe('the metrics address', () => {
    const wrong = ['9468', 'localhost', '127.0.0.1:', '127.0.0.1:65536', '::1:9468', '[::1]', '127.0.0.1:-1', 'a b:1'];
    refusals(
      wrong.map((value) => [
        `refuses ${value}`,
        () => up('--metrics', value),
        /--metrics .*: not an address and port, write for instance 127\.0\.0\.1:9468/,
      ]),
    );

    it('says that an address is not local', () =>
      refuses(
        up('--metrics', '192.0.2.1:0'),
        1,
        /metrics address 192\.0\.2\.1:0 is not one of this host's: choose another/,
      ));

    it('says that a port is in use', async () => {
      const server = createServer().listen(0, '127.0.0.1');
      await once(server, 'listening');
      const address = server.address();
      assert(address !== null && typeof address === 'object');
      try {
        const metrics = `127.0.0.1:${String(address.port)}`;
        await refuses(up('--metrics', metrics), 1, new RegExp(`metrics address ${metrics} is in use: choose another`));
      } finally {
        server.close();
      }
    });
  });

  describe('the policy', () => {
    function file(name: string, text: string): string {
      const path = join(sandbox.dir, name);
      writeFileSync(path, text);
      return path;
    }

    /** Problems are printed as compilers do, each on a line of its own. */
    async function reports(args: string[], lines: RegExp[]): Promise<void> {
      const { code, stdout, stderr } = await command(args);
      const found = stderr.trimEnd().split('\n');
      assert.equal(found.length, lines.length, stderr);
      lines.forEach((line, index) => {
        assert.match(found[index] ?? '', line);
      });
      assert.deepEqual([code, stdout], [2, '']);
    }

    for (const [name, args] of [
      ['up', (path: string) => up('--policy', path)],
      ['policy check', (path: string) => ['policy', 'check', path]],
    ] as const) {
      it(`${name}: a missing file`, () => reports(args('none.yaml'), [/^none\.yaml: no such file: check the name/]));

      it(`${name}: a directory`, () => reports(args(sandbox.dir), [/: this is a directory: give the file itself/]));

      it(`${name}: a FIFO`, () => {
        const fifo = join(mkdtempSync(join(sandbox.dir, 'fifo-')), 'fifo');
        execFileSync('mkfifo', [fifo]);
        return reports(args(fifo), [/\/fifo: this is no regular file: give one$/]);
      });

      it(`${name}: one problem with its place`, () =>
        reports(args(file('one.yaml', 'version: 1\ndefaults: { action: fast }\n')), [
          /\/one\.yaml:2:21: unknown action 'fast': write accelerate, observe or tcp$/,
        ]));

      it(`${name}: every problem at once`, () =>
        reports(args(file('many.yaml', 'version: 1\nrules: 3\nrulse: []\n')), [
          /\/many\.yaml:2:8: rules must be a list/,
          /\/many\.yaml:3:1: unknown key 'rulse': did you mean 'rules'\?$/,
        ]));

      it(`${name}: no YAML at all`, () => reports(args(file('not.yaml', '\u0000\u0001')), [/: this is not text/]));
    }

    it('says that a file may not be read', async () => {
      const path = file('secret.yaml', 'version: 1\n');
      chmodSync(path, 0);
      // Root without its power to read everything, as in a confined service.
      const { code, stderr } = await shell(
        'exec setpriv --bounding-set=-dac_override,-dac_read_search "$@"',
        up('--policy', path),
      );
      assert.match(stderr, /^[^\n]*secret\.yaml: permission denied: make it readable[^\n]*\n$/);
      assert.equal(code, 2);
    });
  });

  describe('the host', () => {
    /** Not root, but able to read a checkout in somebody's home directory. */
    const nobody = [
      'setpriv',
      ...['--reuid=65534', '--clear-groups', '--inh-caps=+dac_read_search', '--ambient-caps=+dac_read_search'],
    ];

    refusals(
      ['up', 'down', 'status', 'pairs', 'learned'].map((name) => [
        `${name} asks for root`,
        () => (name === 'up' ? up() : [name, ...(name === 'learned' ? [] : pinDir())]),
        /needs root( to work with BPF)?: run it with sudo/,
      ]),
      {
        code: 1,
        start: (args) =>
          finish(sandbox.spawn(nobody[0] ?? '', [...nobody.slice(1), PROGRAM, ...args], { cgroup: null })),
      },
    );

    it('tells a root without capabilities from a kernel without features', async () => {
      const result = await shell('exec setpriv --bounding-set=-all --inh-caps=-all "$@"', up());
      assertRefused(result, 1, /up needs CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF, which root has been deprived of here/);
    });

    it('needs cgroup v2', async () => {
      const result = await withMounts('mount -t tmpfs none /sys/fs/cgroup', up());
      assertRefused(result, 3, /no cgroup v2 file system is mounted: mount one with "mount -t cgroup2 /);
    });

    it('needs the kernel to describe itself', async () => {
      const result = await withMounts('mount -t tmpfs none /sys/kernel/btf', up());
      assertRefused(result, 3, /lacks BTF of the kernel \(CONFIG_DEBUG_INFO_BTF\), which mainline has since 5\.4/);
    });

    it('refuses a cgroup that is not there', () =>
      refuses(
        up('--cgroup', join(sandbox.cgroup, 'none')),
        2,
        /--cgroup \S+: no such directory, give one of a cgroup v2/,
      ));

    it('refuses a file for a cgroup', () =>
      refuses(up('--cgroup', join(sandbox.cgroup, 'cgroup.procs')), 2, /--cgroup \S+: no such directory/));

    it('refuses a directory of another file system for a cgroup', () =>
      refuses(
        up('--cgroup', sandbox.dir),
        2,
        new RegExp(`not a directory of a cgroup v2 file system, .* ${cgroupRoot()}\\n`),
      ));
  });

  describe('what was learned', () => {
    const state = (): string => join(sandbox.dir, 'learned-state');
    const aFile = (): string => {
      const path = join(sandbox.dir, 'a-file');
      writeFileSync(path, '');
      return path;
    };
    const broken = (): string => {
      mkdirSync(state(), { recursive: true });
      const path = join(state(), 'learned.json');
      writeFileSync(path, '{"version": 1, "programs": 3}');
      return path;
    };

    for (const [name, args] of [
      ['up', (dir: string) => up('--state-dir', dir)],
      ['learned', (dir: string) => ['learned', '--state-dir', dir]],
    ] as const) {
      it(`${name} refuses a file for its directory`, () =>
        refuses(args(aFile()), 2, /--state-dir \S+a-file: this is no directory, give one or a place for one/));

      it(`${name} refuses a place below a file`, () =>
        refuses(args(join(aFile(), 'below')), 2, /--state-dir \S+below: this is no directory/));

      it(`${name} does not touch a list that it can't read`, async () => {
        const path = broken();
        await refuses(args(state()), 1, /learned\.json is no list of learned programs .*: repair it, or remove it/);
        assert.equal(readFileSync(path, 'utf8'), '{"version": 1, "programs": 3}');
      });
    }

    it('learned asks for one thing at a time', () =>
      refuses(['learned', '--forget', 'x', '--forget-all'], 2, /forget and forget-all are mutually exclusive/));

    it('learned lists nothing where nothing was learned, and makes no directory', async () => {
      const { code, stdout } = await command(['learned', '--state-dir', join(sandbox.dir, 'never')]);
      assert.deepEqual([code, stdout], [0, 'nothing learned\n']);
      assert(!existsSync(join(sandbox.dir, 'never')));
    });

    refusals(
      ['0', '-1', 'soon', '1e9'].map((wrong) => [
        `up refuses to wait ${wrong} seconds for a reader`,
        () => up(`--stall-after=${wrong}`),
        /--stall-after: give a number from 0.1 to 86400/,
      ]),
    );
  });

  describe('the pin directory', () => {
    it('must be on a BPF file system', async () => {
      const elsewhere = join(sandbox.dir, 'pins');
      await refuses(up('--pin-dir', elsewhere), 2, /--pin-dir \S+: not on a BPF file system, choose a directory below/);
      assert(!existsSync(elsewhere));
    });

    it('is not the mount point itself', () =>
      refuses(
        up('--pin-dir', join(sandbox.dir, 'bpf')),
        2,
        /--pin-dir \S+: this is a mount point, choose a directory below it/,
      ));

    it('is not the usual mount point either', async () => {
      const result = await withMounts(
        'while umount /sys/fs/bpf 2>/dev/null; do :; done',
        up('--pin-dir', '/sys/fs/bpf'),
      );
      assertRefused(result, 2, /--pin-dir \/sys\/fs\/bpf: this is a mount point/);
    });

    it('is no pin', async () => {
      const datapath = Datapath.load({
        objectFile: join(ROOT, 'build', 'bpf', 'slipstream.bpf.o'),
        pinDir: sandbox.pinDir,
        cgroupDir: sandbox.cgroup,
        maxPairs: 64,
        version: 'test',
      });
      try {
        const pin = join(sandbox.pinDir, 'settings');
        await refuses(up('--pin-dir', pin), 2, /settings is a pin and no directory, choose another place/);
        const { code, stdout } = await run(sandbox, ['status', '--pin-dir', pin]);
        assert.deepEqual([code, stdout.includes('not loaded')], [0, true]);
      } finally {
        datapath.remove();
      }
    });

    it('is made on a BPF file system that up mounts where none is', async () => {
      // /sys/fs/bpf without a mount, whatever the host has there.
      const { code, stdout, stderr } = await shell(
        `while umount /sys/fs/bpf 2>/dev/null; do :; done
         "$@" >out & daemon=$!
         for try in $(seq 200); do grep -q attached out && break; sleep 0.1; done
         grep -o ' /sys/fs/bpf .* - bpf' /proc/self/mountinfo
         ls /sys/fs/bpf/slipstream-test
         kill $daemon; wait $daemon`,
        up('--pin-dir', '/sys/fs/bpf/slipstream-test', '--detach-on-exit'),
        ['unshare', '--mount', '--propagation', 'private'],
      );
      assert.equal(code, 0, stderr);
      assert.match(stdout, /^ \/sys\/fs\/bpf .* - bpf\n/);
      assert.match(stdout, /link_identify/);
    });
  });

  describe('another instance', () => {
    let daemon: Daemon;

    beforeEach(async () => {
      daemon = await Daemon.start(sandbox);
    });

    afterEach(async () => {
      if (daemon.child.process.exitCode === null) await daemon.stop();
      assert.equal((await run(sandbox, ['down', ...pinDir()])).code, 0);
    });

    it('keeps its pin directory while it runs', async () => {
      await refuses(up(), 1, /belongs to an instance that is running: stop it, or give this one another --pin-dir/);
      assert.equal(attachedPrograms(sandbox.cgroup, 'sock_ops').length, 1);
    });

    it('keeps its cgroup', async () => {
      const other = `${sandbox.pinDir}-2`;
      await refuses(
        up('--pin-dir', other),
        1,
        new RegExp(
          `another instance is attached to ${sandbox.cgroup}: take it down with --pin-dir ${sandbox.pinDir}, or`,
        ),
      );
      assert(!existsSync(other));
      assert.equal(attachedPrograms(sandbox.cgroup, 'sock_ops').length, 1);
    });

    it('left pins that belong to another cgroup', async () => {
      await daemon.stop();
      const other = `${sandbox.cgroup}-other`;
      mkdirSync(other);
      try {
        await refuses(
          up('--cgroup', other),
          1,
          new RegExp(`holds a datapath attached to ${sandbox.cgroupPath}, not to ${other}: `),
        );
        assert.deepEqual(attachedPrograms(other, 'sock_ops'), []);
      } finally {
        rmdirSync(other);
      }
    });

    it('left only a part of its pins, which up replaces', async () => {
      await daemon.stop();
      unlinkSync(join(sandbox.pinDir, 'link_identify'));
      unlinkSync(join(sandbox.pinDir, 'totals'));
      const status = await run(sandbox, ['status', ...pinDir()]);
      assert.deepEqual([status.code, status.stdout.includes('not loaded')], [0, true]);
      daemon = await Daemon.start(sandbox);
      assert.match(daemon.child.stderr, /removing what an interrupted start left in/);
      assert.equal((await daemon.get('/readyz')).status, 200);
    });

    it('left only a part of its pins, which down removes', async () => {
      await daemon.stop();
      unlinkSync(join(sandbox.pinDir, 'link_identify'));
      const { code, stdout } = await run(sandbox, ['down', ...pinDir()]);
      assert.match(stdout, /removed what an interrupted start left in/);
      assert.deepEqual([code, existsSync(sandbox.pinDir)], [0, false]);
    });
  });

  describe('the installation', () => {
    const object = join(ROOT, 'build', 'bpf', 'slipstream.bpf.o');

    refusals(
      ['up', 'down', 'status', 'pairs'].map((name) => [
        `${name} says that the datapath was not built`,
        () => (name === 'up' ? up() : [name, ...pinDir()]),
        /slipstream\.bpf\.o is missing: run scripts\/build/,
      ]),
      { code: 1, start: (args) => withMounts(`mount -t tmpfs none '${join(ROOT, 'build', 'bpf')}'`, args) },
    );

    it('says that nothing was built', async () => {
      const result = await withMounts(`mount -t tmpfs none '${join(ROOT, 'build', 'js')}'`, ['status', ...pinDir()]);
      assertRefused(result, 1, /not built yet: run scripts\/build/);
    });

    const broken: [string, string][] = [
      ['an empty object', ': >bad.o'],
      ['an object that is text', 'echo hello >bad.o'],
      ['a truncated object', `head -c 3000 '${object}' >bad.o`],
      ['an object of another program', `cp '${join(ROOT, 'build', 'programs', 'endpoint')}' bad.o`],
    ];
    for (const [what, make] of broken) {
      it(`refuses ${what}`, async () => {
        const result = await withMounts(`${make}; mount --bind bad.o '${object}'`, up());
        assertRefused(result, 1, /slipstream\.bpf\.o is no BPF object .*run scripts\/build --force/);
      });
    }
  });

  describe('with nothing loaded', () => {
    it('status says so', async () => {
      const { code, stdout } = await run(sandbox, ['status', ...pinDir()]);
      assert.equal(stdout, `slipstream-bpf ${VERSION}: not loaded (nothing pinned in ${sandbox.pinDir})\n`);
      assert.equal(code, 0);
    });

    it('status says so in JSON', async () => {
      const { code, stdout } = await run(sandbox, ['status', '--json', ...pinDir()]);
      assert.deepEqual(JSON.parse(stdout), { version: VERSION, pinDir: sandbox.pinDir, loaded: false });
      assert.equal(code, 0);
    });

    it('pairs fails', () =>
      refuses(['pairs', ...pinDir()], 1, /no datapath is loaded in \S+: start one with "slipstream-bpf up"/));

    it('down has nothing to do', async () => {
      const { code, stdout } = await run(sandbox, ['down', ...pinDir()]);
      assert.deepEqual([code, stdout], [0, `nothing is loaded in ${sandbox.pinDir}\n`]);
    });

    it('down has nothing to do where BPF is not allowed, as when the package is removed in a container', async () => {
      const { code, stdout } = await shell('exec setpriv --bounding-set=-all --inh-caps=-all "$@"', [
        'down',
        ...pinDir(),
      ]);
      assert.deepEqual([code, stdout], [0, `nothing is loaded in ${sandbox.pinDir}\n`]);
      mkdirSync(sandbox.pinDir);
      const leftovers = await shell('exec setpriv --bounding-set=-all --inh-caps=-all "$@"', ['down', ...pinDir()]);
      assert.deepEqual([leftovers.code, existsSync(sandbox.pinDir)], [0, false]);
    });

    it('down leaves directories alone that are not its own', async () => {
      const dir = join(sandbox.dir, 'precious');
      mkdirSync(dir);
      assert.equal((await run(sandbox, ['down', '--pin-dir', dir])).code, 0);
      writeFileSync(join(dir, 'settings'), 'mine');
      assert.equal((await run(sandbox, ['down', '--pin-dir', dir])).code, 0);
      assert.deepEqual(readdirSync(dir), ['settings']);
    });

    it('a file is no pin directory', async () => {
      const path = join(sandbox.dir, 'file');
      writeFileSync(path, '');
      assert.equal((await run(sandbox, ['status', '--pin-dir', path])).code, 0);
      assert.equal((await run(sandbox, ['down', '--pin-dir', path])).code, 0);
      assert(existsSync(path));
      await refuses(up('--pin-dir', path), 2, /not on a BPF file system/);
    });
  });

  describe('help', () => {
    const cases = [
      [],
      ['up'],
      ['down'],
      ['status'],
      ['pairs'],
      ['policy'],
      ['policy', 'check'],
      ['policy', 'test'],
      ['policy', 'init'],
      ['policy', 'suggest'],
      ['policy', 'schema'],
    ];
    let results: Result[];

    before(async () => {
      results = await mapAtOnce(cases, (args) => run(sandbox, [...args, '--help']));
    });

    cases.forEach((args, index) => {
      it(`of ${['slipstream-bpf', ...args].join(' ')}`, () => {
        const { code, stdout, stderr } = results[index]!;
        assert.match(stdout, new RegExp(`^${['slipstream-bpf', ...args].join(' ')}`));
        assert.match(stdout, /--help/);
        assert.deepEqual([code, stderr], [0, '']);
      });
    });

    it('has the version', async () => {
      assert.deepEqual(await run(sandbox, ['--version']), { code: 0, stdout: `${VERSION}\n`, stderr: '' });
    });
  });

  describe('standard streams', () => {
    const stream = (script: string): Promise<Result> => shell(script, ['policy', 'schema']);

    it('may be closed by the reader', async () => {
      assert.deepEqual(await stream('"$@" | true'), { code: 0, stdout: '', stderr: '' });
      assert.deepEqual(await stream('{ "$@"; echo "$?" >code; } | head -n 1; cat code'), {
        code: 0,
        stdout: '{\n0\n',
        stderr: '',
      });
    });

    it('may be closed from the start', async () => {
      assert.deepEqual(await stream('exec "$@" >&-'), { code: 0, stdout: '', stderr: '' });
      assert.equal((await stream('exec "$@" <&-')).code, 0);
      assert.equal((await shell('exec "$@" 2>&-', ['frobnicate'])).code, 2);
    });

    it('say when they are full', async () => {
      assertRefused(await stream('exec "$@" >/dev/full'), 1, /standard output can't be written \(ENOSPC\)/);
    });

    it('end pairs --watch when nobody reads it any more', async () => {
      const daemon = await Daemon.start(sandbox);
      try {
        const { code, stdout, stderr } = await shell('timeout 20 "$@" | head -n 1', ['pairs', '--watch', ...pinDir()]);
        assert.match(stdout, /^PAIR +STATE/);
        assert.deepEqual([code, stderr], [0, '']);
      } finally {
        await daemon.stop();
        await run(sandbox, ['down', ...pinDir()]);
      }
    });

    it('are told why pairs --watch ends', async () => {
      const daemon = await Daemon.start(sandbox);
      const watch = sandbox.spawn(PROGRAM, ['pairs', '--watch', ...pinDir()], { cgroup: null });
      await watch.until(({ lines }) => lines[0]);
      await run(sandbox, ['down', ...pinDir()]);
      assert.equal(await daemon.child.exited(), 0);
      const { code, stderr } = await finish(watch);
      assert.match(stderr, /^slipstream-bpf: no datapath is loaded in [^\n]+\n$/);
      assert.equal(code, 1);
    });

    it('may close under a daemon', async () => {
      const { code } = await shell(
        '{ timeout --signal=INT 3 "$@" || echo "$?" >end; } 2>&1 | true; exit "$(cat end)"',
        up('--detach-on-exit'),
      );
      assert.equal(code, 124);
    });
  });
});
