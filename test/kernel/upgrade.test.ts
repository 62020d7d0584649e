/** A datapath that another ABI version has pinned: an earlier one is drained and replaced, a later one left alone. */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, rmSync, unlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { pino } from 'pino';

import { attachedPrograms, BpfMap, DirectoryLock } from '../../addon/index.js';
import { Controller } from '../../controller/daemon/controller.js';
import { CgroupNames } from '../../controller/datapath/cgroups.js';
import { ABI_VERSION, Datapath } from '../../controller/datapath/datapath.js';
import { compilePolicy } from '../../controller/policy/evaluate.js';
import { cgroupRoot } from '../../controller/probe/host.js';
import { ADOPT_FEATURES, missingFeature } from '../../controller/probe/kernel.js';
import { cgroupTotals } from '../../controller/view/totals.js';
import { build, type Change } from '../mutants/build.js';
import { Daemon, run } from './support/daemon.js';
import { Connection } from './support/endpoint.js';
import { needsRoot, Sandbox, skip } from './support/sandbox.js';
import { EAGER, eventually, policyOf } from './support/stack.js';
import { Traffic } from './support/traffic.js';

/** Every structure that a drain reads begins otherwise, so that none of its offsets is as in this version. */
const OTHER_LAYOUT: Change = {
  name: 'another layout',
  file: 'abi.h',
  from: 'struct pair {\n\t__u32 control;',
  to: 'struct pair {\n\t__u64 another[3];\n\t__u32 control;',
  also: [
    { from: 'struct direction {\n', to: 'struct direction {\n\t__u64 another;\n' },
    { from: '\t__u32 max_pairs;\n', to: '\t__u64 another;\n\t__u32 max_pairs;\n' },
    { from: '\t__s32 insert[2];', to: '\t__u64 another_one;\n\t__s32 insert[2];' },
  ],
};

