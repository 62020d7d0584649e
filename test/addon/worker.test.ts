// The addon in worker threads.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';

import { BpfObject } from '../../addon/index.js';
import {
  CGROUP_ROOT,
  cleanUpAfterEach,
  Control,
  fixture,
  getppid,
  loadFixture,
  needsRoot,
  script,
  temporaryBpffs,
} from './support.js';

describe('worker threads', () => {
  const later = cleanUpAfterEach();

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

  it('may end with a ring buffer open, an iterator running and calls under way in the thread pool', async function () {
    needsRoot(this);
    const object = loadFixture(later);
    const folder = temporaryBpffs(later);
    const link = object.program('fixture_iterator').attachIterator();
    const calls = object.program('fixture_syscall').attachTracepoint();
    link.pin(join(folder, 'link'));
    for (const name of ['events', 'control']) object.map(name).pin(join(folder, name));
    new Control(object).watch(100);
    const records = setInterval(getppid, 0);
    later(() => {
      clearInterval(records);
      link.close();
      calls.close();
    });
    for (let round = 0; round < 5; ++round) {
      const worker = new Worker(script('worker.js'), {
        workerData: [script('every_call.ts'), folder, CGROUP_ROOT, 'run'],
      });
      await once(worker, 'message');
      await sleep(round * 3); // the point in time is what varies
      assert.equal(await worker.terminate(), 1);
    }
    const exiting = new Worker(script('worker.js'), {
      workerData: [script('every_call.ts'), folder, CGROUP_ROOT, 'exit'],
    });
    assert.deepEqual(await once(exiting, 'exit'), [7]);
    const child = spawn(process.execPath, ['--import', 'tsx', script('every_call.ts'), folder, CGROUP_ROOT, 'exit'], {
      stdio: 'inherit',
    });
    assert.deepEqual(await once(child, 'exit'), [7, null]);
  });
});
