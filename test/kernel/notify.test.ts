/** What `up` tells its service manager (sd_notify(3)): a real socket listens. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { NativeError, sendDatagram } from '../../addon/index.js';
import { Daemon, run } from './support/daemon.js';
import { type Child, needsRoot, Sandbox } from './support/sandbox.js';
import { eventually } from './support/stack.js';

/** Prints every datagram as a line of JSON. */
const LISTENER = `
import json, socket, sys
manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
name = sys.argv[1]
manager.bind('\\0' + name[1:] if name.startswith('@') else name)
print('"listening"', flush=True)
while True:
    print(json.dumps(manager.recv(65536).decode()), flush=True)
`;

describe('a service manager', function () {
  let sandbox: Sandbox;
  let path: string;

  before(function () {
    needsRoot(this);
  });

  beforeEach(() => {
    sandbox = new Sandbox('notify');
    path = join(sandbox.dir, 'notify');
  });

  afterEach(() => sandbox.dispose());

  async function listen(name: string): Promise<Child> {
    const listener = sandbox.spawn('python3', ['-c', LISTENER, name], { cgroup: null });
    await listener.until(({ lines }) => lines[0]);
    return listener;
  }

  const messages = ({ lines }: Child): string[][] =>
    lines.slice(1).map((line) => (JSON.parse(line) as string).split('\n'));

  /** The first message with this assignment, from message `from` on. */
  const said = (listener: Child, assignment: string, from = 0): Promise<string[]> =>
    listener.until((child) =>
      messages(child)
        .slice(from)
        .find((lines) => lines.includes(assignment)),
    );

  it('hears of the start, the reload and the end, one after the other', async () => {
    const listener = await listen(path);
    const policy = join(sandbox.dir, 'policy.yaml');
    writeFileSync(policy, 'version: 1\n');
    const daemon = await Daemon.start(sandbox, ['--policy', policy], { env: { NOTIFY_SOCKET: path } });
    const ready = await said(listener, 'READY=1');
    assert.ok(ready.includes(`STATUS=attached to ${sandbox.cgroup}, 0 promoted pairs`), ready.join());
    assert.equal(messages(listener)[0]?.[0], 'STATUS=trying the kernel out');

    for (const [text, result] of [
      ['version: 1\ndefaults: { action: tcp }\n', /^STATUS=policy reloaded$/],
      ['version: 1\nnonsense: true\n', /^STATUS=policy not reloaded, the old one stays in force: \S+:2:1: /],
    ] as const) {
      const from = messages(listener).length;
      writeFileSync(policy, text);
      daemon.child.signal('SIGHUP');
      const reloading = await said(listener, 'RELOADING=1', from);
      const time = Number(
        reloading.find((line) => line.startsWith('MONOTONIC_USEC='))?.slice('MONOTONIC_USEC='.length),
      );
      const now = Number(process.hrtime.bigint() / 1000n);
      assert.ok(time > now - 10_000_000 && time <= now, `${String(time)} is not a moment ago, it is ${String(now)}`);
      const after = await said(listener, 'READY=1', from);
      assert.match(after.at(-1) ?? '', result);
    }

    assert.equal(await daemon.stop('SIGTERM'), 0);
    await said(listener, 'STOPPING=1');
    assert.ok(!listener.lines.some((line) => line.includes('WATCHDOG')), 'nobody asked for a watchdog');
    assert.equal((await run(sandbox, ['down', '--pin-dir', sandbox.pinDir])).code, 0);
  });

  it('gets signs of life while the control loop goes round, at an abstract address, too', async () => {
    const name = `@slipstream-notify-${String(process.pid)}`;
    const listener = await listen(name);
    const daemon = await Daemon.start(sandbox, [], { env: { NOTIFY_SOCKET: name, WATCHDOG_USEC: '100000' } });
    const signs = (): number => messages(listener).filter((lines) => lines.includes('WATCHDOG=1')).length;
    await eventually('three signs of life', () => signs() >= 3);
    // One that stands still gives none.
    daemon.child.signal('SIGSTOP');
    await new Promise((resolve) => setTimeout(resolve, 100));
    const before = signs();
    await new Promise((resolve) => setTimeout(resolve, 1500));
    assert.equal(signs(), before);
    daemon.child.signal('SIGCONT');
    await eventually('a sign of life again', () => signs() > before);
    await daemon.stop();
    assert.equal((await run(sandbox, ['down', '--pin-dir', sandbox.pinDir])).code, 0);
  });

  it('is not told of another process', async () => {
    const listener = await listen(path);
    const env = { NOTIFY_SOCKET: path, WATCHDOG_USEC: '100000', WATCHDOG_PID: '1' };
    const daemon = await Daemon.start(sandbox, ['--detach-on-exit'], { env });
    await said(listener, 'READY=1');
    await daemon.stop();
    assert.ok((await said(listener, 'STOPPING=1')).includes('STATUS=draining'));
    assert.ok(!listener.lines.some((line) => line.includes('WATCHDOG')));
  });

  it('that is gone stops nothing', async () => {
    const daemon = await Daemon.start(sandbox, ['--detach-on-exit'], { env: { NOTIFY_SOCKET: path } });
    assert.equal(await daemon.stop(), 0);
    assert.match(daemon.child.stderr, /the service manager could not be told \(sendto .*ENOENT/);
  });
});

describe('sendDatagram', () => {
  it('names the socket and what is wrong with it', () => {
    for (const [socket, code] of [
      ['', 'EINVAL'],
      ['/nowhere/at-all', 'ENOENT'],
      [`/${'x'.repeat(107)}`, 'ENAMETOOLONG'],
      [`@${'x'.repeat(108)}`, 'ENAMETOOLONG'],
      [`@${'x'.repeat(107)}`, 'ECONNREFUSED'],
    ] as const) {
      assert.throws(
        () => {
          sendDatagram(socket, 'READY=1');
        },
        (error: unknown) => error instanceof NativeError && error.code === code && error.object === socket,
        socket,
      );
    }
  });
});
