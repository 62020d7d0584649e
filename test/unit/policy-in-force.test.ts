import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { PolicyRecord } from '../../controller/policy/in-force.js';
import { defaultPolicy } from '../../controller/policy/schema.js';

describe('the policy in force', () => {
  let dir: string;
  const record = (loadedNs = 7n, pinDir = '/sys/fs/bpf/slipstream'): PolicyRecord =>
    new PolicyRecord(join(dir, 'state'), pinDir, loadedNs);

  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'slipstream-policy-'));
  });

  afterEach(() => {
    rmSync(dir, { recursive: true });
  });

  it('is read as it was written, by root alone, and removed', () => {
    assert.equal(record().read(), undefined);
    record().write('/etc/policy.yaml', defaultPolicy);
    const { file, policy } = record().read() ?? {};
    assert.deepEqual([file, policy], ['/etc/policy.yaml', defaultPolicy]);
    assert.equal(statSync(record().file).mode & 0o777, 0o600);
    assert.deepEqual(readdirSync(join(dir, 'state')), ['policy-sys-fs-bpf-slipstream.json']);
    record().remove();
    assert.equal(record().read(), undefined);
    record().remove();
  });

  it('of an earlier datapath, of another one, or changed by hand is not believed', () => {
    record().write(undefined, defaultPolicy);
    assert.equal(record().read()?.file, null);
    assert.equal(record(8n).read(), undefined);
    // Two directories whose files have one name.
    assert.equal(record(7n, '/sys/fs/bpf-slipstream').read(), undefined);
    const text = readFileSync(record().file, 'utf8');
    writeFileSync(record().file, text.replace('"accelerate"', '"tcp"'));
    assert.equal(record().read(), undefined);
    writeFileSync(record().file, '{');
    assert.equal(record().read(), undefined);
  });
});
