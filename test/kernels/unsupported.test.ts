/** Kernels that lack something: commands say so in a sentence, and leave nothing. Run by scripts/test-kernels. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import { dirname } from 'node:path';

import { attachedPrograms } from '../../addon/index.js';
import { EXIT } from '../../controller/errors.js';
import type { Diagnosis } from '../../controller/probe/doctor.js';
import { ADOPT_FEATURES, CAPTURE_FEATURES, missingFeature } from '../../controller/probe/kernel.js';
import { run, stateDir } from '../kernel/support/daemon.js';
import { needsRoot, Sandbox, skip } from '../kernel/support/sandbox.js';
import { Stack } from '../kernel/support/stack.js';

describe('a kernel that lacks what the datapath needs', () => {
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
    assert.ok(!existsSync(stateDir(sandbox)));
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

describe('a kernel that lacks what else a command needs', () => {
  let sandbox: Sandbox;

  before(function () {
    needsRoot(this);
    const missing = missingFeature();
    if (missing !== undefined) skip(this, `this kernel lacks ${missing.name}`);
  });

  beforeEach(() => {
    sandbox = new Sandbox('lacking');
  });

  afterEach(() => sandbox.dispose());

  it('capture names it', async function () {
    const missing = missingFeature(CAPTURE_FEATURES);
    if (missing === undefined) skip(this, 'this kernel has all that capture needs');
    new Stack(sandbox);
    const { code, stderr } = await run(sandbox, ['capture', '--pin-dir', sandbox.pinDir, '-w', '/dev/null']);
    assert.equal(code, EXIT.unsupported, stderr);
    assert.ok(stderr.includes(`lacks ${missing.name}, which mainline has since`), stderr);
  });

  it('up --adopt names it and attaches nothing', async function () {
    const missing = missingFeature(ADOPT_FEATURES);
    if (missing === undefined) skip(this, 'this kernel has all that --adopt needs');
    const args = ['--cgroup', sandbox.cgroup, '--pin-dir', sandbox.pinDir, '--state-dir', stateDir(sandbox)];
    const { code, stderr } = await run(sandbox, ['up', '--adopt', '--metrics', '127.0.0.1:0', ...args]);
    assert.equal(code, EXIT.unsupported, stderr);
    assert.ok(stderr.includes(`lacks ${missing.name}, which mainline has since`), stderr);
    assert.deepEqual(attachedPrograms(sandbox.cgroup, 'sock_ops'), []);
  });
});
