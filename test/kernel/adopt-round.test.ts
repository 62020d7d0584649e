/** A round of adoption and whoever is in its way: sockets that stay locked, many namespaces, errors, an end in its middle. */
import assert from 'node:assert/strict';

import { pino } from 'pino';

import { attachedPrograms } from '../../addon/index.js';
import { Adoption, adoptRound, type RoundOptions } from '../../controller/adopt/adopt.js';
import { type Descriptor, establishedInodes, findDescriptors } from '../../controller/explain/host.js';
import { ADOPT_OBJECT, borrower } from './support/adopting.js';
import { mapAtOnce } from './support/at-once.js';
import { Daemon, run } from './support/daemon.js';
import { Connection } from './support/endpoint.js';
import { lock, unlock } from './support/locked-socket.js';
import { Python } from './support/python.js';
import { BORROW_PROGRAM, needsRoot, Sandbox } from './support/sandbox.js';
import { eventually, Stack } from './support/stack.js';
import { borrowers, isThere, sleeps } from './support/waking.js';

const NAMESPACES = 100;

describe('a round of adoption', function () {
  this.timeout(60_000);
  let sandbox: Sandbox;

  before(function () {
    needsRoot(this);
  });

  beforeEach(() => {
    sandbox = new Sandbox('round');
  });

  afterEach(() => sandbox.dispose());

  const options = (stack: Stack, more: Partial<RoundOptions> = {}): RoundOptions => ({
    datapath: stack.datapath,
    objectFile: ADOPT_OBJECT,
    cgroupDir: sandbox.cgroup,
    borrower: borrower(),
    ...more,
  });

  /** Two ends in one process, of which `c` is locked. */
  async function locked(cgroup?: string): Promise<Python> {
    const p = new Python(sandbox, cgroup === undefined ? {} : { cgroup });
    await p.run('listening = listener(); c, s = connection(listening); exchange(c, s, 3, 100)');
    await lock(p, 'c');
    return p;
  }

  const isAttached = (): boolean => attachedPrograms(sandbox.cgroup, 'setsockopt').length > 0;

  describe('beside a sender that sleeps under its lock', () => {
    it('adopts others, does not wait again, and takes it when it is free', async () => {
      const p = await locked();
      await Connection.open(sandbox);
      const stack = new Stack(sandbox);
      const stuck: Descriptor[] = [];
      const ask = borrower((socket) => stuck.push(socket));
      const adopted = async (count: number): Promise<void> => {
        for (let rounds = 1; stack.datapath.controllerCounters.adoptedPairs < count; rounds++) {
          assert.ok(rounds <= 20, `${String(stack.datapath.controllerCounters.adoptedPairs)} of ${String(count)}`);
          await adoptRound(options(stack, { borrower: ask }));
        }
      };
      await adopted(1);
      assert.equal((await adoptRound(options(stack, { borrower: ask }))).adopted, 0);
      assert.deepEqual(
        stuck.map(({ pid, inode }) => ({ pid, inode })),
        [{ pid: p.pid, inode: await p.run('os.fstat(c.fileno()).st_ino') }],
      );
      const left = borrowers(process.pid);
      assert.equal(left.length, 1, 'one is left behind');
      assert.ok(!isAttached());
      await unlock(p);
      await eventually('it has ended', () => !left.some(isThere));
      await p.run('assert receive(s, 100) == bytes(100)');
      await adopted(2);
      assert.equal(stuck.length, 1);
      await p.run('exchange(c, s, 10, 100)');
    });

    it('`up --adopt` says who it is', async () => {
      const p = await locked();
      const daemon = await Daemon.start(sandbox, ['--adopt']);
      const line = await daemon.child.until(({ stderr }) =>
        stderr.split('\n').find((text) => text.includes('has had a socket locked')),
      );
      const { pid, program } = JSON.parse(line) as { pid: number; program: string };
      assert.deepEqual([pid, program], [p.pid, 'python3']);
      await eventually('detached', () => !isAttached());
      assert.equal(await daemon.stop(), 0);
    });

    for (const how of ['SIGINT', 'SIGKILL', 'down'] as const) {
      it(`${how} ends \`up --adopt\` in the middle of it`, async () => {
        const p = await locked();
        const daemon = await Daemon.start(sandbox, ['--adopt']);
        const [asker = -1] = await eventually('it asks the socket', () => {
          const found = borrowers(daemon.child.pid).filter(sleeps);
          return found.length > 0 && found;
        });
        assert.ok(isAttached());
        if (how === 'down') {
          const { code, stderr } = await run(sandbox, ['down', '--pin-dir', sandbox.pinDir]);
          assert.equal(code, 0, stderr);
          assert.equal(await daemon.child.exited(), 0);
        } else {
          assert.equal(await daemon.stop(how), how === 'SIGINT' ? 0 : null);
        }
        await eventually('detached', () => !isAttached());
        assert.ok(isThere(asker), 'it waits for the lock still');
        if (how !== 'down') {
          const next = await Daemon.start(sandbox, ['--adopt']);
          assert.equal(await next.stop(), 0);
        }
        await unlock(p);
        await eventually('it has ended', () => !isThere(asker));
        await p.run('assert receive(s, 100) == bytes(100); exchange(c, s, 10, 100)');
      });
    }

    it('is given up at once when it is to end', async () => {
      const p = await locked();
      const end = new AbortController();
      const round = adoptRound(options(new Stack(sandbox), { signal: end.signal })); // told of no locked socket
      await eventually('it asks the socket', () => borrowers(process.pid).some(sleeps));
      end.abort();
      await assert.rejects(round, { name: 'AbortError' });
      assert.ok(!isAttached());
      await unlock(p);
      await eventually('it has ended', () => borrowers(process.pid).length === 0);
    });

    it('never asks those of other cgroups', async () => {
      await locked(sandbox.makeCgroup('outside', 'beside'));
      const inside = new Python(sandbox);
      await inside.run('listening = listener(); c, s = connection(listening)');
      const all = await findDescriptors(await establishedInodes(), { below: sandbox.cgroupPath });
      assert.deepEqual([...new Set(all.map(({ pid }) => pid))], [inside.pid]);
      const stack = new Stack(sandbox);
      for (let rounds = 1; stack.datapath.controllerCounters.adoptedPairs < 1; rounds++) {
        assert.ok(rounds <= 20);
        await adoptRound(options(stack));
      }
    });
  });

  it('asks nobody but who is there', async () => {
    const value = Buffer.alloc(16);
    const results = await borrower().set([
      { pid: 2 ** 22 + 1, descriptor: 0, inode: 1, value },
      { pid: process.pid, descriptor: 1_000_000, inode: 1, value },
      { pid: process.pid, descriptor: 0, inode: 1, value },
    ]);
    assert.deepEqual(results, [3, 9, 2]);
  });

  it(`lets others have their turn, for each of ${String(NAMESPACES)} network namespaces`, async () => {
    await mapAtOnce(Array.from({ length: NAMESPACES }), () =>
      sandbox
        .spawn('unshare', ['--net', 'sh', '-c', 'echo there; exec sleep 1000'], { cgroup: null })
        .until(({ lines }) => lines[0]),
    );
    await Connection.open(sandbox);
    const test = { turns: 0, over: false };
    const turn = (): void => {
      test.turns++;
      if (!test.over) setImmediate(turn);
    };
    turn();
    const inodes = await establishedInodes();
    test.over = true;
    assert.ok(inodes.size >= 2);
    assert.ok(test.turns > NAMESPACES, `${String(test.turns)} turns`);
  });

  it('that fails is followed by others, and told once', async () => {
    await Connection.open(sandbox);
    const stack = new Stack(sandbox);
    const lines: { level: number; msg: string }[] = [];
    const log = pino({}, { write: (line: string) => lines.push(JSON.parse(line) as (typeof lines)[number]) });
    let rounds = 0;
    const adoption = new Adoption({
      datapath: stack.datapath,
      get objectFile() {
        return ++rounds <= 2 ? '/nonexistent' : ADOPT_OBJECT;
      },
      borrowProgram: BORROW_PROGRAM,
      cgroupDir: sandbox.cgroup,
      log,
    });
    adoption.start();
    await eventually('adopted', () => stack.datapath.controllerCounters.adoptedPairs === 1, 30_000);
    await adoption.close();
    assert.equal(lines.filter(({ msg }) => msg.includes('could not')).length, 1, JSON.stringify(lines));
  });
});
