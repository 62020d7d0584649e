// The addon in worker threads.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';

import { BpfObject } from '../../addon/index.js';
import { fixture, script } from './support.js';

describe('worker threads', () => {
  it('use the addon at once, and may end inside any call', async () => {
    const path = fixture();
    const object = BpfObject.open(path);
    const { size } = object.structLayout('fixture_control');
    for (let round = 0; round < 2; ++round) {
      const workers = Array.from(
        { length: 3 },
        () => new Worker(script('worker.js'), { workerData: [script('busy.ts'), path] }),
      );
      const sizes = await Promise.all(workers.map((worker) => once(worker, 'message')));
      assert.deepEqual(sizes.flat(), [size, size, size]);
      for (const worker of workers) {
        await sleep(5);
        assert.equal(await worker.terminate(), 1);
      }
    }
    assert.throws(() => object.map('table'), { code: 'EINVAL' });
    object.close();
  });
});
