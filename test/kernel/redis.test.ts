/** The whole product with a server that people run: the daemon, Redis and its own benchmark. */
import assert from 'node:assert/strict';
import { join } from 'node:path';

import { Daemon } from './support/daemon.js';
import { Redis, redisBenchmark } from './support/redis.js';
import { needsRoot, ROOT, Sandbox, TSX } from './support/sandbox.js';

describe('Redis under the daemon', function () {
  this.timeout(180_000);
  let sandbox: Sandbox;
  let daemon: Daemon;

  before(async function () {
    needsRoot(this);
    sandbox = new Sandbox('redis');
    daemon = await Daemon.start(sandbox);
  });

  after(async () => {
    await sandbox.dispose();
  });

  const messages = (): Promise<number> => daemon.metric('slipstream_redirected_messages_total', sandbox.cgroupPath);
  const passed = (): Promise<number> => daemon.metric('slipstream_passed_messages_total');

  it('redirects at least 95 % of the messages sent after promotion', async () => {
    const redis = await Redis.start(sandbox);
    const requests = 200_000;
    const clients = 50;
    await redisBenchmark(sandbox, { port: redis.port, clients, requests });
    const redirected = await messages();
    assert.equal(await daemon.metric('slipstream_promotions_total'), clients);
    // In the sockmap a message is either redirected or counted as passed.
    const afterPromotion = redirected + (await passed());
    const share = redirected / afterPromotion;
    console.log(
      `      ${String(redirected)} of ${String(afterPromotion)} messages after promotion redirected ` +
        `(${(100 * share).toFixed(2)} %), of ${String(2 * requests)} in all`,
    );
    assert.ok(share >= 0.95);
    assert.ok(redirected >= 0.9 * 2 * requests, 'promotion took most of the run');
    redis.child.signal('SIGTERM');
    await redis.child.exited();
  });

  it('gives right answers', async () => {
    const redis = await Redis.start(sandbox);
    const before = await messages();
    const client = sandbox.spawn(process.execPath, [
      ...TSX,
      join(ROOT, 'test', 'kernel', 'support', 'redis-client.ts'),
      String(redis.port),
      '1000',
    ]);
    assert.equal(await client.exited(), 0, client.stderr);
    assert.deepEqual(client.lines, ['1000 values are right']);
    assert.ok((await messages()) - before > 1000, 'nothing was redirected');
    redis.child.signal('SIGTERM');
    await redis.child.exited();
  });

  it('is faster than the same pair outside the cgroup', async () => {
    const inside = await Redis.start(sandbox);
    const outsideGroup = sandbox.makeCgroup('outside', 'beside');
    const outside = await Redis.start(sandbox, { cgroup: outsideGroup });
    const before = await messages();
    const ratios: number[] = [];
    for (let run = 0; run < 7; run++) {
      const common = { clients: 50, requests: 80_000 };
      const plain = await redisBenchmark(sandbox, { ...common, port: outside.port, cgroup: outsideGroup });
      const fast = await redisBenchmark(sandbox, { ...common, port: inside.port });
      ratios.push(fast / plain);
    }
    ratios.sort((a, b) => a - b);
    // Shown, not asserted: machines are noisy, and speed is the benchmark's business.
    console.log(
      `      50 clients, GET: median ${ratios[3]!.toFixed(2)} times plain TCP, of ${ratios.map((r) => r.toFixed(2)).join(' ')}`,
    );
    assert.ok((await messages()) - before > 7 * 80_000, 'the runs inside were not redirected');
    for (const redis of [inside, outside]) {
      redis.child.signal('SIGTERM');
      await redis.child.exited();
    }
  });

  it('counts on at /metrics what closed pairs redirected', async () => {
    const before = await messages();
    assert.ok(before > 0);
    assert.equal(await daemon.metric('slipstream_pairs', 'state="inserted"'), 0, 'all clients have closed');
    assert.equal((await daemon.get('/healthz')).status, 200);
    assert.equal((await daemon.get('/readyz')).status, 200);
    assert.equal((await daemon.get('/nothing')).status, 404);
    assert.equal(await messages(), before);
  });
});
