/** Streams: measured on both ways, redirected if that is faster, taken back if not. */
import assert from 'node:assert/strict';

import { pino } from 'pino';

import { Controller } from '../../controller/daemon/controller.js';
import { compilePolicy } from '../../controller/policy/evaluate.js';
import { freePort } from './support/redis.js';
import { BORROW_PROGRAM, needsRoot, program, Sandbox } from './support/sandbox.js';
import { eventually, policyOf, Stack, type StackOptions } from './support/stack.js';

const MIB = 2 ** 20;
const POLICY = 'version: 1\ndefaults: { backlog: 256KiB }\n';

describe('streams', function () {
  this.timeout(120_000);
  let sandbox: Sandbox;

  before(function () {
    needsRoot(this);
  });

  beforeEach(() => {
    sandbox = new Sandbox('streams');
  });

  afterEach(() => sandbox.dispose());

  /** Whatever is measured is called faster (0), or never (Infinity). */
  const stackWith = (streamGain: number, more: StackOptions = {}): Stack =>
    new Stack(sandbox, { policy: POLICY, streamBytes: MIB, streamGain, ...more });

  /** One connection, one way, until the test ends it. */
  async function stream(size: number): Promise<{ port: number }> {
    const port = await freePort();
    sandbox.spawn(program('stream'), [
      '--mode',
      'stream',
      '--size',
      String(size),
      '--seconds',
      '600',
      '--port',
      String(port),
    ]);
    return { port };
  }

  it('are redirected when that is faster: every byte arrives, once and in order', async () => {
    const stack = stackWith(0);
    const seed = process.env['SLIPSTREAM_SEED'] ?? String(Date.now() % 1_000_000);
    const args = ['--connections', '8', '--bytes', '2G', '--pingpong-share', '0', '--seed', seed];
    const traffic = sandbox.spawn(program('traffic'), args);
    let streams = 0;
    let limit = 0;
    const looking = setInterval(() => {
      for (const { stream, backlogLimit } of stack.records('inserted')) {
        if (!stream) continue;
        streams++;
        limit = Math.max(limit, backlogLimit);
      }
    }, 20);
    try {
      const done = await traffic.event<{ bytes: number; mismatches: number }>('done');
      assert.equal(await traffic.exited(), 0, `seed ${seed}: ${traffic.lines.slice(-3).join('\n')}`);
      assert.equal(done.mismatches, 0, `seed ${seed}`);
      assert.ok(done.bytes >= 2 ** 31, `seed ${seed}`);
    } finally {
      clearInterval(looking);
    }
    assert.ok(streams > 0, 'no pair was redirected as a stream');
    assert.equal(limit, 8 * 256 * 1024, 'the backlog of a stream is 8 times that of the policy');
    assert.ok(stack.redirected().bytes > 64 * MIB, `${String(stack.redirected().bytes)} bytes were redirected`);
    assert.deepEqual(stack.datapath.occupiedSlots(), [], 'nothing is left in the sockmap');
  });

  it('are taken back when TCP carries them as fast, and left there for a while', async () => {
    const stack = stackWith(Infinity);
    const { port } = await stream(64 * 1024);
    // A reader that never catches up with TCP gets nothing redirected in its windows: it is tried again after a second.
    const record = await eventually('measured', () => {
      const pair = stack.pairOn(port);
      const back = pair?.demotion === 'slower' && pair.control.state === 'observed';
      return back && stack.redirected().messages > 0 && pair;
    });
    // Left alone for a second at least: 64 MiB take less.
    const before = stack.redirected().messages;
    const { receivedBytes } = record.ends[1];
    const later = await eventually('64 MiB later', () => {
      const pair = stack.pairOn(port);
      return pair && pair.ends[1].receivedBytes > receivedBytes + 64 * MIB && pair;
    });
    if (later.promotions === record.promotions) assert.equal(stack.redirected().messages, before);
  });

  it('of small messages are taken back at once, whatever their speed', async () => {
    const stack = stackWith(0);
    const { port } = await stream(64);
    await eventually('taken back', () => {
      const pair = stack.pairOn(port);
      return pair?.demotion === 'slower' && pair.control.state === 'observed';
    });
  });

  it('stay on TCP where the policy says so', async () => {
    const stack = stackWith(0, { policy: 'version: 1\ndefaults: { streams: tcp }\n' });
    const { port } = await stream(64 * 1024);
    await eventually('received', () => {
      const pair = stack.pairOn(port);
      return pair && pair.ends[0].receivedBytes + pair.ends[1].receivedBytes > 256 * MIB;
    });
    assert.equal(stack.pairOn(port)?.promotions, 0);
    assert.equal(stack.redirected().messages, 0);
  });

  it('leave when a new policy says so', async () => {
    const stack = stackWith(0);
    const { port } = await stream(64 * 1024);
    await eventually('redirected', () => stack.pairOn(port)?.stream === true && stack.redirected().messages > 100);
    stack.controller.applyPolicy(compilePolicy(policyOf('version: 1\ndefaults: { streams: tcp }\n')));
    await eventually('on TCP', () => stack.pairOn(port)?.control.state === 'observed');
    const before = stack.redirected().messages;
    const received = stack.pairOn(port)?.ends[1].receivedBytes ?? 0;
    await eventually('64 MiB later', () => (stack.pairOn(port)?.ends[1].receivedBytes ?? 0) > received + 64 * MIB);
    assert.equal(stack.redirected().messages, before);
  });

  it('go back to TCP when their controller has gone, and are measured anew by the next', async () => {
    const stack = stackWith(0);
    const { port } = await stream(64 * 1024);
    const kept = await eventually(
      'kept',
      () => {
        const pair = stack.pairOn(port);
        return (
          pair?.stream === true && pair.control.state === 'inserted' && stack.redirected().bytes > 256 * MIB && pair
        );
      },
      60_000,
    );
    await stack.controller.stop();
    await eventually('on TCP', () => {
      const directions = stack.pairOn(port)?.directions ?? [];
      return directions.some(({ path, lastPass }) => path === 'tcp' && lastPass === 'stream');
    });
    const before = stack.redirected().messages;
    const { receivedBytes } = kept.ends[1];
    await eventually('64 MiB later', () => (stack.pairOn(port)?.ends[1].receivedBytes ?? 0) > receivedBytes + 64 * MIB);
    assert.equal(stack.redirected().messages, before);
    const next = new Controller({
      datapath: stack.datapath,
      cgroups: stack.cgroups,
      policy: compilePolicy(policyOf(POLICY)),
      tuning: { keepalive: 0, streamBytes: MIB },
      streamGain: 0,
      borrowProgram: BORROW_PROGRAM,
      log: pino({ level: 'silent' }),
    });
    next.start();
    sandbox.undo(() => next.stop());
    await eventually('redirected again', () => stack.redirected().messages > before + 100);
    assert.ok((stack.pairOn(port)?.promotions ?? 0) > kept.promotions);
  });
});
