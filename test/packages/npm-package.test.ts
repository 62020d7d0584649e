/** The npm package, installed as a user does: in an empty folder, with and without compilers. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  accessSync,
  constants,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { delimiter, dirname, join } from 'node:path';

import { attachedPrograms } from '../../addon/index.js';
import { Daemon, run, type Result } from '../kernel/support/daemon.js';
import { Connection } from '../kernel/support/endpoint.js';
import { needsRoot, ROOT, Sandbox, type SpawnOptions } from '../kernel/support/sandbox.js';

/** What npm and the program itself call: no compiler, no make, no python. */
const COMMANDS = ['node', 'npm', 'npx', 'sh', 'env'];

describe('the npm package', function () {
  this.timeout(240_000);
  let sandbox: Sandbox;
  let tarball: string;
  /** An environment without compilers. */
  let bare: Record<string, string>;

  before(function () {
    needsRoot(this);
    sandbox = new Sandbox('npm');
    execFileSync('npm', ['pack', '--pack-destination', sandbox.dir], { cwd: ROOT, stdio: 'pipe' });
    tarball = join(
      sandbox.dir,
      readdirSync(sandbox.dir).find((name) => name.endsWith('.tgz'))!,
    );
    const bin = join(sandbox.dir, 'bin');
    mkdirSync(bin);
    for (const command of COMMANDS) symlinkSync(which(command), join(bin, command));
    bare = { PATH: bin };
  });

  after(() => sandbox.dispose());

  function which(command: string): string {
    for (const folder of [dirname(process.execPath), ...process.env['PATH']!.split(delimiter)]) {
      const file = join(folder, command);
      try {
        accessSync(file, constants.X_OK);
        return file;
      } catch {
        // not there
      }
    }
    throw new Error(`no ${command} on the PATH`);
  }

  /** `npm install` in a new folder. */
  async function install(name: string, file: string, options: SpawnOptions = {}): Promise<Result & { folder: string }> {
    const folder = join(sandbox.dir, name);
    mkdirSync(folder);
    const args = ['--prefix', folder, 'install', '--prefer-offline', '--no-audit', '--no-fund', file];
    return { folder, ...(await run(sandbox, args, { program: 'npm', ...options })) };
  }

  const npx = (folder: string, args: string[], options: SpawnOptions = {}): Promise<Result> =>
    run(sandbox, ['--prefix', folder, '--no', '--', 'slipstream-bpf', ...args], { program: 'npx', ...options });

  const installed = (folder: string): string => join(folder, 'node_modules', 'slipstream-bpf');

  /** The package as it is for a system that nothing was made ready for. */
  function withoutReadyMade(): string {
    const folder = join(sandbox.dir, 'bare');
    mkdirSync(folder);
    execFileSync('tar', ['-xzf', tarball, '-C', folder]);
    for (const part of ['addon/prebuilds', 'build/bpf', 'build/probe']) {
      rmSync(join(folder, 'package', part), { recursive: true });
    }
    const file = join(sandbox.dir, 'sources-only.tgz');
    execFileSync('tar', ['-czf', file, '-C', folder, 'package']);
    return file;
  }

  it('holds what is run and what it can be built from, nothing else', () => {
    const files = execFileSync('tar', ['-tzf', tarball], { encoding: 'utf8' }).split('\n').filter(Boolean);
    const kinds = new Set(files.map((file) => file.replace(/^package\//, '').replace(/^(build\/\w+|\w+)\/.*/, '$1')));
    assert.deepEqual([...kinds].sort(), [
      'README.md',
      'addon',
      'bin',
      'bpf',
      'build/bpf',
      'build/js',
      'build/probe',
      'docs',
      'package.json',
      'probe',
      'scripts',
    ]);
    assert.deepEqual(
      files.filter((file) => /\.(ts|map|tsbuildinfo|test\.js)$|\/\.|addon\/build|node_modules/.test(file)),
      [],
    );
    for (const part of [
      `addon/prebuilds/linux-${process.arch}/`,
      'build/bpf/slipstream.bpf.o',
      'build/probe/slipstream-borrow',
      'build/probe/slipstream-gate',
    ]) {
      assert.ok(
        files.some((file) => file.startsWith(`package/${part}`)),
        part,
      );
    }
  });

  it('runs without a compiler: --version, doctor, up with redirected traffic, down', async () => {
    const { folder, ...result } = await install('plain', tarball, { env: bare });
    assert.equal(result.code, 0, result.stderr);
    const options = { env: bare };
    const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string };
    assert.equal((await npx(folder, ['--version'], options)).stdout, `${version}\n`);
    const doctor = await npx(folder, ['doctor'], options);
    assert.equal(doctor.code, 0, doctor.stdout + doctor.stderr);
    assert.match(doctor.stdout, /redirect/);

    const daemon = await Daemon.start(sandbox, [], {
      ...options,
      program: join(folder, 'node_modules/.bin/slipstream-bpf'),
    });
    const c = await Connection.open(sandbox);
    for (let round = 0; (await daemon.metric('slipstream_redirected_messages_total')) < 10; round++) {
      assert.ok(round < 200, 'never redirected');
      await c.pingPong(40, 64);
    }
    await c.close();
    assert.equal(await daemon.stop(), 0);
    const down = await npx(folder, ['down', '--pin-dir', sandbox.pinDir], options);
    assert.equal(down.code, 0, down.stderr);
    assert.deepEqual(attachedPrograms(sandbox.cgroup, 'sock_ops'), []);
  });

  it('says in one sentence which library is missing', () => {
    const folder = installed(join(sandbox.dir, 'plain'));
    const prebuilds = join(folder, 'addon/prebuilds', `linux-${process.arch}`);
    const addon = join(prebuilds, readdirSync(prebuilds)[0]!);
    const original = readFileSync(addon);
    // The same addon, made for a libbpf that this system has not.
    writeFileSync(
      addon,
      Buffer.from(original.toString('latin1').replaceAll('libbpf.so.1\0', 'libbpf.so.7\0'), 'latin1'),
    );
    try {
      execFileSync(join(folder, 'bin/slipstream-bpf'), ['--version'], { stdio: 'pipe' });
      assert.fail('it runs');
    } catch (error) {
      const { status, stderr } = error as { status?: number; stderr?: Buffer };
      assert.equal(status, 3, String(error));
      assert.equal(
        String(stderr),
        'slipstream-bpf: libbpf.so.7 is missing: install the package libbpf7 (as Debian and Ubuntu call it).\n',
      );
    } finally {
      writeFileSync(addon, original);
    }
  });

  it('where nothing is ready-made it names what a build needs, or builds', async () => {
    const file = withoutReadyMade();
    const refused = await install('refused', file, { env: bare });
    assert.notEqual(refused.code, 0);
    assert.match(
      refused.stderr,
      /^npm error slipstream-bpf: this package has nothing ready-made for linux-\w+ .*bash, cc, g\+\+.*: install bash clang .*libbpf-dev.*, then try again\.$/m,
    );
    assert.doesNotMatch(refused.stderr, /\n\s+at /, 'a stack trace');

    const { folder, ...built } = await install('built', file);
    assert.equal(built.code, 0, built.stderr);
    const doctor = await npx(folder, ['doctor']);
    assert.equal(doctor.code, 0, doctor.stdout + doctor.stderr);
  });
});
