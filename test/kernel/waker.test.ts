/** Who wakes sockets, and whoever is in the way. That they are woken is in invariants.test.ts, too ("short receives"). */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';

import { Waker } from '../../controller/daemon/waker.js';
import type { SocketHolder } from '../../controller/datapath/pair-table.js';
import { Daemon, run } from './support/daemon.js';
import { lock, unlock } from './support/locked-socket.js';
import { Python } from './support/python.js';
import { BORROW_PROGRAM, needsRoot, Sandbox } from './support/sandbox.js';
import { EAGER, eventually } from './support/stack.js';
import { borrowers, isThere, sleeps, wakeOnce } from './support/waking.js';

const { EBADF, ENOENT, ESRCH } = constants.errno;
/** More than the thread pool of Node.js has threads. */
const MANY = 5;

describe('waking', function () {
  this.timeout(60_000);
  let sandbox: Sandbox;

  before(function () {
    needsRoot(this);
  });

  beforeEach(() => {
    sandbox = new Sandbox('waking');
  });

  afterEach(() => sandbox.dispose());

  async function holder(p: Python, name: string): Promise<SocketHolder> {
    const [descriptor, cookie] = await p.run<[number, string]>(`(${name}.fileno(), cookie(${name}))`);
    return { pid: p.pid, descriptor, cookie: BigInt(cookie) };
  }

  /** A connection whose end `s` is watched for edges. */
  async function connected(): Promise<Python> {
    const p = new Python(sandbox);
    await p.run(`
listening = listener(); c, s = connection(listening)
c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
edges = select.epoll(); edges.register(s, select.EPOLLIN | select.EPOLLET)`);
    return p;
  }

  describe('of one socket', () => {
    it('signals again what it is ready for', async () => {
      const p = await connected();
      await p.run('c.send(bytes(10)); assert edges.poll(5); assert not edges.poll(0)');
      assert.equal(await wakeOnce(await holder(p, 's')), 0);
      await p.run('assert edges.poll(5)');
    });

    it('leaves another socket alone, and a file that is none', async () => {
      const p = await connected();
      const socket = await holder(p, 's');
      assert.equal(await wakeOnce({ ...socket, cookie: socket.cookie + 1n }), ENOENT);
      const descriptor = await p.run<number>("os.open('/dev/null', os.O_RDONLY)");
      assert.equal(await wakeOnce({ ...socket, descriptor }), ENOENT);
    });

    it('says that a process or a descriptor is gone', async () => {
      const socket = { pid: process.pid, descriptor: 1_000_000, cookie: 1n };
      assert.equal(await wakeOnce(socket), EBADF);
      assert.equal(await wakeOnce({ ...socket, pid: 2 ** 22 + 1 }), ESRCH);
    });
  });

  it('of many asks one process, each socket once, and is over with it', async () => {
    const p = await connected();
    const socket = { ...(await holder(p, 's')), pair: '' };
    let answers = 0;
    const waker = new Waker({ program: BORROW_PROGRAM, onAnswer: () => answers++ });
    for (let n = 0; n < 1000; n++) waker.wake({ ...socket, descriptor: socket.descriptor + 1000 + (n % 500) });
    const [child = -1] = await eventually('it asks', () => borrowers(process.pid).length > 0 && borrowers(process.pid));
    await waker.close();
    // The first was on its way when it was asked for again.
    assert.equal(answers, 501);
    await eventually('it has ended', () => !isThere(child));
  });

  it('goes on when its process is killed', async () => {
    const p = await connected();
    const socket = { ...(await holder(p, 's')), pair: '' };
    const errors: unknown[] = [];
    const test = { answers: 0 };
    const waker = new Waker({
      program: BORROW_PROGRAM,
      onAnswer: () => test.answers++,
      onError: (error) => errors.push(error),
    });
    waker.wake(socket);
    await eventually('woken', () => test.answers === 1);
    const [child = -1] = borrowers(process.pid);
    process.kill(child, 'SIGKILL');
    await eventually('told', () => errors.length === 1);
    waker.wake(socket);
    await eventually('woken by another', () => test.answers === 2);
    await waker.close();
    assert.match(String(errors), /slipstream-borrow ended early \(SIGKILL\)$/);
  });

  it('keeps what it can not do, and says why', async () => {
    const errors: unknown[] = [];
    const waker = new Waker({ program: '/nonexistent', onError: (error) => errors.push(error) });
    waker.wake({ pid: 1, descriptor: 0, cookie: 1n, pair: '' });
    await eventually('tried twice', () => errors.length === 2);
    assert.match(String(errors[0]), /ENOENT/);
    await waker.close();
  });

  describe('beside a sender that sleeps under its lock', () => {
    it('wakes those of other processes at once, and all when it is free', async () => {
      const p = await connected();
      const other = await connected();
      await p.run('c2, s2 = connection(listening)');
      await lock(p, 's');
      const woken: string[] = [];
      const stuck: string[] = [];
      const waker = new Waker({
        program: BORROW_PROGRAM,
        onAnswer: ({ pair }, error) => woken.push(`${pair} ${String(error)}`),
        onStuck: ({ pair }) => stuck.push(pair),
      });
      const wake = async (pair: string, from: Python, name: string): Promise<void> => {
        waker.wake({ ...(await holder(from, name)), pair });
      };
      await wake('locked', p, 's');
      await wake('beside', p, 's2');
      await wake('other', other, 's');
      await eventually('the other is woken', () => woken.length > 0);
      await wake('locked', p, 's');
      await wake('other', other, 's');
      await eventually('the other is woken again', () => woken.length > 1);
      assert.deepEqual([woken, stuck], [['other 0', 'other 0'], ['locked']]);
      await unlock(p);
      await eventually('all are woken', () => woken.length === 4);
      assert.deepEqual(woken.slice(2).toSorted(), ['beside 0', 'locked 0']);
      assert.deepEqual(stuck, ['locked']);
      await waker.close();
    });

    let promoted = 0;

    beforeEach(() => {
      promoted = 0;
    });

    async function startDaemon(): Promise<Daemon> {
      const policy = join(sandbox.dir, 'policy.yaml');
      writeFileSync(policy, EAGER);
      return Daemon.start(sandbox, ['--policy', policy]);
    }

    /** A connection that is redirected. */
    async function accelerated(daemon: Daemon): Promise<Python> {
      const p = await connected();
      for (let attempt = 0; ; attempt++) {
        await p.run('exchange(c, s, 10, 100)');
        if ((await daemon.metric('slipstream_promotions_total')) > promoted) break;
        assert.ok(attempt < 100, 'not promoted');
      }
      promoted++;
      return p;
    }

    /** Its reader empties the redirected queue with TCP bytes behind it, which asks for it to be woken. */
    async function cross(p: Python): Promise<void> {
      for (let attempt = 0; ; attempt++) {
        const received = await p
          .run(
            `
exchange(c, s, 1, 100); edges.poll(0)
c.send(bytes(100)); c.setsockopt(socket.SOL_SOCKET, 60, 1) # SO_ZEROCOPY
c.send(bytes(100)); c.setsockopt(socket.SOL_SOCKET, 60, 0)
assert edges.poll(5); received = len(s.recv(1000))`,
          )
          .then(() => p.run<number>('received'));
        if (received === 100) return;
        assert.ok(attempt < 10, 'the messages never lie in two queues');
      }
    }

    /** Has the daemon wake sockets that are locked. Returns who waits for the locks. */
    async function getStuck(daemon: Daemon, processes: readonly Python[]): Promise<number[]> {
      daemon.child.signal('SIGSTOP');
      for (const p of processes) {
        await cross(p);
        await lock(p, 's');
      }
      daemon.child.signal('SIGCONT');
      return eventually('it is stuck', () => {
        const found = borrowers(daemon.child.pid).filter(sleeps);
        return found.length === processes.length && found;
      });
    }

    async function letGo(p: Python): Promise<void> {
      await unlock(p);
      await p.run('assert edges.poll(5); assert receive(s, 100) == bytes(100) == receive(c, 100)');
      await p.run('exchange(c, s, 10, 100)');
    }

    it(`${String(MANY)} times, others are woken as ever, and these when it ends`, async () => {
      const daemon = await startDaemon();
      const processes = [];
      while (processes.length < MANY) processes.push(await accelerated(daemon));
      const other = await accelerated(daemon);
      const left = await getStuck(daemon, processes);
      await cross(other);
      await other.run('assert edges.poll(10)');
      await other.run('assert receive(s, 100) == bytes(100)');
      for (const p of processes) await letGo(p);
      await eventually('they have ended', () => !left.some(isThere));
      const lines = daemon.child.stderr.split('\n').filter((line) => line.includes('has had a socket locked'));
      assert.deepEqual(
        lines.map((line) => (JSON.parse(line) as { pid: number }).pid).toSorted(),
        processes.map(({ pid }) => pid).toSorted(),
      );
      assert.equal(await daemon.stop(), 0);
    });

    for (const how of ['SIGINT', 'SIGKILL', 'down'] as const) {
      it(`${how} ends \`up\` in the middle of it`, async () => {
        const daemon = await startDaemon();
        const p = await accelerated(daemon);
        const [asker = -1] = await getStuck(daemon, [p]);
        if (how === 'down') {
          const { code, stderr } = await run(sandbox, ['down', '--pin-dir', sandbox.pinDir]);
          assert.equal(code, 0, stderr);
          assert.equal(await daemon.child.exited(), 0);
        } else {
          assert.equal(await daemon.stop(how), how === 'SIGINT' ? 0 : null);
        }
        assert.ok(isThere(asker), 'it waits for the lock still');
        if (how !== 'down') {
          const next = await startDaemon();
          assert.equal(await next.stop(), 0);
        }
        await letGo(p);
        await eventually('it has ended', () => !isThere(asker));
      });
    }
  });
});
