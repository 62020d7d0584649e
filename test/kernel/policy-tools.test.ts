/** `policy init`, `policy suggest` and `policy test` on real connections: look, suggest, apply, and it is accelerated. */
import assert from 'node:assert/strict';
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { parsePolicy } from '../../controller/policy/parse.js';
import type { TrafficGroup } from '../../controller/policy/suggestion.js';
import type { TrialResult } from '../../controller/policy/trial.js';
import type { Suggestion } from '../../controller/view/suggestion.js';
import { parseOutput } from '../cli/schema.js';
import { Daemon, PROGRAM, type Result, run, stateDir } from './support/daemon.js';
import { Connection } from './support/endpoint.js';
import { needsRoot, Sandbox } from './support/sandbox.js';

const OBSERVE = 'version: 1\ndefaults: { action: observe, promoteAfter: 2 }\n';

describe('policy init, suggest and test', function () {
  this.timeout(60_000);
  let sandbox: Sandbox;
  let daemon: Daemon;
  let file: string;
  let front: string;
  let back: string;

  beforeEach(async function () {
    needsRoot(this);
    sandbox = new Sandbox('suggest');
    file = join(sandbox.dir, 'policy.yaml');
    writeFileSync(file, OBSERVE);
    daemon = await Daemon.start(sandbox, ['--policy', file]);
    front = sandbox.makeCgroup('front.service');
    back = sandbox.makeCgroup('back.service');
  });

  afterEach(() => sandbox.dispose());

  const places = (): string[] => ['--pin-dir', sandbox.pinDir, '--state-dir', stateDir(sandbox)];
  const path = (name: string): string => `${sandbox.cgroupPath}/${name}`;
  const connect = (options: { blocking?: boolean } = {}): Promise<Connection> =>
    Connection.open(sandbox, { client: { cgroup: front }, server: { cgroup: back }, ...options });

  async function succeed(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await run(sandbox, args);
    assert.deepEqual([code, stderr], [0, ''], args.join(' '));
    return stdout;
  }

  /** Exchanges messages until a counter has grown. */
  async function until(c: Connection, metric: string, labels = ''): Promise<void> {
    const before = await daemon.metric(metric, labels);
    for (let round = 0; (await daemon.metric(metric, labels)) === before; round++) {
      assert.ok(round < 500, `${metric}{${labels}} does not grow`);
      await c.pingPong(20, 64);
    }
  }
  const refused = (c: Connection, reason: string): Promise<void> =>
    until(c, 'slipstream_refusals_total', `reason="${reason}"`);

  /** Talks for as long as a command runs. */
  async function meanwhile(c: Connection, command: Promise<Result>): Promise<Result> {
    const ended = { yet: false };
    const result = command.finally(() => (ended.yet = true));
    while (!ended.yet) await c.pingPong(20, 64);
    return result;
  }

  it('observed traffic becomes a report, a policy, and then acceleration of exactly that', async () => {
    const worth = await connect();
    const blocking = await connect({ blocking: true });
    const quiet = await Connection.open(sandbox, { client: { cgroup: front } });
    await refused(worth, 'observe');
    await refused(blocking, 'observe');
    const { code, stdout, stderr } = await meanwhile(
      worth,
      run(sandbox, ['policy', 'suggest', '--seconds', '1', '--json', ...places()]),
    );
    assert.deepEqual([code, stderr], [0, '']);
    const { groups, rules, controllerRunning } = parseOutput('policy-suggest', stdout) as Suggestion;
    const group = (c: Connection): TrafficGroup => {
      const found = groups.find(({ port }) => port === c.port);
      assert.ok(found, JSON.stringify(groups));
      return found;
    };
    assert.equal(controllerRunning, true);
    assert.deepEqual(
      [group(worth).client.cgroup, group(worth).server.cgroup],
      [path('front.service'), path('back.service')],
    );
    assert.deepEqual([group(worth).pairs, group(worth).outlooks.would], [1, 1]);
    assert.ok(group(worth).would.messagesPerSecond > 100);
    assert.ok(Math.abs(group(worth).would.bytesPerSecond / group(worth).would.messagesPerSecond - 64) < 1);
    // Of one window, which may have just begun.
    assert.ok((group(worth).turnShare ?? 1) <= 1);
    assert.deepEqual([group(blocking).outlooks.refused, group(blocking).reasons], [1, { blocking: 1 }]);
    assert.equal(group(quiet).outlooks.young, 1);
    assert.equal(rules, 2);
    assert.equal(await daemon.metric('slipstream_promotions_total'), 0, 'nothing was touched');

    const suggested = join(sandbox.dir, 'suggested.yaml');
    const report = await succeed('policy', 'suggest', '--seconds', '0.5', '--output', suggested, ...places());
    assert.match(report, /front\.service > \S*back\.service:\d+ +endpoint > endpoint +1 +1 /);
    assert.match(report, /refused: blocking/);
    assert.match(report, /suggested\.yaml: the policy in force and 2 rules more/);
    assert.match(await succeed('policy', 'check', suggested), /valid, 2 rules, default action observe/);
    copyFileSync(suggested, file);
    await daemon.child.until((child) => (child.stderr.includes('policy reloaded') ? true : undefined));
    await until(worth, 'slipstream_redirected_messages_total');
    await blocking.pingPong(40, 64);
    await quiet.pingPong(40, 64);
    const pairs = JSON.parse(await succeed('pairs', '--json', '--pin-dir', sandbox.pinDir)) as {
      state: string;
      server: { port: number };
    }[];
    assert.deepEqual(
      pairs.filter(({ state }) => state === 'inserted').map(({ server }) => server.port),
      [worth.port],
    );

    const test = (...args: string[]): Promise<string> =>
      succeed('policy', 'test', suggested, ...args, '--state-dir', stateDir(sandbox));
    const json = await test(
      ...['--cgroup', `pid:${String(worth.client.child.pid)}`, '--port', String(worth.port), '--json'],
      ...['--peer-cgroup', path('back.service'), '--peer-program', 'endpoint'],
    );
    const trial = parseOutput('policy-test', json) as TrialResult;
    assert.deepEqual([trial.outcome, trial.reason], ['accelerate', null]);
    assert.deepEqual([trial.ends[0]?.cgroup, trial.ends[0]?.program], [path('front.service'), 'endpoint']);
    assert.match(
      readFileSync(suggested, 'utf8').split('\n')[(trial.ends[0]?.line ?? 0) - 1] ?? '',
      /- name: .*front\.service/,
    );
    const other = await test('--cgroup', path('front.service'), '--port', String(quiet.port));
    assert.match(other, /\noutcome: observe: the defaults say observe/);
  });

  it('a measurement on this host is told in microseconds, and is no promise', async () => {
    const c = await connect();
    await refused(c, 'observe');
    const { code, stdout } = await meanwhile(
      c,
      run(sandbox, ['policy', 'suggest', '--seconds', '0.5', '--measure', '--json', ...places()]),
    );
    assert.equal(code, 0);
    const { measured, groups } = parseOutput('policy-suggest', stdout) as Suggestion;
    assert.deepEqual(
      measured?.map(({ size }) => size),
      [64, 1024, 16_384],
    );
    const group = groups.find(({ port }) => port === c.port);
    assert.ok(group?.would.savedCpu !== null && group?.would.savedCpu !== undefined && group.would.savedCpu >= 0);
  });

  it('says that no policy is in force, and goes by another', async () => {
    assert.equal(await daemon.stop(), 0);
    const nowhere = ['--pin-dir', sandbox.pinDir, '--state-dir', join(sandbox.dir, 'nowhere')];
    const { code, stderr } = await run(sandbox, ['policy', 'suggest', '--seconds', '0.5', ...nowhere]);
    assert.match(stderr, /^slipstream-bpf: the policy in force is not known: [^\n]+ give --policy FILE\n$/);
    assert.equal(code, 1);
    assert.match(
      await succeed('policy', 'suggest', '--seconds', '0.5', '--policy', file, ...nowhere),
      /note: no controller runs/,
    );
  });

  it('init writes a rule for each cgroup that talks to itself, with what was observed', async () => {
    const c = await connect();
    await refused(c, 'observe');
    const output = join(sandbox.dir, 'init.yaml');
    const said = await run(sandbox, ['policy', 'init', '--output', output, ...places()]);
    assert.equal(said.code, 0, said.stderr);
    const text = readFileSync(output, 'utf8');
    const result = parsePolicy(text, output);
    assert.ok(result.ok, text);
    const ours = result.policy.rules.filter(({ cgroup }) => cgroup?.[0]?.startsWith(sandbox.cgroupPath));
    assert.deepEqual(ours.map(({ cgroup, action }) => [cgroup?.[0], action]).sort(), [
      [path('back.service'), 'observe'],
      [path('front.service'), 'observe'],
    ]);
    assert.match(
      text,
      new RegExp(
        `# Unit back\\.service\\. Runs endpoint: 1 local connection, with front\\.service\\. Serves port ${String(c.port)}\\.\n +# Observed: 1 would be accelerated\\.\n +- name: back\\.service\n`,
      ),
    );
    assert.match(await succeed('policy', 'check', output), /valid/);
    // Never a second time over it.
    const again = await run(sandbox, ['policy', 'init', '--output', output, ...places()]);
    assert.match(
      again.stderr,
      /^slipstream-bpf: --output \S+init\.yaml: it is there already, and stays as it is: give another name\n$/,
    );
    assert.deepEqual([again.code, again.stdout, readFileSync(output, 'utf8')], [2, '', text]);
  });

  it('init says accelerate if it is told to, and needs no datapath', async () => {
    const c = await connect();
    await c.pingPong(2, 64);
    const { code, stdout, stderr } = await run(sandbox, [
      ...['policy', 'init', '--action', 'accelerate', '--pin-dir', `${sandbox.pinDir}-none`],
    ]);
    assert.equal(code, 0);
    assert.match(stderr, /no datapath was asked/);
    const result = parsePolicy(stdout, 'p');
    assert.ok(result.ok);
    const ours = result.policy.rules.filter(({ cgroup }) => cgroup?.[0]?.startsWith(sandbox.cgroupPath));
    assert.deepEqual(
      ours.map(({ action }) => action),
      ['accelerate', 'accelerate'],
    );
    assert.doesNotMatch(stdout, /Observed:/);
  });

  it('init works without root, and says what it could not see', async () => {
    await connect();
    const child = sandbox.spawn(
      'setpriv',
      [
        ...['--reuid=65534', '--clear-groups', '--inh-caps=+dac_read_search', '--ambient-caps=+dac_read_search'],
        ...[PROGRAM, 'policy', 'init', ...places()],
      ],
      { cgroup: null },
    );
    child.process.stdin.end();
    assert.equal(await child.exited(), 0, child.stderr);
    assert.match(
      child.stderr,
      /ends of local connections belong to processes that can not be seen without root: run this with sudo\n/,
    );
    assert.ok(parsePolicy(child.lines.join('\n'), 'p').ok);
  });

  it('a file that can not be written is one sentence, and leaves nothing', async () => {
    const refuse = async (output: string, sentence: RegExp): Promise<void> => {
      for (const args of [
        ['init', ...places()],
        ['suggest', '--seconds', '0.5', ...places()],
      ]) {
        const { code, stdout, stderr } = await run(sandbox, ['policy', ...args, '--output', output]);
        assert.match(stderr, sentence);
        assert.equal(stderr.split('\n').filter((line) => line.includes('--output')).length, 1);
        assert.deepEqual([code, stdout], [2, '']);
      }
    };
    await refuse(file, /policy\.yaml: it is there already/);
    assert.equal(readFileSync(file, 'utf8'), OBSERVE);
    await refuse(join(sandbox.dir, 'no', 'file'), /there is no such directory/);
    await refuse(join(file, 'file'), /a part of the path is no directory/);
    mkdirSync(join(sandbox.dir, 'empty'));
    await refuse(join(sandbox.dir, 'empty'), /it is there already/);
    assert.ok(!existsSync(join(sandbox.dir, 'no')));
    assert.deepEqual(readdirSync(join(sandbox.dir, 'empty')), []);
  });

  it('test finds units by name, and says when there is none, or more than one', async () => {
    const test = (place: string): Promise<Result> => run(sandbox, ['policy', 'test', file, '--cgroup', place]);
    const name = `slipstream-unit-${String(process.pid)}`;
    sandbox.makeCgroup(`${name}@1.service`);
    sandbox.makeCgroup(`${name}@2.service`);
    const one = await test(`unit:${name}@1`);
    assert.match(one.stdout, new RegExp(`^end: ${name}@1\\.service \\(${path(`${name}@1.service`)}\\)\n`));
    const many = await test(`unit:${name}@*`);
    assert.match(many.stderr, /stands for 2 cgroups, such as .*@[12]\.service and .*@[12]\.service: give one path/);
    const none = await test(`unit:${name}`);
    assert.match(none.stderr, /has no cgroup on this host: start it, or give the path that it will have/);
    assert.deepEqual([one.code, many.code, none.code], [0, 2, 1]);
  });
});
