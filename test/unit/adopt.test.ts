/** Which sockets are the ends of one connection, and which threads may still be in a receive. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { readFileSync } from 'node:fs';

import { isUnmoved, matchSockets, nextStep, type SeenSocket } from '../../controller/adopt/match.js';
import { ADOPTION_OPTION } from '../../controller/adopt/program.js';
import { hasSettled, parseThread, receivesOf } from '../../controller/adopt/settle.js';
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
    const line = (state: string, ticks: number, flags = 0x400000): string =>
      `12 (a) R 9 b) ${state} 1 12 12 0 -1 ${String(flags)} 1 0 0 0 ${String(ticks)} 7 0 0 20 0 3 0 100 0 0`;

    it('is read from proc_pid_stat(5), whatever its name', () => {
      assert.deepEqual(parseThread(line('S', 5)), { state: 'S', ofRing: false, userTicks: 5, threads: 3 });
      assert.equal(parseThread(line('S', 5, 0x10))?.ofRing, true);
      assert.equal(parseThread(line('S', 5, 0x20_8040)), undefined, 'of the kernel');
      assert.equal(parseThread(''), undefined);
    });

    it('has settled when it sleeps, has run in user space for long enough, or is gone', () => {
      const running = { state: 'R', ofRing: false, userTicks: 5, threads: 1 };
      assert.equal(hasSettled(running, running), false);
      assert.equal(hasSettled(running, { ...running, userTicks: 7 }), false);
      assert.equal(hasSettled(running, { ...running, userTicks: 8 }), true);
      assert.equal(hasSettled(running, { ...running, state: 'S' }), true);
      assert.equal(hasSettled(running, { ...running, state: 'D' }), true);
      assert.equal(hasSettled(running, undefined), true);
    });

    describe('that sleeps may not have counted a receive', () => {
      /** proc_pid_syscall(5): number, arguments, stack, place. */
      const call = (number: number, flags: number, at: number, stack = '0x7ffd00000000'): string => {
        const args = ['0x3', '0x7f00', '0x1', '0x2', '0x0', '0x0'];
        args[at] = `0x${flags.toString(16)}`;
        return `${[number, ...args, stack, '0x7f0100000000'].join(' ')}\n`;
      };
      const plain = { ofRing: false };
      const [all, nonBlocking] = [0x4100, 0x40];
      const fault = 'handle_userfault';
      const descriptor = { descriptor: 3 };
      const whole = 'any of its process';
      const cases: [string, typeof plain, string, string, string, unknown][] = [
        ['recvfrom in its wait', plain, call(45, nonBlocking, 3), 'wait_woken', 'x64', 'none'],
        ['recvfrom in its wait, by another name', plain, call(45, 0, 3), 'sk_wait_data', 'x64', 'none'],
        ['recvfrom for all', plain, call(45, all, 3), 'wait_woken', 'x64', descriptor],
        ['recvmsg for all', plain, call(47, all, 2), 'wait_woken', 'x64', descriptor],
        ['recvmmsg for all', plain, call(299, all, 3), 'wait_woken', 'x64', descriptor],
        ['recvfrom for all, elsewhere', plain, call(207, all, 3), 'wait_woken', 'arm64', descriptor],
        ['recvmsg elsewhere than in its wait', plain, call(47, nonBlocking, 2), fault, 'x64', descriptor],
        ['recvmsg where nobody knows', plain, call(47, 0, 2), '0', 'x64', descriptor],
        ['read in its wait, whatever its third argument', plain, call(0, all, 2), 'wait_woken', 'x64', 'none'],
        ['read elsewhere than in its wait', plain, call(0, 1, 2), fault, 'x64', descriptor],
        ['poll', plain, call(7, 0, 2), 'do_sys_poll', 'x64', 'none'],
        ['a page fault of its own', plain, '-1 0x7ffd00000000 0x7f0100000000\n', fault, 'x64', 'none'],
        ['a 32-bit program', plain, call(7, 0, 2, '0xffb00000'), 'do_sys_poll', 'x64', whole],
        ['a machine whose numbers are not known', plain, call(63, 0, 2), 'wait_woken', 's390x', whole],
        ['a ring with nothing to do', plain, call(426, 0, 2), 'io_cqring_wait', 'x64', 'none'],
        ['a ring with something to do', plain, call(426, 0, 2), fault, 'x64', whole],
        ['a thread of a ring with nothing to do', { ofRing: true }, call(0, 0, 2), 'io_wq_worker', 'x64', 'none'],
        ['a thread of a ring with something to do', { ofRing: true }, call(7, 0, 2), 'wait_woken', 'x64', whole],
      ];
      for (const [name, thread, syscall, wchan, machine, expected] of cases) {
        it(name, () => {
          assert.deepEqual(receivesOf(thread, syscall, wchan, machine), expected);
        });
      }
    });
  });

  it('asks by the option that the program knows', () => {
    const header = readFileSync(join(PACKAGE_ROOT, 'bpf/abi.h'), 'utf8');
    assert.equal(Number(/#define ADOPTION_OPTION (\S+)/.exec(header)?.[1]), ADOPTION_OPTION);
  });
});
