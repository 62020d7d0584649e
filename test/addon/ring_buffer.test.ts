// Records from the kernel: order, batches, and every way to end.
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';

import { type BpfObject, RingBuffer } from '../../addon/index.js';
import {
  Control,
  cleanUpAfterEach,
  collectGarbage,
  getppid,
  loadFixture,
  needsRoot,
  script,
  temporaryBpffs,
} from './support.js';

async function until(condition: () => boolean): Promise<void> {
  const end = Date.now() + 10_000;
  while (!condition()) {
    assert(Date.now() < end, 'it did not happen within 10 s');
    await sleep(1);
  }
}

describe('a ring buffer', () => {
  const later = cleanUpAfterEach();
  let object: BpfObject;
  let control: Control;

  before(function () {
    needsRoot(this);
  });

  beforeEach(() => {
    object = loadFixture(later);
    control = new Control(object);
    const link = object.program('fixture_syscall').attachTracepoint();
    later(() => {
      link.close();
    });
  });

  /** Opens it, and closes it after the test. */
  function read(onRecords: (records: Buffer[]) => void, batch?: number): RingBuffer {
    const map = object.map('events');
    const ring = new RingBuffer(map, onRecords, batch === undefined ? {} : { batch });
    map.close(); // the ring buffer has its own descriptor
    later(() => {
      ring.close();
    });
    return ring;
  }

  /** What fixture_syscall wrote: the call's number and the record's number in it. */
  const numbers = (record: Buffer) => [Number(record.readBigUInt64LE(0)), Number(record.readBigUInt64LE(8))];

  for (const [batch, largest] of [
    [100, 100],
    [1, 1],
    [undefined, 256],
  ] as const) {
    it(`delivers every record once, in order, at most ${largest} to a call`, async () => {
      const batches: Buffer[][] = [];
      read((records) => batches.push(records), batch);
      control.watch(1000);
      getppid();
      getppid();
      await until(() => batches.flat().length >= 2000);
      assert.equal(control.lost, 0);
      assert.equal(Math.max(...batches.map((records) => records.length)), largest);
      const expected = Array.from({ length: 2000 }, (_, i) => [Math.floor(i / 1000), i % 1000]);
      assert.deepEqual(batches.flat().map(numbers), expected);
    });
  }

  it('delivers copies, which later records do not change', async () => {
    const kept: Buffer[] = [];
    read((records) => kept.push(...records));
    control.watch(4096);
    // 24 bytes a record with its header: almost four times the buffer's size in all.
    for (let call = 0; call < 40; ++call) {
      getppid();
      await until(() => kept.length === 4096 * (call + 1));
    }
    assert.deepEqual(numbers(kept[5]!), [0, 5]);
    assert.deepEqual(numbers(kept.at(-1)!), [39, 4095]);
  });

  it('delivers nothing after close(), also when the callback closes it', async () => {
    let calls = 0;
    const ring = read(() => {
      ++calls;
      ring.close();
    }, 10);
    control.watch(100);
    getppid();
    await until(() => calls > 0);
    await sleep(50);
    assert.equal(calls, 1);
    ring.close(); // again: nothing happens
    ring.ref();
    ring.unref();
    // The other records are still there.
    const rest: Buffer[] = [];
    read((records) => rest.push(...records));
    await until(() => rest.length >= 90);
    assert.deepEqual(numbers(rest[0]!), [0, 10]);
  });

  it('lives on when nothing refers to it', async () => {
    let count = 0;
    const ring = new WeakRef(new RingBuffer(object.map('events'), (records) => (count += records.length)));
    later(() => ring.deref()?.close());
    await collectGarbage();
    control.watch(1);
    for (let i = 0; i < 100; ++i) getppid();
    await until(() => count === 100);
  });

  it('checks its arguments', () => {
    const Untyped = RingBuffer as unknown as new (...values: unknown[]) => unknown;
    const map = object.map('events');
    const callback = () => undefined;
    assert.throws(() => new Untyped(), TypeError);
    assert.throws(() => new Untyped({}, callback), TypeError);
    assert.throws(() => new Untyped(Object.create(Object.getPrototypeOf(map) as object), callback), TypeError);
    const disguised: unknown = Object.setPrototypeOf(
      object.program('fixture_syscall'),
      Object.getPrototypeOf(map) as object,
    );
    assert.throws(() => new Untyped(disguised, callback), TypeError);
    assert.throws(() => new Untyped(map), TypeError);
    assert.throws(() => new Untyped(map, callback, 5), TypeError);
    assert.throws(() => new Untyped(map, callback, { batch: 'x' }), TypeError);
    assert.throws(() => new Untyped(map, callback, { batch: 0 }), RangeError);
    assert.throws(() => new Untyped(object.map('table'), callback), {
      code: 'EINVAL',
      operation: 'ring_buffer__new',
      object: 'table',
    });
  });

  describe('in another process or thread', () => {
    let pin: string;
    const user = script('ring_buffer_user.ts');

    beforeEach(() => {
      pin = join(temporaryBpffs(later), 'events');
      object.map('events').pin(pin);
      control.watch(64);
    });

    async function startProcess(
      behaviour: string,
    ): Promise<{ child: ChildProcess; ended: Promise<unknown>; output: () => string }> {
      const child = spawn(process.execPath, ['--import', 'tsx', user, pin, behaviour]);
      later(() => child.kill('SIGKILL'));
      let output = '';
      child.stdout.on('data', (text) => (output += String(text)));
      child.stderr.on('data', (text) => (output += String(text)));
      const ended = once(child, 'exit').then(([code, signal]: unknown[]) => code ?? signal);
      await until(() => output.includes('ready') || child.exitCode !== null);
      return { child, ended, output: () => output };
    }

    async function startWorker(behaviour: string): Promise<Worker> {
      const worker = new Worker(script('worker.js'), { workerData: [user, pin, behaviour] });
      worker.on('error', () => undefined);
      later(() => void worker.terminate());
      await once(worker, 'message');
      return worker;
    }

    it('turns an exception of the callback into an uncaughtException', async () => {
      const { ended, output } = await startProcess('throw');
      getppid();
      assert.equal(await ended, 0, output());
      assert.equal(output(), 'ready\ncaught: thrown by the callback\n');
    });

    it('lets the process end once unreferenced, and not before', async () => {
      const unreferenced = await startProcess('unref');
      assert.equal(await unreferenced.ended, 0, unreferenced.output());
      const referenced = await startProcess('tell');
      assert.equal(await Promise.race([referenced.ended, sleep(300, 'runs')]), 'runs');
    });

    it('survives process.exit() in the callback', async () => {
      const { ended, output } = await startProcess('exit');
      getppid();
      assert.equal(await ended, 7, output());
    });

    it('survives the end of its worker thread at any moment', async () => {
      for (let round = 0; round < 10; ++round) {
        const worker = await startWorker('tell');
        const records = setInterval(getppid, 0);
        const wait = round % 5;
        if (wait > 0) await once(worker, 'message');
        await sleep(wait);
        getppid();
        await worker.terminate();
        clearInterval(records);
      }
      const received: Buffer[] = [];
      read((records) => received.push(...records));
      getppid();
      await until(() => received.length > 0);
    });

    it('survives a thread that is terminated inside the callback', async () => {
      const worker = await startWorker('spin');
      getppid();
      await sleep(100);
      assert.equal(await worker.terminate(), 1);
    });

    it('survives process.exit() in a thread', async () => {
      const worker = await startWorker('exit');
      const ended = once(worker, 'exit');
      getppid();
      assert.deepEqual(await ended, [7]);
    });

    it('reports an exception of a thread', async () => {
      const worker = await startWorker('tell');
      const thrower = await startWorker('throw');
      await worker.terminate();
      const answer = once(thrower, 'message');
      getppid();
      const [message] = (await answer) as [string];
      assert.equal(message, 'caught: thrown by the callback');
      assert.deepEqual(await once(thrower, 'exit'), [0]);
    });
  });
});
