/** A kernel that lacks what the datapath needs: every command says so, and leaves nothing. Run by scripts/test-kernels. */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';

import { attachedPrograms } from '../../addon/index.js';
import { EXIT } from '../../controller/errors.js';
import type { Diagnosis } from '../../controller/probe/doctor.js';
import { missingFeature } from '../../controller/probe/kernel.js';
import { run, stateDir } from '../kernel/support/daemon.js';
import { needsRoot, Sandbox, skip } from '../kernel/support/sandbox.js';

describe('a kernel without what is needed', () => {
  let sandbox: Sandbox;
  let missing: string;

  before(function () {
    needsRoot(this);
    const feature = missingFeature();
    if (feature === undefined) skip(this, 'this kernel has all that is needed');
    missing = feature.name;
    sandbox = new Sandbox('unsupported');
  });

  after(async () => {
    await (sandbox as Sandbox | undefined)?.dispose();
  });

  it('up names it, exits with 3 and attaches nothing', async () => {
    const args = ['--cgroup', sandbox.cgroup, '--pin-dir', sandbox.pinDir, '--state-dir', stateDir(sandbox)];
    const { code, stdout, stderr } = await run(sandbox, ['up', '--metrics', '127.0.0.1:0', ...args]);
    assert.equal(code, EXIT.unsupported, stderr);
    assert.ok(stderr.includes(`lacks ${missing}, which mainline has since`), stderr);
    assert.equal(stderr.trim().split('\n').length, 1, stderr);
    assert.equal(stdout, '');
    assert.deepEqual(attachedPrograms(sandbox.cgroup, 'sock_ops'), []);
    assert.deepEqual(readdirSync(dirname(sandbox.pinDir)), []);
    assert.ok(!readdirSync(sandbox.dir).includes(join('state')));
  });

  it('doctor names it with the remedy', async () => {
    const { stdout } = await run(sandbox, ['doctor', '--json']);
    const { able, checks } = JSON.parse(stdout) as Diagnosis;
    assert.equal(able, false);
    const check = checks.find(({ id }) => id === 'kernel features');
    assert.equal(check?.status, 'fail');
    assert.ok(check.detail.includes(missing), check.detail);
    assert.match(check.remedy ?? '', /boot a kernel that has it/);
  });

  it('status says that nothing is attached', async () => {
    const { code } = await run(sandbox, ['status', '--pin-dir', sandbox.pinDir]);
    assert.notEqual(code, 0);
  });
});
