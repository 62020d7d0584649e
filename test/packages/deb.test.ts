/** The Debian package on a system of its own: installed, started by systemd, upgraded under load, removed. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { attachedPrograms } from '../../addon/index.js';
import type { Status } from '../../controller/view/status.js';
import { type Machine, whyNoMachines } from '../kernel/support/machine.js';
import { needsRoot, ROOT, Sandbox, skip } from '../kernel/support/sandbox.js';
import { Traffic } from '../kernel/support/traffic.js';
import { DebianMachine, PIN_DIR, POLICY, UNIT } from './debian.js';

/** What `systemd-analyze security` makes of the unit, of 100: from 50 on it calls one exposed. */
const EXPOSURE = 35;

describe('the Debian package', function () {
  this.timeout(300_000);
  let sandbox: Sandbox;
  let debian: DebianMachine;
  let machine: Machine;
  let load: string;

  before(async function () {
    needsRoot(this);
    const reason = whyNoMachines();
    if (reason !== undefined) skip(this, reason);
    sandbox = new Sandbox('deb');
    debian = await DebianMachine.boot(sandbox);
    ({ machine } = debian);
    load = sandbox.makeCgroup('load');
  });

  after(() => sandbox.dispose());

  const status = (): Status => debian.status();
  const show = (property: string): Promise<string> => debian.show(property);

  it('is clean to lintian', function () {
    if (spawnSync('lintian', ['--version']).status !== 0) skip(this, 'lintian does not run');
    const args = ['--allow-root', '--fail-on', 'error,warning', '--tag-display-limit', '0', debian.deb];
    // Written by the command line where it can.
    if (!existsSync(join(ROOT, 'build/man/slipstream-bpf.8'))) args.unshift('--suppress-tags', 'no-manual-page');
    const { status: code, stdout } = spawnSync('lintian', args, { encoding: 'utf8' });
    assert.equal(code, 0, stdout);
  });

  it('is installed by apt, starts, and observes at first', async () => {
    await debian.install();
    assert.equal(await show('ActiveState'), 'active');
    assert.match(await show('StatusText'), /^attached to \/sys\/fs\/cgroup, 0 promoted pairs$/);
    assert.equal((await machine.must('systemctl', 'is-enabled', UNIT)).trim(), 'enabled');
    const traffic = new Traffic(sandbox, { cgroup: load, netns: machine.netns });
    await debian.until('refusals', () => (status().datapath?.refusals['observe'] ?? 0) > 0);
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
    await debian.redirected(1000);
    await debian.until('promoted pairs in the status', async () =>
      / [1-9]\d* promoted pairs?$/.test(await show('StatusText')),
    );
    await traffic.finish();
  });

  it('systemd starts it again when its control loop stands still; connections go on', async () => {
    debian.dropIn('watchdog', '[Service]\nWatchdogSec=2\n');
    await machine.must('systemctl', 'daemon-reload');
    await machine.must('systemctl', 'restart', UNIT);
    const traffic = new Traffic(sandbox, { cgroup: load, netns: machine.netns });
    await debian.redirected(1000);
    // It lives for longer than that.
    const pid = await show('MainPID');
    await new Promise((resolve) => setTimeout(resolve, 3000));
    assert.equal(await show('MainPID'), pid);
    await machine.must('sh', '-c', `kill -STOP ${pid}`);
    await debian.until('another process', async () => {
      return (
        (await show('ActiveState')) === 'active' && (await show('MainPID')) !== pid && (await show('NRestarts')) === '1'
      );
    });
    assert.match(await machine.must('journalctl', '--no-pager', '--output=cat'), /Watchdog timeout/);
    await debian.redirected(1000);
    await traffic.finish();
  });

  it('an upgrade under load loses nothing, and keeps connections accelerated', async () => {
    const traffic = new Traffic(sandbox, { cgroup: load, netns: machine.netns });
    await debian.redirected(1000);
    const before = status().datapath;
    const pid = await show('MainPID');
    await debian.install(debian.laterPackage('99.1'));
    assert.notEqual(await show('MainPID'), pid);
    const after = status().datapath;
    assert.ok(before && after);
    assert.ok(after.loadedSeconds > before.loadedSeconds, 'another datapath was loaded');
    assert.ok(after.redirectedMessages > before.redirectedMessages && after.pairs.inserted > 0);
    await debian.redirected(1000);
    await traffic.finish();
    assert.match(readFileSync(machine.path(POLICY), 'utf8'), /action: accelerate/);
  });

  it('an upgrade to another ABI drains first, with the version that is being replaced', async () => {
    const traffic = new Traffic(sandbox, { cgroup: load, netns: machine.netns });
    await debian.redirected(1000);
    const before = status().datapath;
    const output = await debian.install(
      debian.laterPackage('99.2', (folder) => {
        const script = join(folder, 'DEBIAN/preinst');
        const text = readFileSync(script, 'utf8');
        assert.match(text, /"\$loaded" != \d+ /);
        writeFileSync(script, text.replace(/"\$loaded" != \d+ /, '"$loaded" != 4096 '));
      }),
    );
    assert.match(output, /so it is drained\ndrained \d+ promoted pairs? and detached/);
    const after = await debian.until('the new datapath', () => status().datapath);
    assert.ok(before && after.loadedSeconds < before.loadedSeconds, 'the old datapath is still there');
    await traffic.moved(2 ** 20);
    await traffic.finish();
  });

  it('needs each of its capabilities', async () => {
    for (const capability of ['CAP_BPF', 'CAP_PERFMON', 'CAP_NET_ADMIN', 'CAP_SYS_PTRACE']) {
      debian.dropIn('less', `[Service]\nCapabilityBoundingSet=~${capability}\n`);
      await machine.must('systemctl', 'daemon-reload');
      const since = `--since=@${String(Date.now() / 1000)}`;
      const { code } = await machine.run('systemctl', 'restart', UNIT);
      // Without the last one readers are not woken, which it says.
      assert.equal(code === 0, capability === 'CAP_SYS_PTRACE', capability);
      const journal = await machine.must('journalctl', '--no-pager', '--output=cat', `--unit=${UNIT}`, since);
      assert.match(journal, new RegExp(`needs ${capability}|${capability} is missing`));
    }
    debian.dropIn('less', '');
    await machine.must('systemctl', 'daemon-reload');
    await machine.must('systemctl', 'restart', UNIT);
  });

  it('is removed under load with nothing left, and purged with nothing at all', async () => {
    const traffic = new Traffic(sandbox, { cgroup: load, netns: machine.netns });
    await debian.redirected(1000);
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
    await debian.assertNothingLeft();
  });
});