describe('another ABI version', function () {
  this.timeout(120_000);
  let sandbox: Sandbox;
  let objectFile: string;
  const dir = mkdtempSync(join(tmpdir(), 'slipstream-upgrade-'));

  before(function () {
    needsRoot(this);
    objectFile = build(OTHER_LAYOUT, dir);
  });

  after(() => {
    rmSync(dir, { recursive: true });
  });

  beforeEach(() => {
    sandbox = new Sandbox('upgrade');
  });

  afterEach(() => sandbox.dispose());

  /** A datapath and the controller of another version, with the lock that it holds. */
  class Other {
    readonly datapath: Datapath;
    readonly controller: Controller;
    readonly #lock: DirectoryLock | undefined;
    #ended: Promise<void> | undefined;

    constructor(version: number) {
      this.datapath = Datapath.load({
        objectFile,
        pinDir: sandbox.pinDir,
        cgroupDir: sandbox.cgroup,
        maxPairs: 1024,
        version: 'other',
      });
      this.datapath.settings.abiVersion = version;
      this.#lock = DirectoryLock.acquire(sandbox.pinDir);
      this.controller = new Controller({
        datapath: this.datapath,
        cgroups: new CgroupNames(cgroupRoot()),
        policy: compilePolicy(policyOf(EAGER)),
        borrowProgram: undefined,
        log: pino({ level: 'silent' }),
        onLeave: () => void this.end(),
      });
      this.controller.start();
      sandbox.undo(() => this.end());
    }

    /** Ends the controller; the datapath stays. */
    end(): Promise<void> {
      return (this.#ended ??= this.controller.stop().then(() => {
        this.datapath.close();
        this.#lock?.release();
      }));
    }

    redirected(): number {
      return cgroupTotals(this.datapath, new CgroupNames(cgroupRoot())).reduce((sum, total) => sum + total.messages, 0);
    }

    async redirects(messages: number): Promise<void> {
      const goal = this.redirected() + messages;
      await eventually(`${String(messages)} more messages are redirected`, () => this.redirected() >= goal);
    }

    /** Drives a connection until it is redirected. */
    async promote(c: Connection): Promise<void> {
      for (let round = 0; this.redirected() < 10; round++) {
        assert.ok(round < 200, 'never redirected');
        await c.pingPong(40, 64);
      }
    }
  }

  async function redirects(daemon: Daemon, messages: number): Promise<void> {
    while ((await daemon.metric('slipstream_redirected_messages_total')) < messages);
  }

  const nothingLeft = (): void => {
    assert.deepEqual(attachedPrograms(sandbox.cgroup, 'sock_ops'), []);
    assert.ok(!existsSync(sandbox.pinDir), 'pins are left');
  };

  it('up drains an earlier one under traffic and replaces it', async () => {
    const older = new Other(ABI_VERSION - 1);
    const traffic = new Traffic(sandbox);
    await older.redirects(2000);
    await older.end();
    // Another version may have other maps: what is pinned is still not the rest of an interrupted start.
    unlinkSync(join(sandbox.pinDir, 'totals'));

    const daemon = await Daemon.start(sandbox);
    const said = daemon.child.lines.join('\n');
    const [, promoted] = /^drained (\d+) promoted pairs? and removed the datapath of ABI version/m.exec(said) ?? [];
    assert.ok(Number(promoted) > 0, said);
    assert.match(said, /^attached to /m);
    await traffic.moved(10 * 2 ** 20);
    assert.equal(await daemon.metric('slipstream_redirected_messages_total'), 0, 'the old connections are on TCP');

    const later = new Traffic(sandbox);
    await redirects(daemon, 2000);
    await later.finish();
    await traffic.finish();
    assert.equal(await daemon.stop(), 0);
    const gone = await run(sandbox, ['down', '--pin-dir', sandbox.pinDir]);
    assert.equal(gone.code, 0, gone.stderr);
    nothingLeft();
  });

  it('up --adopt accelerates the connections again', async function () {
    const missing = missingFeature(ADOPT_FEATURES);
    if (missing !== undefined) skip(this, `this kernel lacks ${missing.name}`);
    const older = new Other(ABI_VERSION - 1);
    const c = await Connection.open(sandbox);
    await older.promote(c);
    await older.end();
    const daemon = await Daemon.start(sandbox, ['--adopt']);
    // In silence: a connection that talks is not adopted.
    while ((await daemon.metric('slipstream_adopted_pairs_total')) < 1);
    for (let round = 0; (await daemon.metric('slipstream_redirected_messages_total')) < 10; round++) {
      assert.ok(round < 200, 'never redirected');
      await c.pingPong(40, 64);
    }
    await daemon.stop();
  });

  it('up leaves an earlier one whose reader does not read, and replaces it when it has', async () => {
    const older = new Other(ABI_VERSION - 1);
    const c = await Connection.open(sandbox);
    await older.promote(c);
    await c.client.do('sendall 2 3000');
    await older.end();
    const args = ['--cgroup', sandbox.cgroup, '--pin-dir', sandbox.pinDir, '--metrics', '127.0.0.1:0'];
    const kept = await run(sandbox, ['up', ...args, '--timeout', '0.5']);
    assert.equal(kept.code, 1);
    assert.match(kept.stderr, /^slipstream-bpf: 1 pair with unread redirected data after 0\.5 s: the datapath stays/m);
    await c.server.do('recvall 2 3000');
    await c.pingPong(10, 100);
    const daemon = await Daemon.start(sandbox);
    await c.pingPong(10, 100);
    await daemon.stop();
  });

  it('down drains an earlier one whose controller runs', async () => {
    const older = new Other(ABI_VERSION - 1);
    const traffic = new Traffic(sandbox);
    await older.redirects(2000);
    const status = await run(sandbox, ['status', '--pin-dir', sandbox.pinDir]);
    assert.equal(status.code, 1);
    assert.match(status.stderr, /has ABI version \d+ and this version reads \d+: "slipstream-bpf up" of this version/);
    const result = await run(sandbox, ['down', '--pin-dir', sandbox.pinDir]);
    assert.equal(result.code, 0, result.stderr);
    assert.match(result.stdout, /^drained [1-9]\d* promoted pairs? and detached, nothing is left loaded/);
    nothingLeft();
    await traffic.moved(10 * 2 ** 20);
    await traffic.finish();
  });

  it('an earlier one that lacks what a drain needs is refused by name, and cut off by force', async () => {
    const older = new Other(ABI_VERSION - 1);
    const c = await Connection.open(sandbox);
    await older.promote(c);
    await older.end();
    unlinkSync(join(sandbox.pinDir, 'sockets'));
    const result = await run(sandbox, ['down', '--pin-dir', sandbox.pinDir]);
    assert.equal(result.code, 1);
    assert.match(
      result.stderr,
      /can't be drained by this version: sockets is not pinned there; run .* that loaded it\n$/,
    );
    assert.equal(attachedPrograms(sandbox.cgroup, 'sock_ops').length, 1);
    const forced = await run(sandbox, ['down', '--force', '--pin-dir', sandbox.pinDir]);
    assert.equal(forced.code, 0, forced.stderr);
    assert.match(forced.stdout, /without draining it/);
    nothingLeft();
  });

  it('a later one is refused, stays as it is and goes on redirecting', async () => {
    const later = new Other(ABI_VERSION + 1);
    const traffic = new Traffic(sandbox);
    await later.redirects(2000);
    await later.end();
    const up = ['up', '--cgroup', sandbox.cgroup, '--metrics', '127.0.0.1:0'];
    const commands = [up, ['down'], ['status']].map((args) => run(sandbox, [...args, '--pin-dir', sandbox.pinDir]));
    for (const { code, stderr } of await Promise.all(commands)) {
      assert.equal(code, 1);
      assert.match(stderr, /^slipstream-bpf: [^\n]*: a later version loaded it; use that, or run its [^\n]*\n$/);
    }
    // By the pinned counts: its controller has gone.
    const totals = (): number => {
      const pairs = BpfMap.open(join(sandbox.pinDir, 'pairs'));
      const { offset } = later.datapath.layout.field('pair', 'direction[0].redirected_messages');
      const view = new DataView(pairs.mmap());
      const stride = later.datapath.layout.size('pair');
      pairs.close();
      let sum = 0;
      for (let at = offset; at < view.byteLength; at += stride) sum += Number(view.getBigUint64(at, true));
      return sum;
    };
    const before = totals();
    await eventually('it goes on redirecting', () => totals() > before);
    await traffic.finish();
    const forced = await run(sandbox, ['down', '--force', '--pin-dir', sandbox.pinDir]);
    assert.equal(forced.code, 0, forced.stderr);
    nothingLeft();
  });
});
