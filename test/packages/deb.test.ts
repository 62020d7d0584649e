/** The Debian package on a system of its own: installed, started by systemd, upgraded under load, removed. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { attachedPrograms } from '../../addon/index.js';
import { readStatus, type Status } from '../../controller/view/status.js';
import { Machine, makePackage, makeRoot, whyNoMachines } from '../kernel/support/machine.js';
import { needsRoot, OBJECT_FILE, ROOT, Sandbox, skip } from '../kernel/support/sandbox.js';
import { Traffic } from '../kernel/support/traffic.js';

const UNIT = 'slipstream-bpf.service';
const PIN_DIR = '/sys/fs/bpf/slipstream';
const POLICY = '/etc/slipstream-bpf/policy.yaml';
/** What `systemd-analyze security` makes of the unit, of 100: from 50 on it calls one exposed. */
const EXPOSURE = 35;

type Maybe<T> = T | undefined | false;

describe('the Debian package', function () {
  this.timeout(300_000);
  let sandbox: Sandbox;
  let machine: Machine;
  let deb: string;
  let load: string;

  before(async function () {
    needsRoot(this);
    const reason = whyNoMachines();
    if (reason !== undefined) skip(this, reason);
    sandbox = new Sandbox('deb');
    execFileSync(join(ROOT, 'scripts/deb'), { stdio: 'pipe' });
    const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string };
    const architecture = execFileSync('dpkg', ['--print-architecture'], { encoding: 'utf8' }).trim();
    deb = join(ROOT, 'build', `slipstream-bpf_${version}_${architecture}.deb`);
    // What the package depends on beside Node.js, and that is what apt finds below.
    const root = makeRoot(sandbox, ['libbpf1', 'libstdc++6']);
    machine = await Machine.boot(sandbox, root);
    // The Node.js that runs the tests may come from anywhere; Debian's own may be too old.
    const node = makePackage(
      sandbox,
      {
        Package: 'nodejs',
        Version: `${process.versions.node}-0test`,
        Architecture: architecture,
        Maintainer: 'nobody <nobody@invalid>',
        Depends: 'libstdc++6',
        Description: 'the Node.js that runs the tests',
      },
      { 'usr/bin/node': process.execPath },
    );
    await machine.must('dpkg', '--install', machine.copy(node, 'nodejs.deb'));
    // The machine's cgroups are a part of the host's, which has to be asked for.
    dropIn('cgroup', '[Service]\nEnvironment="SLIPSTREAM_OPTIONS=--cgroup /sys/fs/cgroup --max-pairs 1024"\n');
    load = sandbox.makeCgroup('load');
  });

  after(() => sandbox.dispose());

  function dropIn(name: string, text: string): void {
    const folder = machine.path(`/etc/systemd/system/${UNIT}.d`);
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, `${name}.conf`), text);
  }

  async function show(property: string): Promise<string> {
    return (await machine.must('systemctl', 'show', '--value', `--property=${property}`, UNIT)).trim();
  }

  /** As `slipstream-bpf status` in the machine, without the time that it takes to start. */
  const status = (): Status => readStatus(machine.path(PIN_DIR), OBJECT_FILE, 'test');

  /** Asks until it holds: there is no event for what another process has done. */
  async function until<T>(what: string, find: () => Maybe<T> | Promise<Maybe<T>>): Promise<T> {
    for (const deadline = Date.now() + 30_000; Date.now() < deadline;) {
      const found = await find();
      if (found !== undefined && found !== false) return found;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    throw new Error(
      `${what}: not within 30 s; ${(await machine.run('journalctl', '--no-pager', '-n30', '-ocat')).stdout}`,
    );
  }

  /** Resolves when so many more messages were redirected. */
  async function redirected(messages: number): Promise<void> {
    const before = status().datapath?.redirectedMessages ?? 0;
    await until(`${messages} more messages redirected`, () => {
      return (status().datapath?.redirectedMessages ?? 0) >= before + messages;
    });
  }

  /** The package again under a later version, for an upgrade. */
  function laterPackage(version: string, change: (folder: string) => void = () => undefined): string {
    const folder = join(sandbox.dir, `later-${version}`);
    execFileSync('dpkg-deb', ['--raw-extract', deb, folder]);
    const control = join(folder, 'DEBIAN/control');
    writeFileSync(control, readFileSync(control, 'utf8').replace(/^Version: .*$/m, `Version: ${version}`));
    change(folder);
    const file = `${folder}.deb`;
    execFileSync('dpkg-deb', ['-Znone', '--root-owner-group', '--build', folder, file], { stdio: 'pipe' });
    return machine.copy(file, `later-${version}.deb`);
  }

  const install = (file: string): Promise<string> =>
    machine.must('apt-get', 'install', '--yes', '--no-install-recommends', file);

  it('is clean to lintian', function () {
    if (spawnSync('lintian', ['--version']).status !== 0) skip(this, 'lintian does not run');
    const args = ['--allow-root', '--fail-on', 'error,warning', '--tag-display-limit', '0', deb];
    // Written by the command line where it can.
    if (!existsSync(join(ROOT, 'build/man/slipstream-bpf.8'))) args.unshift('--suppress-tags', 'no-manual-page');
    const { status: code, stdout } = spawnSync('lintian', args, { encoding: 'utf8' });
    assert.equal(code, 0, stdout);
  });

  it('is installed by apt, starts, and observes at first', async () => {
    await install(machine.copy(deb, 'slipstream-bpf.deb'));
    assert.equal(await show('ActiveState'), 'active');
    assert.match(await show('StatusText'), /^attached to \/sys\/fs\/cgroup, 0 promoted pairs$/);
    assert.equal((await machine.must('systemctl', 'is-enabled', UNIT)).trim(), 'enabled');
    const traffic = new Traffic(sandbox, { cgroup: load, netns: machine.netns });
    await until('refusals', () => (status().datapath?.refusals['observe'] ?? 0) > 0);
    assert.equal(status().datapath?.redirectedMessages, 0);
    await traffic.finish();
  });

  it('systemd finds nothing wrong with its unit, and little exposed', async () => {
    const verified = await machine.run('systemd-analyze', 'verify', '--man=no', UNIT);
    assert.deepEqual([verified.code, verified.stdout, verified.stderr], [0, '', '']);
    const path = `/lib/systemd/system/${UNIT}`;
    await machine.must('systemd-analyze', 'security', '--offline=true', `--threshold=${String(EXPOSURE)}`, path);
  });

  it('runs as confined as the unit says', async () => {
    const pid = await show('MainPID');
    const confined = await machine.must('cat', `/proc/${pid}/status`);
    const capabilities = BigInt(`0x${/^CapBnd:\s*(\w+)$/m.exec(confined)?.[1] ?? ''}`);
    // NET_ADMIN, SYS_PTRACE, PERFMON, BPF of capabilities(7).
    assert.equal(capabilities, (1n << 12n) | (1n << 19n) | (1n << 38n) | (1n << 39n));
    assert.match(confined, /^NoNewPrivs:\s*1$/m);
    assert.match(confined, /^Seccomp:\s*2$/m);
    const journal = await machine.must('journalctl', '--no-pager', '--output=cat', `--unit=${UNIT}`);
    assert.doesNotMatch(journal, /EPERM|EACCES|EROFS|could not/);
  });

  it('accelerates what the policy says after systemctl reload', async () => {
    const file = machine.path(POLICY);
    writeFileSync(file, readFileSync(file, 'utf8').replace('action: observe', 'action: accelerate'));
    await machine.must('systemctl', 'reload', UNIT);
    const traffic = new Traffic(sandbox, { cgroup: load, netns: machine.netns });
    await redirected(1000);
    await until('promoted pairs in the status', async () =>
      / [1-9]\d* promoted pairs?$/.test(await show('StatusText')),
    );
    await traffic.finish();
  });

  it('systemd starts it again when its control loop stands still; connections go on', async () => {
    dropIn('watchdog', '[Service]\nWatchdogSec=2\n');
    await machine.must('systemctl', 'daemon-reload');
    await machine.must('systemctl', 'restart', UNIT);
    const traffic = new Traffic(sandbox, { cgroup: load, netns: machine.netns });
    await redirected(1000);
    // It lives for longer than that.
    const pid = await show('MainPID');
    await new Promise((resolve) => setTimeout(resolve, 3000));
    assert.equal(await show('MainPID'), pid);
    await machine.must('sh', '-c', `kill -STOP ${pid}`);
    await until('another process', async () => {
      return (
        (await show('ActiveState')) === 'active' && (await show('MainPID')) !== pid && (await show('NRestarts')) === '1'
      );
    });
    assert.match(await machine.must('journalctl', '--no-pager', '--output=cat'), /Watchdog timeout/);
    await redirected(1000);
    await traffic.finish();
  });

  it('an upgrade under load loses nothing, and keeps connections accelerated', async () => {
    const traffic = new Traffic(sandbox, { cgroup: load, netns: machine.netns });
    await redirected(1000);
    const before = status().datapath;
    const pid = await show('MainPID');
    await install(laterPackage('99.1'));
    assert.notEqual(await show('MainPID'), pid);
    const after = status().datapath;
    assert.ok(before && after);
    assert.ok(after.loadedSeconds > before.loadedSeconds, 'another datapath was loaded');
    assert.ok(after.redirectedMessages > before.redirectedMessages && after.pairs.inserted > 0);
    await redirected(1000);
    await traffic.finish();
    assert.match(readFileSync(machine.path(POLICY), 'utf8'), /action: accelerate/);
  });

  it('an upgrade to another ABI drains first, with the version that is being replaced', async () => {
    const traffic = new Traffic(sandbox, { cgroup: load, netns: machine.netns });
    await redirected(1000);
    const before = status().datapath;
    const output = await install(
      laterPackage('99.2', (folder) => {
        const script = join(folder, 'DEBIAN/preinst');
        const text = readFileSync(script, 'utf8');
        assert.match(text, /"\$loaded" != \d+ /);
        writeFileSync(script, text.replace(/"\$loaded" != \d+ /, '"$loaded" != 4096 '));
      }),
    );
    assert.match(output, /so it is drained\ndrained \d+ promoted pairs? and detached/);
    const after = await until('the new datapath', () => status().datapath);
    assert.ok(before && after.loadedSeconds < before.loadedSeconds, 'the old datapath is still there');
    await traffic.moved(2 ** 20);
    await traffic.finish();
  });

  it('needs each of its capabilities', async () => {
    for (const capability of ['CAP_BPF', 'CAP_PERFMON', 'CAP_NET_ADMIN', 'CAP_SYS_PTRACE']) {
      dropIn('less', `[Service]\nCapabilityBoundingSet=~${capability}\n`);
      await machine.must('systemctl', 'daemon-reload');
      const since = `--since=@${String(Date.now() / 1000)}`;
      const { code } = await machine.run('systemctl', 'restart', UNIT);
      // Without the last one readers are not woken, which it says.
      assert.equal(code === 0, capability === 'CAP_SYS_PTRACE', capability);
      const journal = await machine.must('journalctl', '--no-pager', '--output=cat', `--unit=${UNIT}`, since);
      assert.match(journal, new RegExp(`needs ${capability}|${capability} is missing`));
    }
    dropIn('less', '');
    await machine.must('systemctl', 'daemon-reload');
    await machine.must('systemctl', 'restart', UNIT);
  });

  it('is removed under load with nothing left, and purged with nothing at all', async () => {
    const traffic = new Traffic(sandbox, { cgroup: load, netns: machine.netns });
    await redirected(1000);
    await machine.must('apt-get', 'remove', '--yes', 'slipstream-bpf');
    await traffic.moved(2 ** 20);
    await traffic.finish();
    assert.deepEqual(attachedPrograms(sandbox.cgroup, 'sock_ops'), []);
    assert.ok(!existsSync(machine.path(PIN_DIR)), 'pins are left');
    assert.deepEqual(
      readdirSync(sandbox.cgroup).filter((name) => name.includes('slipstream')),
      [],
    );
    assert.ok(existsSync(machine.path(POLICY)));
    await machine.must('apt-get', 'purge', '--yes', 'slipstream-bpf');
    const left = await machine.must(
      ...['find', '/etc', '/usr', '/var/lib', '/lib/systemd', '/run', '-xdev', '-name', '*slipstream*'],
      ...['-not', '-path', `/etc/systemd/system/${UNIT}.d*`],
    );
    assert.equal(left, '');
    assert.notEqual((await machine.run('systemctl', 'is-active', UNIT)).code, 0);
  });
});
