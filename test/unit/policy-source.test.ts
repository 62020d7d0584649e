import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { appendFileSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';

import { type LoadedPolicy, PolicySource, readPolicy } from '../../controller/daemon/policy-source.js';
import { ConfigMapVolume } from '../kernel/support/config-map.js';

describe('policy: reload', function () {
  this.timeout(20_000);
  let dir: string;
  let file: string;
  let volume: ConfigMapVolume;
  let source: PolicySource;

  const policy = (promoteAfter: number): string => `version: 1\ndefaults: { promoteAfter: ${String(promoteAfter)} }\n`;

  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'slipstream-policy-'));
    volume = new ConfigMapVolume(join(dir, 'config-map'), { 'policy.yaml': policy(1) });
    file = join(volume.dir, 'policy.yaml');
    watch();
  });

  afterEach(() => {
    source.close();
    rmSync(dir, { recursive: true });
  });

  function watch(): void {
    source = new PolicySource(file, readPolicy(file));
    source.watch();
  }

  /** Resolves when this version is in force. */
  async function inForce(promoteAfter: number): Promise<void> {
    for (;;) {
      const [loaded] = (await once(source, 'loaded')) as [LoadedPolicy];
      if (loaded.policy.defaults.promoteAfter === promoteAfter) return;
    }
  }

  it('sees a ConfigMap replaced time and again', async () => {
    for (let version = 2; version < 5; version++) {
      const seen = inForce(version);
      volume.update({ 'policy.yaml': policy(version) });
      await seen;
    }
  });

  it('ends with the last of many in quick succession, at whatever moment they come', async () => {
    for (let round = 1; round <= 3; round++) {
      const last = 100 * round;
      const seen = inForce(last);
      for (let version = last - 20; version <= last; version++) {
        volume.update({ 'policy.yaml': policy(version) });
        await pause((version * 7) % 40);
      }
      await seen;
    }
  });

  it('tells what is invalid and goes on to watch', async () => {
    const invalid = once(source, 'invalid') as Promise<[string]>;
    volume.update({ 'policy.yaml': 'version: 1\nrule: []\n' });
    assert.match((await invalid)[0], /policy\.yaml:2:1: /);
    const seen = inForce(2);
    volume.update({ 'policy.yaml': policy(2) });
    await seen;
  });

  it('outlives a directory that is gone for a while', async () => {
    for (const [version, wait] of [
      [2, 0],
      [3, 100],
      [4, 700],
    ] as const) {
      const seen = inForce(version);
      renameSync(volume.dir, `${volume.dir}.away`);
      await pause(wait);
      renameSync(`${volume.dir}.away`, volume.dir);
      volume.update({ 'policy.yaml': policy(version) });
      await seen;
    }
  });

  for (const [what, [command, ...args]] of [
    ['a FIFO', ['mkfifo']],
    ['endless', ['ln', '-s', '/dev/zero']],
    ['a directory', ['mkdir']],
  ] as const) {
    it(`tells that it is ${what} now, and goes on to watch`, async () => {
      source.close();
      file = join(dir, 'plain.yaml');
      writeFileSync(file, policy(1));
      watch();
      const invalid = once(source, 'invalid') as Promise<[string]>;
      rmSync(file);
      execFileSync(command, [...args, file]);
      assert.match(
        (await invalid)[0],
        /plain\.yaml: this is (no regular file: give one|a directory: give the file itself)$/,
      );
      const seen = inForce(2);
      rmSync(file, { recursive: true });
      writeFileSync(file, policy(2));
      await seen;
    });
  }

  it('does not read a file that is still being written', async () => {
    source.close();
    file = join(dir, 'plain.yaml');
    writeFileSync(file, policy(1));
    watch();
    const loaded: number[] = [];
    source.on('loaded', ({ policy: { defaults } }) => loaded.push(defaults.promoteAfter));
    const seen = inForce(5);
    writeFileSync(file, policy(5));
    for (let n = 0; n < 5; n++) {
      await pause(100);
      appendFileSync(file, `# ${String(n)}\n`);
      assert.deepEqual(loaded, []);
    }
    await seen;
  });

  it('sees a change that came between reading and watching', async () => {
    source.close();
    const read = readPolicy(file);
    volume.update({ 'policy.yaml': policy(2) });
    source = new PolicySource(file, read);
    const seen = inForce(2);
    source.watch();
    await seen;
  });
});
