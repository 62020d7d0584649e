/** Which sockets are the ends of one connection, and which threads may still be in a receive. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { readFileSync } from 'node:fs';

import { isUnmoved, matchSockets, nextStep, type SeenSocket } from '../../controller/adopt/match.js';
import { ADOPTION_OPTION } from '../../controller/adopt/program.js';
import { hasSettled, parseThread, waitingForAll } from '../../controller/adopt/settle.js';
import { PACKAGE_ROOT } from '../../controller/cli/package-info.js';

/** Of a connection with the initial sequence numbers 1000 and 5000 on which 30 and 70 bytes were sent. */
const client: SeenSocket = {
  index: 0,
  cookie: 1n,
  quiet: true,
  sequence: 1031,
  expected: 5071,
  acked: 31,
  received: 70,
  slot: undefined,
};
const server: SeenSocket = {
  index: 1,
  cookie: 2n,
  quiet: true,
  sequence: 5071,
  expected: 1031,
  acked: 70,
  received: 30,
  slot: undefined,
};
const KEY = (5000n << 32n) | 1000n;

describe('adoption', () => {
  describe('two sockets', () => {
    it('are a connection, whichever is seen first', () => {
      assert.deepEqual(matchSockets([client, server]), [{ client, server, key: KEY }]);
      assert.deepEqual(matchSockets([server, client]), [{ client, server, key: KEY }]);
    });

    it('are one after 2^32 bytes as well', () => {
      const far = { ...client, acked: client.acked + 2 ** 32 };
      const peer = { ...server, received: server.received + 2 ** 32 };
      assert.deepEqual(matchSockets([far, peer])[0]?.key, KEY);
    });

    const none: [string, SeenSocket[]][] = [
      ['one alone', [client]],
      ['a byte under way', [{ ...client, sequence: 1032 }, server]],
      ['numbers that differ by a byte', [client, { ...server, expected: 1030 }]],
      ['one that is not quiet', [{ ...client, quiet: false }, server]],
      ['the other that is not quiet', [client, { ...server, quiet: false }]],
      ['counts that differ: restored', [{ ...client, acked: 0 }, server]],
      ['counts of the other way that differ', [client, { ...server, acked: 71 }]],
      ['nobody who opened it', [{ ...client, acked: 30 }, server]],
      ['both who opened it', [client, { ...server, acked: 71 }]],
      ['a second client with the numbers', [client, { ...client, index: 2, cookie: 3n }, server]],
      ['a second client that is in use', [client, { ...client, index: 2, cookie: 3n, quiet: false }, server]],
      ['a second server with the numbers', [client, server, { ...server, index: 2, cookie: 3n }]],
      ['one that sends to itself', [{ ...client, sequence: 7, expected: 7 }]],
    ];
    for (const [name, sockets] of none) {
      it(`are none: ${name}`, () => {
        assert.deepEqual(matchSockets(sockets), []);
      });
    }
  });

  describe('the next step', () => {
    const state = (control: number): string => ['free', 'half', 'joining', 'observed'][control] ?? 'free';
    const step = (a: Partial<SeenSocket>, b: Partial<SeenSocket>): string =>
      nextStep({ client: { ...client, ...a }, server: { ...server, ...b }, key: KEY }, state).kind;
    const slot = (side: number, control: number, key = KEY, number = 5) => ({
      slot: { slot: number, control, side, key },
    });

    it('is to claim a slot where there is none', () => {
      assert.equal(step({}, {}), 'claim');
    });
    it('is to go on where an attempt was interrupted', () => {
      assert.equal(step(slot(0, 1), {}), 'join');
      assert.equal(step(slot(0, 2), slot(1, 2)), 'count');
    });
    it('is none for a pair', () => {
      assert.equal(step(slot(0, 3), slot(1, 3)), 'none');
      assert.equal(step(slot(0, 2, 0n), slot(1, 2, 0n)), 'none');
    });
    it('is none where the slot is of something else', () => {
      assert.equal(step({}, slot(1, 1)), 'none');
      assert.equal(step(slot(1, 1), {}), 'none');
      assert.equal(step(slot(0, 1, KEY + 1n), {}), 'none');
      assert.equal(step(slot(0, 3), {}), 'none');
      assert.equal(step(slot(0, 2), slot(1, 2, KEY, 6)), 'none');
    });
  });

  it('is proved by silence and an equal count', () => {
    assert.equal(isUnmoved(client, client, 70), true);
    assert.equal(isUnmoved(client, client, 71), false);
    assert.equal(isUnmoved(client, client, 69), false);
    assert.equal(isUnmoved(client, undefined, 70), false);
    assert.equal(isUnmoved(client, { ...client, quiet: false }, 70), false);
    assert.equal(isUnmoved(client, { ...client, sequence: 1032 }, 70), false);
    assert.equal(isUnmoved(client, { ...client, expected: 5072 }, 70), false);
    assert.equal(isUnmoved(client, { ...client, cookie: 9n }, 70), false);
  });

  describe('a thread', () => {
    const line = (state: string, ticks: number): string =>
      `12 (a) R 9 b) ${state} 1 12 12 0 -1 4194560 1 0 0 0 ${String(ticks)} 7 0 0 20 0 3 0 100 0 0`;

    it('is read from proc_pid_stat(5), whatever its name', () => {
      assert.deepEqual(parseThread(line('S', 5)), { state: 'S', userTicks: 5, threads: 3 });
      assert.equal(parseThread(''), undefined);
    });

    it('has settled when it sleeps, has run in user space, or is gone', () => {
      const running = { state: 'R', userTicks: 5, threads: 1 };
      assert.equal(hasSettled(running, running), false);
      assert.equal(hasSettled(running, { ...running, userTicks: 6 }), true);
      assert.equal(hasSettled(running, { ...running, state: 'S' }), true);
      assert.equal(hasSettled(running, { ...running, state: 'D' }), true);
      assert.equal(hasSettled(running, undefined), true);
    });

    it('that waits for all of a receive is told from others', () => {
      assert.equal(waitingForAll('45 0x3 0x7f 0x64 0x100 0x0 0x0 0x7ffd 0x7f01\n', 'x64'), 3);
      assert.equal(waitingForAll('47 0x4 0x7f 0x4100 0x0 0x0 0x0 0x7ffd 0x7f01\n', 'x64'), 4);
      assert.equal(waitingForAll('299 0x5 0x7f 0x1 0x100 0x0 0x0 0x7ffd 0x7f01\n', 'x64'), 5);
      assert.equal(waitingForAll('207 0x3 0x7f 0x64 0x100 0x0 0x0 0x7ffd 0x7f01\n', 'arm64'), 3);
      assert.equal(waitingForAll('45 0x3 0x7f 0x64 0x40 0x0 0x0 0x7ffd 0x7f01\n', 'x64'), undefined);
      assert.equal(waitingForAll('0 0x3 0x7f 0x64 0x100 0x0 0x0 0x7ffd 0x7f01\n', 'x64'), undefined);
      assert.equal(waitingForAll('running\n', 'x64'), undefined);
      assert.equal(waitingForAll('-1 0x7ffd 0x7f01\n', 'x64'), undefined);
    });
  });

  it('asks by the option that the program knows', () => {
    const header = readFileSync(join(PACKAGE_ROOT, 'bpf/abi.h'), 'utf8');
    assert.equal(Number(/#define ADOPTION_OPTION (\S+)/.exec(header)?.[1]), ADOPTION_OPTION);
  });
});
