/** Controllers come and go while connections run: nothing of that is noticed, nothing is left. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';

import { attachedPrograms, BpfLink, BpfMap, objectExists } from '../../addon/index.js';
import { Daemon, run } from './support/daemon.js';
import { Connection } from './support/endpoint.js';
import { needsRoot, Sandbox } from './support/sandbox.js';
import { eventually, Stack } from './support/stack.js';
import { Traffic } from './support/traffic.js';

describe('life cycle', function () {
  this.timeout(120_000);
  let sandbox: Sandbox;

  before(function () {
    needsRoot(this);
  });

  beforeEach(() => {
    sandbox = new Sandbox('lifecycle');
  });

  afterEach(() => sandbox.dispose());

  /** Resolves when the daemon has redirected this many messages. */
  async function redirectedMore(daemon: Daemon, messages: number): Promise<number> {
    const now = (): Promise<number> => daemon.metric('slipstream_redirected_messages_total');
    const goal = (await now()) + messages;
    for (;;) {
      const count = await now();
      if (count >= goal) return count;
    }
  }

  const nothingLeft = (): void => {
    assert.deepEqual(attachedPrograms(sandbox.cgroup, 'sock_ops'), []);
    assert.ok(!existsSync(sandbox.pinDir), 'pins are left');
  };

  /** What the kernel keeps of the instance that is pinned now. */
  function kernelObjects(): ['program' | 'map' | 'link', number][] {
    return readdirSync(sandbox.pinDir).flatMap((name): ['program' | 'map' | 'link', number][] => {
      const path = join(sandbox.pinDir, name);
      if (!name.startsWith('link_')) {
        const map = BpfMap.open(path);
        const { id } = map.info();
        map.close();
        return [['map', id]];
      }
      const link = BpfLink.open(path);
      const { id, programId } = link.info();
      link.close();
      return [
        ['link', id],
        ['program', programId],
      ];
    });
  }

  it('kill -9 in mid-transfer: no connection notices, a new up adopts and counts on', async () => {
    const first = await Daemon.start(sandbox);
    const traffic = new Traffic(sandbox);
    const before = await redirectedMore(first, 2000);
    await first.stop('SIGKILL');
    await traffic.moved(10 * 2 ** 20);
    const status = await run(sandbox, ['status', '--pin-dir', sandbox.pinDir, '--json']);
    const { datapath } = JSON.parse(status.stdout) as {
      datapath: { controllerRunning: boolean; redirectedMessages: number; pairs: { inserted: number } };
    };
    assert.equal(datapath.controllerRunning, false);
    assert.ok(
      datapath.pairs.inserted > 0 && datapath.redirectedMessages > before,
      'redirection stopped with the controller',
    );

    const second = await Daemon.start(sandbox);
    assert.match(second.child.lines.join('\n'), /adopted the datapath/);
    const adopted = await second.metric('slipstream_redirected_messages_total');
    assert.ok(adopted >= datapath.redirectedMessages, 'the counter went back');
    await redirectedMore(second, 1000);
    await traffic.finish();
    assert.equal(await second.stop(), 0);
    const gone = await run(sandbox, ['down', '--pin-dir', sandbox.pinDir]);
    assert.equal(gone.code, 0, gone.stderr);
    nothingLeft();
  });

  it('a new controller applies its own policy to the pairs that it adopts', async () => {
    const file = join(sandbox.dir, 'policy.yaml');
    writeFileSync(file, 'version: 1\n');
    const first = await Daemon.start(sandbox, ['--policy', file]);
    const c = await Connection.open(sandbox);
    for (let round = 0; (await first.metric('slipstream_redirected_messages_total')) < 10; round++) {
      assert.ok(round < 200, 'never redirected');
      await c.pingPong(40, 64);
    }
    await first.stop();
    writeFileSync(file, 'version: 1\ndefaults: { action: tcp }\n');
    const second = await Daemon.start(sandbox, ['--policy', file]);
    assert.equal(await second.metric('slipstream_demotions_total', 'reason="policy"'), 1);
    await c.pingPong(40, 64);
    const redirected = await second.metric('slipstream_redirected_messages_total');
    await c.pingPong(100, 64);
    assert.equal(await second.metric('slipstream_redirected_messages_total'), redirected);
  });

  it('down in mid-transfer drains, with and without a controller, and leaves nothing', async () => {
    for (const controller of ['running', 'killed']) {
      const daemon = await Daemon.start(sandbox);
      const traffic = new Traffic(sandbox);
      await redirectedMore(daemon, 2000);
      const objects = kernelObjects();
      assert.ok(objects.length >= 15);
      if (controller === 'killed') await daemon.stop('SIGKILL');
      const result = await run(sandbox, ['down', '--pin-dir', sandbox.pinDir]);
      assert.equal(result.code, 0, result.stderr);
      assert.match(result.stdout, /^drained \d+ promoted pairs? and detached/);
      if (controller === 'running') assert.equal(await daemon.child.exited(), 0);
      nothingLeft();
      // The kernel frees them after a grace period.
      await eventually('everything is freed', () => objects.every(([kind, id]) => !objectExists(kind, id)));
      await traffic.moved(10 * 2 ** 20);
      await traffic.finish();
    }
  });

  it('down waits for a reader, gives up in time, and can be run again', async () => {
    const daemon = await Daemon.start(sandbox);
    const c = await Connection.open(sandbox);
    for (let round = 0; (await daemon.metric('slipstream_redirected_messages_total')) < 10; round++) {
      assert.ok(round < 200, 'never redirected');
      await c.pingPong(40, 64);
    }
    await c.client.do('sendall 2 3000');
    const result = await run(sandbox, ['down', '--pin-dir', sandbox.pinDir, '--timeout', '0.5']);
    assert.equal(result.code, 1);
    assert.match(result.stderr, /^slipstream-bpf: 1 pair with unread redirected data/);
    assert.equal(result.stderr.trim().split('\n').length, 1);
    // Kept: the reader gets every byte, and the connection goes on over TCP.
    await c.server.do('recvall 2 3000');
    await c.pingPong(10, 100);
    const again = await run(sandbox, ['down', '--pin-dir', sandbox.pinDir]);
    assert.equal(again.code, 0, again.stderr);
    await c.pingPong(10, 100);
    nothingLeft();
  });

  it('down --force removes what a reader leaves unread', async () => {
    const daemon = await Daemon.start(sandbox);
    const c = await Connection.open(sandbox);
    for (let round = 0; (await daemon.metric('slipstream_redirected_messages_total')) < 10; round++) {
      assert.ok(round < 200, 'never redirected');
      await c.pingPong(40, 64);
    }
    await c.client.do('sendall 2 3000');
    const result = await run(sandbox, ['down', '--pin-dir', sandbox.pinDir, '--timeout', '0', '--force']);
    assert.equal(result.code, 0, result.stderr);
    assert.match(result.stdout, /cut off 1 pair/);
    nothingLeft();
  });

  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    it(`${signal} ends within 2 seconds and says what stays and how to remove it`, async () => {
      const daemon = await Daemon.start(sandbox);
      const traffic = new Traffic(sandbox);
      await redirectedMore(daemon, 1000);
      const start = performance.now();
      assert.equal(await daemon.stop(signal), 0, daemon.child.stderr);
      assert.ok(performance.now() - start < 2000, 'took longer than 2 s');
      const last = daemon.child.lines.at(-1) ?? '';
      assert.match(last, /the datapath stays attached/);
      assert.ok(last.includes(`slipstream-bpf down --pin-dir ${sandbox.pinDir}`), last);
      assert.equal(attachedPrograms(sandbox.cgroup, 'sock_ops').length, 1);
      await traffic.finish();
    });
  }

  it('a controller with nothing to do hardly wakes up', async () => {
    const daemon = await Daemon.start(sandbox);
    const status = `/proc/${String(daemon.child.pid)}/status`;
    const switches = (): number =>
      Number(/^voluntary_ctxt_switches:\s+(\d+)/m.exec(readFileSync(status, 'utf8'))?.[1] ?? NaN);
    const inASecond: number[] = [];
    // The first seconds are those of its start.
    while (inASecond.length < 10 && !inASecond.some((count) => count < 20)) {
      const before = switches();
      await pause(1000);
      inASecond.push(switches() - before);
    }
    assert.ok(Math.min(...inASecond) < 20, `it went to sleep so often in a second: ${inASecond.join(', ')}`);
    await daemon.stop();
  });

  it('promotes also after the system clock was set back', async () => {
    const stack = new Stack(sandbox);
    await (await Connection.open(sandbox)).promote(stack);
    const { now } = Date;
    sandbox.undo(() => {
      Date.now = now;
    });
    Date.now = () => now() - 3_600_000;
    await (await Connection.open(sandbox)).promote(stack);
  });

  it('--detach-on-exit leaves nothing', async () => {
    const daemon = await Daemon.start(sandbox, ['--detach-on-exit']);
    const traffic = new Traffic(sandbox);
    await redirectedMore(daemon, 1000);
    assert.equal(await daemon.stop(), 0, daemon.child.stderr);
    nothingLeft();
    await traffic.moved(2 ** 20);
    await traffic.finish();
  });

  it('is killed just before its start was complete: up and down both get rid of the rest', async () => {
    for (const next of ['up', 'down']) {
      const daemon = await Daemon.start(sandbox);
      await daemon.stop('SIGKILL');
      // The last thing that a start writes.
      const settings = BpfMap.open(join(sandbox.pinDir, 'settings'));
      new Uint32Array(settings.mmap())[0] = 0;
      settings.close();
      if (next === 'up') {
        const again = await Daemon.start(sandbox);
        assert.match(again.child.lines.join('\n'), /^attached to/);
        await again.stop();
      }
      const result = await run(sandbox, ['down', '--pin-dir', sandbox.pinDir]);
      assert.equal(result.code, 0, result.stderr);
      nothingLeft();
    }
  });

  it('is killed in every phase of its start, and the next start works', async () => {
    for (const delay of [50, 150, 250, 350, 450, 600, 800]) {
      const child = sandbox.spawn(
        process.execPath,
        [
          `${process.cwd()}/bin/slipstream-bpf`,
          'up',
          '--cgroup',
          sandbox.cgroup,
          '--pin-dir',
          sandbox.pinDir,
          '--metrics',
          '127.0.0.1:0',
        ],
        { cgroup: null },
      );
      // The point in time is what varies here, not something to wait for.
      await new Promise((resolve) => setTimeout(resolve, delay));
      child.signal('SIGKILL');
      await child.exited();
    }
    const daemon = await Daemon.start(sandbox);
    const c = await Connection.open(sandbox);
    for (let round = 0; (await daemon.metric('slipstream_redirected_messages_total')) < 10; round++) {
      assert.ok(round < 200, 'never redirected');
      await c.pingPong(40, 64);
    }
    assert.equal(await daemon.stop(), 0);
    assert.equal((await run(sandbox, ['down', '--pin-dir', sandbox.pinDir])).code, 0);
    nothingLeft();
  });
});
