/** wakeSocket: what it refuses. That it wakes is in test/kernel/invariants.test.ts ("short receives"). */
import assert from 'node:assert/strict';
import { openSync, closeSync } from 'node:fs';
import { createServer } from 'node:net';
import { once } from 'node:events';

import { wakeSocket } from '../../addon/index.js';

describe('wakeSocket', () => {
  it('leaves another socket alone', async () => {
    const server = createServer();
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { fd } = (server as unknown as { _handle: { fd: number } })._handle;
    assert.equal(await wakeSocket(process.pid, fd, 1n), false);
    server.close();
  });

  it('leaves a descriptor that is no socket alone', async () => {
    const file = openSync('/dev/null', 'r');
    assert.equal(await wakeSocket(process.pid, file, 1n), false);
    closeSync(file);
  });

  it('a process or a descriptor that is gone is no error', async () => {
    assert.equal(await wakeSocket(2 ** 22 + 1, 0, 1n), false);
    assert.equal(await wakeSocket(process.pid, 1_000_000, 1n), false);
  });

  for (const args of [[0, 1, 1n], [1.5, 1, 1n], [1, -1, 1n], [1, 1, 1], ['1', 1, 1n], []]) {
    it(`refuses ${args.map((value) => `${typeof value} ${String(value)}`).join(', ') || 'no arguments'}`, () => {
      assert.throws(() => (wakeSocket as (...given: unknown[]) => unknown)(...args), /must be|is out of range/);
    });
  }
});
