/** What is not accelerated: streams, strangers, and whatever the policy leaves on TCP. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { compilePolicy } from '../../controller/policy/evaluate.js';
import { Daemon, PROGRAM, run } from './support/daemon.js';
import { Connection } from './support/endpoint.js';
import { needsRoot, Sandbox } from './support/sandbox.js';
import { EAGER, policyOf, Stack } from './support/stack.js';

describe('what stays on TCP', function () {
  this.timeout(60_000);
  let sandbox: Sandbox;

  before(function () {
    needsRoot(this);
  });

  beforeEach(() => {
    sandbox = new Sandbox('policy');
  });

  afterEach(() => sandbox.dispose());

  for (const size of [64, 65_536]) {
    it(`a one-way stream of ${String(size)}-byte writes`, async () => {
      const stack = new Stack(sandbox, { policy: EAGER });
      const c = await Connection.open(sandbox);
      const total = Math.min(64 * 2 ** 20, size * 50_000);
      const sending = await c.client.background('send', `sendall 2 ${String(total)} chunk=${String(size)}`);
      await c.server.do(`recvall 2 ${String(total)}`);
      assert.ok((await sending.answer).ok);
      const pair = stack.pairOn(c.port);
      assert.equal(pair?.control.state, 'observed');
      assert.equal(pair.promotions, 0);
      assert.equal(stack.redirected().messages, 0);
      // The same connection is found worth it once its pattern changes.
      await c.promote(stack);
    });
  }

  it('a promoted pair that turns into a stream goes back to TCP and leaves the sockmap', async () => {
    const stack = new Stack(sandbox, { policy: EAGER });
    const c = await Connection.open(sandbox);
    const { slot } = await c.promote(stack);
    const total = 20_000 * 64;
    const sending = await c.client.background('send', `sendall 2 ${String(total)} chunk=64`);
    await c.server.do(`recvall 2 ${String(total)}`);
    assert.ok((await sending.answer).ok);
    const pair = await c.inState(stack, 'observed');
    assert.equal(pair.demotion, 'stream');
    assert.ok(pair.retryNs > process.hrtime.bigint(), 'a cool-down follows');
    assert.ok((stack.passed()['stream'] ?? 0) > 10_000);
    assert.ok(!stack.datapath.holdsSocket(slot, 0));
    await c.pingPong(10, 100);
  });

  it('a connection to a peer outside the cgroup', async () => {
    const stack = new Stack(sandbox, { policy: EAGER });
    const outside = sandbox.makeCgroup('outside', 'beside');
    for (const side of ['client', 'server'] as const) {
      const c = await Connection.open(sandbox, { [side]: { cgroup: outside } });
      await c.pingPong(200, 100);
      assert.equal(stack.pairOn(c.port), undefined);
    }
    assert.equal(stack.redirected().messages, 0);
    const { unpaired } = stack.datapath.counters();
    assert.ok((unpaired['remote_client'] ?? 0) >= 1 && (unpaired['remote_server'] ?? 0) >= 1, JSON.stringify(unpaired));
  });

  const rules = (rule: string): string => `${EAGER}rules: [{ name: the rule, ${rule} }]\n`;

  for (const [action, refusal] of [
    ['tcp', 'policy'],
    ['observe', 'observe'],
  ] as const) {
    it(`a cgroup whose action is ${action}, created after the policy was loaded`, async () => {
      const stack = new Stack(sandbox, { policy: rules(`cgroup: ${sandbox.cgroupPath}/quiet*, action: ${action}`) });
      const late = { cgroup: sandbox.makeCgroup('quiet-1') };
      const inside = await Connection.open(sandbox, { client: late, server: late });
      await inside.driveUntil(stack, 'refused', (pair) => pair.refusal === refusal);
      // The stricter end decides.
      const mixed = await Connection.open(sandbox, { client: late });
      await mixed.driveUntil(stack, 'refused', (pair) => pair.refusal === refusal);
      assert.equal(stack.redirected().messages, 0);
      const free = await Connection.open(sandbox);
      await free.promote(stack);
    });
  }

  it("a cgroup made a moment ago, also where cgroups can't be opened by their ids", async () => {
    const policy = join(sandbox.dir, 'policy.yaml');
    const [quiet, loud] = ['quiet', 'loud'].map((name) => `${sandbox.cgroupPath}/${name}-*`);
    writeFileSync(
      policy,
      `version: 1
defaults: { action: tcp, promoteAfter: 2, blockingReaders: true }
rules: [{ name: q, cgroup: ${String(quiet)}, action: observe }, { name: l, cgroup: ${String(loud)}, action: accelerate }]
`,
    );
    const program = join(sandbox.dir, 'without-the-right');
    writeFileSync(program, `#!/bin/sh\nexec setpriv --bounding-set -dac_read_search '${PROGRAM}' "$@"\n`, {
      mode: 0o755,
    });
    const daemon = await Daemon.start(sandbox, ['--policy', policy, '--log-level', 'debug'], { program });
    for (const number of [1, 2, 3]) {
      const loudly = { cgroup: sandbox.makeCgroup(`loud-${String(number)}`) };
      const c = await Connection.open(sandbox, { client: loudly, server: loudly });
      const before = await daemon.metric('slipstream_redirected_messages_total', 'loud');
      do await c.pingPong(200, 100);
      while ((await daemon.metric('slipstream_redirected_messages_total', 'loud')) === before);
      const quietly = { cgroup: sandbox.makeCgroup(`quiet-${String(number)}`) };
      const q = await Connection.open(sandbox, { client: quietly, server: loudly });
      do await q.pingPong(200, 100);
      while ((await daemon.metric('slipstream_refusals_total', '"observe"')) < number);
    }
    assert.equal(await daemon.metric('slipstream_refusals_total', '"policy"'), 0, 'judged without its name');
    assert.equal(await daemon.metric('slipstream_redirected_messages_total', 'quiet'), 0);
    assert.equal(await daemon.metric('slipstream_redirected_messages_total', '(gone)'), 0);
    assert.equal(await daemon.stop(), 0, daemon.child.stderr);
    // The next one judges what is promoted when it knows where it is.
    const next = await Daemon.start(sandbox, ['--policy', policy], { program });
    assert.equal(await next.metric('slipstream_pairs', '"inserted"'), 3);
    while ((await next.metric('slipstream_redirected_messages_total', 'loud')) === 0);
    assert.equal(await next.metric('slipstream_pairs', '"inserted"'), 3);
    assert.equal(await next.stop(), 0, next.child.stderr);
    const { stdout } = await run(sandbox, ['pairs', '--json', '--pin-dir', sandbox.pinDir], { program });
    const rows = JSON.parse(stdout) as { client: { cgroup: string } }[];
    assert.deepEqual(rows.map(({ client }) => client.cgroup.replace(/.*\//, '')).sort(), [
      'loud-1',
      'loud-2',
      'loud-3',
      'quiet-1',
      'quiet-2',
      'quiet-3',
    ]);
    assert.equal((await run(sandbox, ['down', '--pin-dir', sandbox.pinDir], { program })).code, 0);
  });

  it('a port, an excluded program, a program on the built-in list', async () => {
    const stack = new Stack(sandbox, { policy: `${EAGER}exclude: { programs: [endpoint] }\n` });
    const c = await Connection.open(sandbox);
    await c.driveUntil(stack, 'refused', (pair) => pair.refusal === 'program');
    stack.controller.applyPolicy(compilePolicy(policyOf(rules(`ports: [${String(c.port)}], action: tcp`))));
    await c.driveUntil(stack, 'refused', (pair) => pair.refusal === 'policy');
    stack.controller.applyPolicy(compilePolicy(policyOf(EAGER)));
    await c.promote(stack);
  });

  it('a pair that needs more turns than others', async () => {
    const stack = new Stack(sandbox, { policy: rules(`cgroup: ${sandbox.cgroupPath}, promoteAfter: 500`) });
    const c = await Connection.open(sandbox);
    await c.pingPong(300, 100);
    assert.equal(stack.pairOn(c.port)?.promotions, 0);
    await c.pingPong(1500, 100);
    await c.promote(stack);
  });

  it('a pair that a new policy takes out, in mid-transfer', async () => {
    const stack = new Stack(sandbox, { policy: EAGER });
    const c = await Connection.open(sandbox);
    const { slot } = await c.promote(stack);
    const echo = await c.server.background('echo', 'echo 2 2000 1000');
    const asking = await c.client.background('ask', 'ask 2 2000 1000');
    stack.controller.applyPolicy(compilePolicy(policyOf(rules('action: tcp'))));
    assert.ok((await echo.answer).ok && (await asking.answer).ok);
    const pair = await c.inState(stack, 'observed');
    assert.equal(pair.demotion, 'policy');
    assert.ok(!stack.datapath.holdsSocket(slot, 0) && !stack.datapath.holdsSocket(slot, 1));
    stack.controller.applyPolicy(compilePolicy(policyOf(EAGER)));
    await c.promote(stack);
  });

  describe('reload of the policy file', () => {
    const OFF = 'version: 1\ndefaults: { action: tcp }\n';
    let file: string;
    let daemon: Daemon;

    beforeEach(async () => {
      file = join(sandbox.dir, 'policy.yaml');
      writeFileSync(file, EAGER);
      daemon = await Daemon.start(sandbox, ['--policy', file]);
    });

    const reloads = (result: string): Promise<number> =>
      daemon.metric('slipstream_policy_reloads_total', `result="${result}"`);

    /** Resolves with the daemon's next log line that contains the text. */
    const logged = (text: string, from: number): Promise<string> =>
      daemon.child.until(({ stderr }) =>
        stderr
          .slice(from)
          .split('\n')
          .slice(0, -1)
          .find((line) => line.includes(text)),
      );

    it('on change, also when the file is replaced by renaming', async () => {
      let from = daemon.child.stderr.length;
      writeFileSync(file, OFF);
      await logged('policy reloaded', from);
      from = daemon.child.stderr.length;
      writeFileSync(`${file}.new`, EAGER);
      renameSync(`${file}.new`, file);
      await logged('policy reloaded', from);
      assert.equal(await reloads('success'), 2);
      assert.equal(await daemon.stop(), 0);
    });

    it('on SIGHUP; an invalid file keeps the old policy and says why', async () => {
      daemon.child.signal('SIGHUP');
      await logged('policy reloaded', 0);
      writeFileSync(file, 'version: 1\ndefaults:\n  action: fast\n');
      const line = await logged('old one stays in force', 0);
      assert.match(line, /policy\.yaml:3:11: /);
      assert.equal(await reloads('failure'), 1);
      const c = await Connection.open(sandbox);
      for (let round = 0; (await daemon.metric('slipstream_redirected_messages_total')) === 0; round++) {
        assert.ok(round < 500, 'the old policy no longer accelerates');
        await c.pingPong(20, 64);
      }
    });

    it('from what is no file any more: the old policy stays, and the next file counts', async () => {
      const from = daemon.child.stderr.length;
      rmSync(file);
      execFileSync('mkfifo', [file]);
      assert.match(await logged('old one stays in force', from), /policy\.yaml: this is no regular file: give one/);
      rmSync(file);
      writeFileSync(file, OFF);
      await logged('policy reloaded', from);
      assert.deepEqual([await reloads('failure'), await reloads('success')], [1, 1]);
      assert.equal(await daemon.stop(), 0);
    });
  });
});
