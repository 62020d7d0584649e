/** `top` on a terminal as people use it, and without one. */
import assert from 'node:assert/strict';

import { Terminal } from '../cli/terminal.js';
import { Daemon, PROGRAM, run, type Result } from './support/daemon.js';
import { Connection } from './support/endpoint.js';
import { needsRoot, Sandbox } from './support/sandbox.js';

describe('top', function () {
  this.timeout(60_000);
  let sandbox: Sandbox;
  let daemon: Daemon;
  let c: Connection;
  /** The program is called endpoint on both sides; the line has the pair's state. */
  const hasPair = (lines: string[]): boolean =>
    lines.some((line) => /^\d+\.\d+ +inserted .*endpoint\(\d+\)/.test(line));

  before(async function () {
    needsRoot(this);
    sandbox = new Sandbox('top');
    daemon = await Daemon.start(sandbox);
    c = await Connection.open(sandbox);
    for (let round = 0; (await daemon.metric('slipstream_redirected_messages_total')) === 0; round++) {
      assert.ok(round < 500, 'not accelerated');
      await c.pingPong(20, 64);
    }
  });

  after(() => sandbox.dispose());

  const command = (...options: string[]): string[] => [
    PROGRAM,
    'top',
    '--pin-dir',
    sandbox.pinDir,
    '--interval',
    '0.2',
    ...options,
  ];

  function plain(...options: string[]): Promise<Result> {
    return run(sandbox, command(...options).slice(1));
  }

  /** Traffic until `done` settles. */
  async function traffic(done: Promise<unknown>): Promise<void> {
    const stop = new AbortController();
    const end = (): void => {
      stop.abort();
    };
    void done.then(end, end);
    while (!stop.signal.aborted) await c.pingPong(50, 1000);
  }

  it('shows rates of real traffic, sorts, filters, and gives the terminal back on q', async () => {
    const terminal = new Terminal(sandbox, command(), 120, 24);
    const moving = terminal.until((lines) =>
      lines.some((line) => /^\d+\.\d+ +inserted +[1-9]\d* +[\d.]+ [KM]?i?B +100%/.test(line)),
    );
    await traffic(moving);
    const lines = await moving;
    assert.equal(terminal.screen, 'alternate');
    assert.match(lines[0] ?? '', /^slipstream-bpf \S+, loaded .* ago, controller running/);
    assert.match(lines[2] ?? '', /^Traffic: [1-9]\d* msg\/s, .* redirected; backlog 0 B/);
    terminal.type('a');
    await terminal.until((now) => now.some((line) => line.startsWith('Sorted by age')));
    terminal.type('/nothing like it\r');
    await terminal.until(
      (now) => now.some((line) => line.includes('filter: nothing like it (0 shown)')) && !hasPair(now),
    );
    terminal.type('\u001b');
    await terminal.until(hasPair);
    terminal.type('h');
    await terminal.until((now) => now.some((line) => line.includes('sort by messages, bytes')));
    terminal.type('x');
    await terminal.until(hasPair);
    terminal.type('q');
    assert.deepEqual(await terminal.exited(), { code: 0, restored: true });
    assert.equal(terminal.screen, 'normal');
    assert.ok(terminal.output.includes('\u001b[7m') && terminal.output.trimEnd().endsWith('\u001b[?1049l'));
  });

  it('fits the terminal, also when that changes', async () => {
    const terminal = new Terminal(sandbox, command(), 120, 24);
    await terminal.until(hasPair);
    terminal.resize(50, 8);
    // The pair's line is the last of eight, and cut where the terminal ends.
    await terminal.until(
      (lines) =>
        lines.length === 8 &&
        (lines[0] ?? '').startsWith('slipstream-bpf') &&
        /^\d+\.\d+ +inserted/.test(lines[7] ?? ''),
    );
    terminal.resize(200, 40);
    await terminal.until(
      ([first = '', ...lines]) =>
        first.startsWith('slipstream-bpf') &&
        lines.some((line) => line.startsWith('PAIR') && line.trimEnd().endsWith('SERVER')) &&
        lines.some((line) => (line.match(/endpoint\(\d+\)/g) ?? []).length === 2),
    );
    terminal.type('q');
    assert.deepEqual(await terminal.exited(), { code: 0, restored: true });
  });

  for (const [what, end] of [
    [
      'Ctrl-C',
      (terminal: Terminal): void => {
        terminal.type('\u0003');
      },
    ],
    [
      'SIGTERM',
      async (terminal: Terminal): Promise<void> => {
        process.kill(await terminal.pid(), 'SIGTERM');
      },
    ],
  ] as const) {
    it(`gives the terminal back on ${what}`, async () => {
      const terminal = new Terminal(sandbox, command());
      await terminal.until(hasPair);
      await end(terminal);
      assert.deepEqual(await terminal.exited(), { code: 0, restored: true });
      assert.equal(terminal.screen, 'normal');
    });
  }

  it('has no colours where NO_COLOR is set', async () => {
    const terminal = new Terminal(sandbox, command('--iterations', '1'), 100, 24, { NO_COLOR: '1' });
    assert.deepEqual(await terminal.exited(), { code: 0, restored: true });
    assert.match(terminal.output, /inserted/);
    // eslint-disable-next-line no-control-regex
    assert.doesNotMatch(terminal.output, /\u001b\[\d*m/);
  });

  it('prints frame after frame where there is no terminal', async () => {
    const printed = plain('--iterations', '2', '--sort', 'bytes');
    await traffic(printed);
    const { code, stdout, stderr } = await printed;
    assert.deepEqual([code, stderr], [0, '']);
    const frames = stdout.split(/^(?=slipstream-bpf )/m);
    assert.equal(frames.length, 2);
    for (const frame of frames) assert.match(frame, /^PAIR +STATE +MSG\/S [^\n]*\n\d+\.\d+ +inserted +[1-9]/m);
    // eslint-disable-next-line no-control-regex
    assert.doesNotMatch(stdout, /\u001b/);
  });

  it('gives the terminal back when the datapath is taken down under it', async () => {
    const terminal = new Terminal(sandbox, command());
    await terminal.until(hasPair);
    assert.equal((await run(sandbox, ['down', '--pin-dir', sandbox.pinDir])).code, 0);
    assert.equal(await daemon.child.exited(), 0);
    assert.deepEqual(await terminal.exited(), { code: 1, restored: true });
    assert.equal(terminal.screen, 'normal');
    assert.match(terminal.lines().join('\n'), /slipstream-bpf: no datapath is loaded in/);
  });
});
