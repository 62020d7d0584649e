/** Which kernels scripts/test-kernels boots, and what it keeps of earlier runs. */
import assert from 'node:assert/strict';

import { type Kernel, kernelOf, latest } from '../kernels/kernels.js';
import { count, type KernelResult, merge, renderPage } from '../kernels/report.js';

const NAMES = [
  'linux-image-6.1.0-47-cloud-amd64',
  'linux-image-6.1.0-50-cloud-amd64',
  'linux-image-6.12.9+deb13-cloud-amd64',
  'linux-image-6.12.107+deb13-cloud-amd64',
  'linux-image-7.2.13+deb14-cloud-amd64',
];

describe('kernels to test on', () => {
  const kernels = NAMES.flatMap((name): Kernel[] => [kernelOf(name)!]);

  it('are the plain cloud packages', () => {
    for (const name of [
      'linux-image-cloud-amd64',
      `${NAMES[0]!}-dbg`,
      `${NAMES[0]!}-unsigned`,
      'linux-image-6.1.0-50-amd64',
    ]) {
      assert.equal(kernelOf(name), undefined, name);
    }
  });

  for (const [version, release] of [
    ['6.1', '6.1.0-50-cloud-amd64'],
    ['6.12', '6.12.107+deb13-cloud-amd64'],
    ['6.12.9', '6.12.9+deb13-cloud-amd64'],
    ['6', '6.12.107+deb13-cloud-amd64'],
    ['latest', '7.2.13+deb14-cloud-amd64'],
    ['6.10', undefined],
  ] as const) {
    it(`${version} is ${release ?? 'none'}`, () => {
      assert.equal(latest(kernels, version)?.release, release);
    });
  }
});

describe('results of kernels', () => {
  const result = (version: string, release: string, datapath = 'a'): KernelResult => ({
    ...{ version, release, datapath, doctor: undefined },
    files: { 'x.test.ts': { passed: 2, failed: [], skipped: [{ title: 'one', reason: 'a | b' }] } },
  });

  it('a guest that did not come to its end is a failure', () => {
    assert.deepEqual(count({ files: {}, trouble: 'panic' }), { passed: 0, failed: 1, skipped: 0 });
    assert.deepEqual(count(result('6.1', '6.1.0')), { passed: 2, failed: 0, skipped: 1 });
  });

  it('stay as long as the datapath does, in order of release', () => {
    const before = [result('6.12', '6.12.1'), result('7.2', '7.2.1', 'b'), result('6.1', '6.1.0-47')];
    const merged = merge(before, [result('6.1', '6.1.0-50')]);
    assert.deepEqual(
      merged.map(({ release }) => release),
      ['6.1.0-50', '6.12.1'],
    );
  });

  it('make a page', () => {
    const page = renderPage([result('6.1', '6.1.0-50')]);
    assert.match(page, /^\| `x\.test\.ts` +\| 2 passed, 1 skipped \|$/m);
    assert.match(page, /^Skipped:\n\n- one: a \| b$/m);
    assert.doesNotMatch(page, /Failed/);
  });

  it('name what failed, and where', () => {
    const bad = { ...result('6.1', '6.1.0-50'), files: { 'x.test.ts': { passed: 1, failed: ['two'], skipped: [] } } };
    const page = renderPage([bad, result('6.12', '6.12.1')]);
    assert.match(page, /^\| `x\.test\.ts` +\| 1 passed, 1 failed \| 2 passed, 1 skipped \|$/m);
    assert.match(page, /^Failed:\n\n- two \(6\.1\.0-50\)$/m);
  });
});
