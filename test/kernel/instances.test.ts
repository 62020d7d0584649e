/** Two instances never run on the same sockets: their cgroups are neither one, nor one above the other. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';

import { attachedPrograms } from '../../addon/index.js';
import { isOurs, refuseSecondInstance } from '../../controller/daemon/other-instances.js';
import { cgroupRoot } from '../../controller/probe/host.js';
import { PROGRAM, type Result, run, stateDir } from './support/daemon.js';
import { type Child, needsRoot, Sandbox } from './support/sandbox.js';

describe('a second instance', function () {
  this.timeout(60_000);
  let sandbox: Sandbox;
  let inner: string;
  let beside: string;
  let running: Child[];

  before(function () {
    needsRoot(this);
  });

  beforeEach(() => {
    sandbox = new Sandbox('instances');
    inner = sandbox.makeCgroup('inner', 'below');
    beside = sandbox.makeCgroup('other', 'beside');
    running = [];
  });

  afterEach(async () => {
    try {
      for (const child of running) {
        child.signal('SIGKILL');
        await child.exited();
      }
      for (const name of ['a', 'b']) await run(sandbox, ['down', '--force', '--pin-dir', pins(name)]);
    } finally {
      await sandbox.dispose();
    }
  });

  const pins = (name: string): string => `${sandbox.pinDir}-${name}`;
  const args = (name: string, cgroup: string): string[] => [
    ...['up', '--cgroup', cgroup, '--pin-dir', pins(name), '--metrics', '127.0.0.1:0'],
    ...['--state-dir', `${stateDir(sandbox)}-${name}`, '--max-pairs', '16'],
  ];

  function spawn(name: string, cgroup: string): Child {
    const child = sandbox.spawn(PROGRAM, args(name, cgroup), { cgroup: null });
    running.push(child);
    return child;
  }

  async function start(name: string, cgroup: string): Promise<Child> {
    const child = spawn(name, cgroup);
    await child.until(({ lines }) => lines.find((line) => /^(attached to|adopted)/.test(line)));
    return child;
  }

  function assertRefused({ code, stderr }: Result, where: string): void {
    assert.equal(code, 1, stderr);
    assert.ok(
      stderr.includes(`another instance is attached to ${where}: take it down with --pin-dir ${pins('a')}, or `),
      stderr,
    );
    assert.equal(existsSync(pins('b')), false);
  }

  for (const [what, first, second, where] of [
    ['below', () => sandbox.cgroup, () => inner, () => `${sandbox.cgroup}, above ${inner}`],
    ['above', () => inner, () => sandbox.cgroup, () => `${inner}, below ${sandbox.cgroup}`],
  ] as const) {
    it(`is refused ${what} the first, until that is down`, async () => {
      const a = await start('a', first());
      assertRefused(await run(sandbox, args('b', second())), where());
      a.signal('SIGKILL');
      await a.exited();
      assertRefused(await run(sandbox, args('b', second())), where());
      await start('a', first()); // takes its own pins over
      assert.equal((await run(sandbox, ['down', '--pin-dir', pins('a')])).code, 0);
      await start('b', second());
    });
  }

  it('may be beside the first', async () => {
    await start('a', inner);
    await start('b', beside);
  });

  it('is seen by one that starts at the same moment', async () => {
    const both = [spawn('a', sandbox.cgroup), spawn('b', inner)];
    const ups = await Promise.all(
      both.map((child) =>
        child
          .until(({ lines }) => lines.find((line) => line.startsWith('attached')))
          .then(
            () => true,
            () => false, // it has ended
          ),
      ),
    );
    assert.ok(ups.filter(Boolean).length < 2, 'both run');
    assert.ok(attachedPrograms(inner, 'sock_ops', true).filter(isOurs).length < 2);
  });

  it('is known by its maps, not by its name alone', async () => {
    await start('a', inner);
    const [program] = attachedPrograms(inner, 'sock_ops');
    assert.ok(program && isOurs(program));
    assert.equal(isOurs({ id: program.id, name: 'identify', maps: ['pairs', 'their_own'] }), false);
    assert.throws(() => {
      // From a directory of pins elsewhere nobody knows where the others are.
      refuseSecondInstance('/sys/fs/bpf/nowhere/x', sandbox.cgroup, cgroupRoot());
    }, /below \S+: take it down with its own --pin-dir, or/);
  });
});
