/**
 * What others than root get of it: nothing. Sequence numbers that somebody chose are in pairing-forged.test.ts.
 */
import assert from 'node:assert/strict';
import { chmodSync, chownSync, mkdirSync, readdirSync, rmdirSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';

import { attachedPrograms, BpfLink, BpfMap } from '../../addon/index.js';
import { Daemon, run, stateDir } from './support/daemon.js';
import { type Child, needsRoot, Sandbox, skip, type SpawnOptions } from './support/sandbox.js';

/** Not root, without groups and without a way back. */
const NOBODY = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', '--bounding-set=-all', '--no-new-privs'];
/** Root of a user namespace with its own network, as in a rootless container. */
const CONTAINER = [
  'setpriv',
  '--reuid=65534',
  '--regid=65534',
  '--clear-groups',
  'unshare',
  '--user',
  '--map-root-user',
  '--net',
];

/**
 * Tries what would give somebody a hand on the datapath and prints the errno's name of each attempt.
 * Arguments: pin directory, state directory, then map:ID, program:ID and link:ID.
 */
const ATTEMPTS = String.raw`
import ctypes, errno, fcntl, json, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
SYS_bpf = {'x86_64': 321, 'aarch64': 280}[os.uname().machine]
OBJ_GET, PROG_FD, MAP_FD, LINK_FD = 7, 13, 14, 30
results = {}

def attempt(name, action):
    try:
        action()
        results[name] = 'allowed'
    except OSError as error:
        results[name] = errno.errorcode[error.errno]

def bpf(command, attributes):
    data = ctypes.create_string_buffer(attributes, 128)
    if libc.syscall(SYS_bpf, command, data, 128) < 0:
        raise OSError(ctypes.get_errno(), 'bpf')

def by_path(path):
    text = ctypes.create_string_buffer(path.encode())
    bpf(OBJ_GET, struct.pack('QII', ctypes.addressof(text), 0, 0))

pins, state = sys.argv[1:3]
attempt('list pins', lambda: os.listdir(pins))
attempt('lock pins', lambda: fcntl.flock(os.open(pins, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB))
attempt('remove a pin', lambda: os.unlink(pins + '/settings'))
for name in 'pairs', 'settings', 'sockets', 'events', 'link_identify':
    attempt('open pin ' + name, lambda: by_path(pins + '/' + name))
attempt('list what was learned', lambda: os.listdir(state))
attempt('write what was learned', lambda: open(state + '/learned.json', 'w'))
for argument in sys.argv[3:]:
    kind, number = argument.split(':')
    command = {'map': MAP_FD, 'program': PROG_FD, 'link': LINK_FD}[kind]
    attempt('get ' + argument, lambda: bpf(command, struct.pack('I', int(number))))
attempt('signal the daemon', lambda: os.kill(int(os.environ['DAEMON']), 1))
print(json.dumps(results))
`;

describe('security', function () {
  this.timeout(60_000);
  let sandbox: Sandbox;

  before(function () {
    needsRoot(this);
  });

  beforeEach(() => {
    sandbox = new Sandbox('security');
  });

  afterEach(() => sandbox.dispose());

  /** Makes the way to the pins as open as it may be: everything depends on the directory itself. */
  function openTheWay(): void {
    chmodSync(sandbox.dir, 0o755);
    chmodSync(dirname(sandbox.pinDir), 0o1777);
  }

  async function answers(who: string[], args: string[], options: SpawnOptions): Promise<Record<string, string>> {
    const [command = '', ...rest] = [...who, '/usr/bin/python3', '-c', ATTEMPTS, ...args];
    const child = sandbox.spawn(command, rest, { cgroup: null, ...options });
    child.process.stdin.end();
    const line = await child.until(({ lines }) => lines.at(-1));
    return JSON.parse(line) as Record<string, string>;
  }

  async function hasUserNamespaces(): Promise<string | undefined> {
    const child: Child = sandbox.spawn('setpriv', [...CONTAINER.slice(1), 'true'], { cgroup: null });
    return (await child.exited()) === 0 ? undefined : `no user namespaces for users here: ${child.stderr.trim()}`;
  }

  for (const [what, who] of [
    ['an unprivileged user', NOBODY],
    ['root of a user namespace with CAP_NET_ADMIN over its own network', CONTAINER],
  ] as const) {
    it(`${what} reaches no pin, map, program, link, lock, list or process`, async function () {
      const missing = who === CONTAINER ? await hasUserNamespaces() : undefined;
      if (missing !== undefined) skip(this, missing);
      const daemon = await Daemon.start(sandbox);
      openTheWay();
      mkdirSync(stateDir(sandbox), { mode: 0o700, recursive: true });
      const ids = readdirSync(sandbox.pinDir).flatMap((name) => {
        const path = join(sandbox.pinDir, name);
        if (!name.startsWith('link_')) {
          const map = BpfMap.open(path);
          const { id } = map.info();
          map.close();
          return [`map:${String(id)}`];
        }
        const link = BpfLink.open(path);
        const { id, programId } = link.info();
        link.close();
        return [`link:${String(id)}`, `program:${String(programId)}`];
      });
      const results = await answers([...who], [sandbox.pinDir, stateDir(sandbox), ...ids], {
        env: { DAEMON: String(daemon.child.pid) },
      });
      assert.ok(Object.keys(results).length > 20, JSON.stringify(results));
      const allowed = Object.entries(results).filter(([, result]) => !['EACCES', 'EPERM'].includes(result));
      assert.deepEqual(allowed, []);

      // The same attempts by root succeed: they are made rightly.
      const own = await answers([], [sandbox.pinDir, stateDir(sandbox), ...ids], {
        env: { DAEMON: String(daemon.child.pid) },
      });
      const refused = Object.entries(own).filter(
        ([name, result]) => result !== 'allowed' && !/lock pins|pin settings/.test(name),
      );
      assert.deepEqual(refused, [], 'an attempt fails for root, too');
    });
  }

  it('pins and their directory are for root only', async () => {
    await Daemon.start(sandbox);
    assert.deepEqual([statSync(sandbox.pinDir).mode & 0o777, statSync(sandbox.pinDir).uid], [0o700, 0]);
    for (const name of readdirSync(sandbox.pinDir)) {
      const { mode, uid } = statSync(join(sandbox.pinDir, name));
      assert.deepEqual([name, mode & 0o077, uid], [name, 0, 0]);
    }
  });

  for (const [what, prepare] of [
    [
      'that somebody else has made',
      (dir: string): void => {
        mkdirSync(dir);
        chownSync(dir, 65534, 65534);
      },
    ],
    [
      'that others may write to',
      (dir: string): void => {
        mkdirSync(dir);
        chmodSync(dir, 0o777);
      },
    ],
  ] as const) {
    it(`up refuses a pin directory ${what}, and one below it`, async () => {
      openTheWay();
      prepare(sandbox.pinDir);
      for (const dir of [sandbox.pinDir, join(sandbox.pinDir, 'below')]) {
        const args = ['--cgroup', sandbox.cgroup, '--pin-dir', dir, '--metrics', '127.0.0.1:0'];
        const { code, stderr } = await run(sandbox, ['up', ...args, '--state-dir', stateDir(sandbox)]);
        assert.equal(code, 2, stderr);
        assert.match(stderr, /^[^\n]*others than root may change \S+, so the pins would not be safe there[^\n]*\n$/);
      }
      assert.deepEqual(attachedPrograms(sandbox.cgroup, 'sock_ops'), []);
      assert.deepEqual(readdirSync(sandbox.pinDir), []);
      rmdirSync(sandbox.pinDir);
    });
  }

  it('the HTTP address changes nothing: every method but GET and HEAD is refused', async () => {
    const daemon = await Daemon.start(sandbox);
    for (const path of ['/metrics', '/healthz', '/readyz', '/-/reload', '/down']) {
      for (const method of ['POST', 'PUT', 'DELETE', 'PATCH']) {
        const { status } = await fetch(new URL(path, daemon.metricsUrl), { method });
        assert.ok(status === 404 || status === 405, `${method} ${path}: ${String(status)}`);
      }
    }
    assert.equal((await daemon.get('/readyz')).status, 200);
  });
});
