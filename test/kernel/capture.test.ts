/** `capture`: what a program sends on an accelerated connection is what tshark finds in the file. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, statSync, writeFileSync, chmodSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';

import { objectExists } from '../../addon/index.js';
import { capture as runCapture } from '../../controller/capture/capture.js';
import { captureObjectFile } from '../../controller/cli/package-info.js';
import { Datapath } from '../../controller/datapath/datapath.js';
import { content, sha256 } from '../apps/data.js';
import { Capturing, follow, tshark } from './support/capturing.js';
import { PROGRAM, type Result, run } from './support/daemon.js';
import { Python } from './support/python.js';
import { freePort, Redis } from './support/redis.js';
import { needsRoot, OBJECT_FILE, ROOT, Sandbox, skip, TSX } from './support/sandbox.js';
import { eventually, type PairRecord, Stack } from './support/stack.js';
import { publishPort } from './topology/filter.js';
import { CLIENT, HOST_TO_CLIENT, makeContainerHost, SERVER } from './topology/network.js';

const node = (...path: string[]): string[] => [...TSX, join(ROOT, 'test', ...path)];

describe('capture', function () {
  this.timeout(60_000);
  let sandbox: Sandbox;
  let stack: Stack;

  before(function () {
    needsRoot(this);
    sandbox = new Sandbox('capture');
    stack = new Stack(sandbox);
  });

  after(() => sandbox.dispose());

  /** The pair of the client with this port, once both directions redirect. */
  async function promoted(port: number, exchange: () => Promise<unknown>): Promise<PairRecord> {
    return eventuallyAfter(exchange, () => {
      const pair = stack.records('inserted').find(({ ends: [client] }) => client.port === port);
      return pair?.directions.every(({ path }) => path === 'direct') === true ? pair : undefined;
    });
  }

  async function eventuallyAfter<T>(attempt: () => Promise<unknown>, find: () => T | undefined): Promise<T> {
    const deadline = Date.now() + 10_000;
    for (;;) {
      await attempt();
      const found = find();
      if (found !== undefined) return found;
      assert.ok(Date.now() < deadline, `not within 10 s: ${JSON.stringify(stack.passed())}`);
    }
  }

  /** Python with an accelerated connection between its sockets `a`, the client's, and `b`. */
  async function connected(address = '127.0.0.1', netns?: string): Promise<{ p: Python; pair: PairRecord }> {
    const p = new Python(sandbox, netns === undefined ? {} : { netns });
    const family = address.includes(':') ? 'AF_INET6' : 'AF_INET';
    await p.run(`l = socket.socket(socket.${family}); l.bind(('${address}', 0)); l.listen()`);
    await p.run(`a = socket.create_connection(l.getsockname()[:2]); b = l.accept()[0]`);
    const pair = await promoted(await p.run<number>('port(a)'), () => p.run('exchange(a, b, 8, 64)'));
    return { p, pair };
  }

  /** Sends random bytes and returns them. */
  async function send(p: Python, from: string, to: string, size: number): Promise<Buffer> {
    return Buffer.from(
      await p.run<string>(
        `(d := os.urandom(${String(size)}), ${from}.sendall(d), receive(${to}, len(d)) == d or 1/0)[0].hex()`,
      ),
      'hex',
    );
  }

  it('an HTTP client and server that keep their connection alive', async () => {
    const port = String(await freePort());
    const server = sandbox.spawn(process.execPath, [...node('apps', 'programs', 'http-server.ts'), port]);
    await server.until(({ lines }) => lines.find((line) => line === 'listening'));
    const capturing = await Capturing.start(sandbox, '--port', port);
    const small = Array.from({ length: 30 }, (_, n) => `GET/100/${String(n)}`);
    // The last ones are of several messages each, and more than fits into the redirected queue.
    const asked = [...small, 'PUT/1048576/100', 'GET/1048576/101', 'GET/3000000/102', 'GET/1000/103'];
    const before = stack.redirected().messages;
    const client = sandbox.spawn(process.execPath, [...node('kernel', 'support', 'http-client.ts'), port, ...asked]);
    assert.equal(await client.exited(), 0, client.stderr);
    assert.ok(stack.redirected().messages - before > 30, 'nothing was redirected');
    await capturing.stop();
    assert.deepEqual(capturing.complaints, []);
    const http = ['-r', capturing.file, '-d', `tcp.port==${port},http`];
    const objects = join(sandbox.dir, 'objects');
    mkdirSync(objects);
    const seen = tshark(
      ...http,
      '-Y',
      'http',
      '-T',
      'fields',
      '-e',
      'http.request.method',
      '-e',
      'http.request.uri',
      '-e',
      'http.response.code',
      '--export-objects',
      `http,${objects}`,
    );
    assert.deepEqual(
      seen.slice(-10).map((line) => line.split('\t').slice(0, 3).join(' ').trim()),
      [
        'GET /100/29',
        '200',
        'PUT /1048576/100',
        '200',
        'GET /1048576/101',
        '200',
        'GET /3000000/102',
        '200',
        'GET /1000/103',
        '200',
      ],
    );
    for (const [size, which] of [
      [100, 29],
      [1048576, 101],
      [3000000, 102],
      [1000, 103],
    ] as const) {
      assert.ok(readFileSync(join(objects, String(which))).equals(content(size, which)), `body ${String(which)}`);
    }
    server.signal('SIGKILL');
    await server.exited();
  });

  it('a Redis client and server', async () => {
    const redis = await Redis.start(sandbox);
    const capturing = await Capturing.start(sandbox, '--port', String(redis.port));
    const before = stack.redirected().messages;
    const client = sandbox.spawn(process.execPath, [
      ...node('kernel', 'support', 'redis-client.ts'),
      String(redis.port),
      '60',
    ]);
    assert.equal(await client.exited(), 0, client.stderr);
    assert.ok(stack.redirected().messages - before > 60, 'nothing was redirected');
    await capturing.stop();
    assert.deepEqual(capturing.complaints, []);
    const streams = follow(capturing.file, 0);
    const requests = streams.find((bytes) => bytes.subarray(-6).equals(Buffer.from('QUIT\r\n')));
    const replies = streams.find((bytes) => bytes !== requests);
    assert.ok(requests && replies, 'the last command is missing');
    // From the first whole command on, the replies must be those to the commands.
    let at = requests.indexOf('*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$');
    const expected: Buffer[] = [];
    const line = (): string => {
      const end = requests.indexOf('\r\n', at);
      const text = requests.toString('latin1', at, end);
      at = end + 2;
      return text;
    };
    let value: Buffer = Buffer.alloc(0);
    while (at < requests.length) {
      const words = line();
      if (words === 'QUIT') {
        expected.push(Buffer.from('+OK\r\n'));
        continue;
      }
      for (let n = 0; n < 4; n++) line();
      if (words === '*3') {
        const length = Number(line().slice(1));
        value = requests.subarray(at, at + length);
        at += length + 2;
        expected.push(Buffer.from('+OK\r\n'));
      } else {
        expected.push(Buffer.from(`$${String(value.length)}\r\n`), value, Buffer.from('\r\n'));
      }
    }
    assert.ok(expected.length > 4 * 40, `${String(expected.length)} replies`);
    const tail = Buffer.concat(expected);
    assert.ok(replies.subarray(replies.length - tail.length).equals(tail), 'the replies differ');
    redis.child.signal('SIGKILL');
    await redis.child.exited();
  });

  it('both paths, IPv6, times and acknowledgements', async () => {
    const { p, pair } = await connected('::1');
    const capturing = await Capturing.start(
      sandbox,
      '--pair',
      `${String(pair.slot)}.${String(pair.control.generation)}`,
    );
    const from = Date.now() / 1000;
    const sent = [await send(p, 'a', 'b', 100), await send(p, 'b', 'a', 2000)];
    stack.datapath.pairs.hold(pair.slot, 0, true);
    sent.push(await send(p, 'a', 'b', 100_001));
    stack.datapath.pairs.hold(pair.slot, 0, false);
    sent.push(await send(p, 'b', 'a', 1));
    const to = Date.now() / 1000;
    await capturing.stop();
    const { packets } = capturing;
    assert.deepEqual(capturing.complaints, []);
    assert.equal(statSync(capturing.file).mode & 0o777, 0o600);
    const client = `::1 ${String(pair.ends[0].port)}`;
    const server = `::1 ${String(pair.ends[1].port)}`;
    assert.deepEqual(
      [...new Set(packets.map(({ source, destination, path }) => `${source} > ${destination} ${path}`))],
      [`${client} > ${server} direct`, `${server} > ${client} direct`, `${client} > ${server} tcp`],
    );
    const payload = (source: string): Buffer =>
      Buffer.concat(packets.filter((packet) => packet.source === source).map((packet) => packet.payload));
    assert.ok(payload(client).equals(Buffer.concat([sent[0]!, sent[2]!])), 'other bytes to the server');
    assert.ok(payload(server).equals(Buffer.concat([sent[1]!, sent[3]!])), 'other bytes to the client');
    assert.ok(
      packets.every(({ seconds }) => seconds >= from - 0.01 && seconds <= to + 0.01),
      'other times',
    );
    // Each side acknowledges what it has read of the other.
    const last = packets.at(-1)!;
    const held = packets.filter(({ path }) => path === 'tcp').at(-1)!;
    assert.equal(last.acknowledgement, (held.sequence + held.length) >>> 0);
    assert.match(
      packets[0]!.comment,
      /^pair \d+\.\d+: client python3\(\d+\) in \/\S+, server python3\(\d+\) in \S+; from the middle/,
    );
    await p.run('a.close(); b.close()');
  });

  it('the addresses of the client, where they are translated on the way', async function () {
    const host = makeContainerHost(sandbox);
    const problem = publishPort(host.host, 8080, { address: SERVER, port: 80 });
    if (problem !== undefined) skip(this, problem);
    const server = new Python(sandbox, { netns: host.server });
    const client = new Python(sandbox, { netns: host.client });
    await server.run(`l = socket.socket(); l.bind(('${SERVER}', 80)); l.listen()`);
    await client.run(`c = socket.create_connection(('${HOST_TO_CLIENT}', 8080))`);
    await server.run('s = l.accept()[0]');
    const exchange = async (text: string): Promise<void> => {
      await client.run(`c.sendall(b'to ${text}')`);
      await server.run(`(receive(s, ${String(text.length + 3)}), s.sendall(b'from ${text}'))[1]`);
      await client.run(`receive(c, ${String(text.length + 5)}) and None`);
    };
    const port = await client.run<number>('port(c)');
    await promoted(port, () => exchange('nobody'));
    const capturing = await Capturing.start(sandbox, '--port', '8080');
    await exchange('you');
    await capturing.stop();
    assert.deepEqual(capturing.complaints, []);
    assert.deepEqual(
      capturing.packets.map(({ source, destination, payload }) => `${source} > ${destination}: ${String(payload)}`),
      [
        `${CLIENT} ${String(port)} > ${HOST_TO_CLIENT} 8080: to you`,
        `${HOST_TO_CLIENT} 8080 > ${CLIENT} ${String(port)}: from you`,
      ],
    );
    assert.match(capturing.packets[0]!.comment, /the server's own addresses are \S+ > 10\.77\.1\.2:80/);
    await client.run('c.close()');
    await server.run('s.close()');
  });

  it('the beginning of each message only, with --snaplen', async () => {
    const { p } = await connected();
    const capturing = await Capturing.start(sandbox, '--snaplen', '50');
    const sent = [await send(p, 'a', 'b', 10), await send(p, 'b', 'a', 200_000), await send(p, 'a', 'b', 60)];
    await capturing.stop();
    const { packets } = capturing;
    assert.deepEqual(
      packets.map(({ length }) => length),
      [10, 65495, 65495, 65495, 3515, 60],
    );
    assert.deepEqual(
      packets.map(({ payload }) => payload),
      [
        sent[0],
        sent[1]!.subarray(0, 50),
        ...Array.from({ length: 3 }, () => Buffer.alloc(0)),
        sent[2]!.subarray(0, 50),
      ],
    );
    assert.deepEqual(capturing.complaints, []);
    await p.run('a.close(); b.close()');
  });

  it('as much of a message as TCP took', async () => {
    const { p, pair } = await connected();
    const capturing = await Capturing.start(sandbox);
    stack.datapath.pairs.hold(pair.slot, 0, true);
    // The reader does not read: the last send is taken in part, and what was left is never sent.
    await p.run(`a.setblocking(False); data = os.urandom(8 << 20)`);
    const taken = await p.run<number>('a.send(data)');
    assert.ok(taken > 0 && taken < 8 << 20, String(taken));
    await p.run(`receive(b, ${String(taken)}) == data[:${String(taken)}] or 1/0`);
    stack.datapath.pairs.hold(pair.slot, 0, false);
    await p.run(`a.send(b'x' * 100); receive(b, 100) and None`);
    await capturing.stop();
    assert.deepEqual(capturing.complaints, []);
    const [stream] = follow(capturing.file, 0);
    assert.equal(stream.length, taken + 100);
    const hash = await p.run<string>(`__import__('hashlib').sha256(data[:${String(taken)}]).hexdigest()`);
    assert.equal(sha256(stream.subarray(0, taken)), hash);
    await p.run('a.close(); b.close()');
  });

  it('the pairs that were asked for', async () => {
    const one = await connected();
    const cgroup = sandbox.makeCgroup('other');
    const other = new Python(sandbox, { cgroup });
    await other.run(`l = listener(); a, b = connection(l)`);
    const port = await other.run<number>('port(a)');
    await promoted(port, () => other.run('exchange(a, b, 8, 64)'));
    const selections = [
      ['--pair', `${String(one.pair.slot)}.${String(one.pair.control.generation)}`],
      ['--port', String(one.pair.ends[1].port)],
      ['--cgroup', `${sandbox.cgroupPath}/oth*`],
      ['--count', '3'],
    ];
    for (const selection of selections) {
      const capturing = await Capturing.start(sandbox, ...selection);
      await one.p.run('exchange(a, b, 5, 11)');
      await other.run('exchange(a, b, 5, 22)');
      if (selection[0] === '--count') await capturing.ended();
      else await capturing.stop();
      const lengths = capturing.packets.map(({ length }) => length);
      const wanted = selection[0] === '--cgroup' ? 22 : 11;
      assert.deepEqual(
        lengths,
        Array.from({ length: selection[0] === '--count' ? 3 : 10 }, () => wanted),
        selection.join(' '),
      );
    }
    for (const p of [one.p, other]) await p.run('a.close(); b.close()');
  });

  it('leaves out a pair with the addresses of another one', async () => {
    const ports = { a: 40001, l: 40002 };
    const capturing = await Capturing.start(sandbox);
    const made: Python[] = [];
    for (const [n, size] of [32, 33].entries()) {
      const p = new Python(sandbox, { netns: sandbox.makeNetns(`same-${String(n)}`) });
      made.push(p);
      await p.run(`l = socket.socket(); l.bind((HOME, ${String(ports.l)})); l.listen()`);
      await p.run(
        `a = socket.create_connection((HOME, ${String(ports.l)}), source_address=(HOME, ${String(ports.a)})); b = l.accept()[0]`,
      );
      await eventuallyAfter(
        () => p.run('exchange(a, b, 8, 64)'),
        () => stack.records('inserted').filter(({ ends: [end] }) => end.port === ports.a).length === n + 1 || undefined,
      );
      // Promotion may have come after the last message.
      await p.run(`exchange(a, b, 4, ${String(size)})`);
    }
    await capturing.stop();
    assert.match(
      capturing.child.stderr,
      /pair \S+ is left out: it has the addresses of pair \S+, in another network namespace/,
    );
    const lengths = capturing.packets.map(({ length }) => length);
    assert.ok(lengths.includes(32) && !lengths.includes(33), lengths.join());
    for (const p of made) await p.run('a.close(); b.close()');
  });

  it('a reader that stops: what finds no room is counted, and no sender waits', async () => {
    const { p } = await connected();
    const capturing = await Capturing.start(sandbox);
    capturing.child.signal('SIGSTOP');
    await p.run('exchange(a, b, 400, 30000)');
    capturing.child.signal('SIGCONT');
    await p.run('exchange(a, b, 1, 77)');
    await eventually('the last message', () => statSync(capturing.file).size > 8 << 20);
    await capturing.stop();
    const { packets, lost } = capturing;
    const messages = 800 + 2;
    assert.ok(lost['direct']! > 100 && lost['direct']! < messages, JSON.stringify(lost));
    assert.match(capturing.child.stderr, new RegExp(`\\b${String(lost['direct']! + lost['tcp']!)} messages lost`));
    const client = packets.filter(({ source }) => source === packets[0]!.source);
    // Numbered by what was sent, not by what was kept.
    const last = client.at(-1)!;
    assert.equal((last.sequence + last.length - client[0]!.sequence) >>> 0, 400 * 30000 + 77);
    assert.ok(capturing.complaints.length > 0, 'tshark sees no gap');
    await p.run('a.close(); b.close()');
  });

  /** Id of the program of a running capture. */
  function programId(): number | undefined {
    const slot = stack.datapath.captureProgram();
    const id = slot?.lookup(Buffer.alloc(4))?.readUInt32LE();
    slot?.close();
    return id;
  }

  it('leaves nothing on when it is killed', async () => {
    const { p } = await connected();
    const capturing = await Capturing.start(sandbox);
    const id = programId();
    assert.ok(id !== undefined && objectExists('program', id));
    await p.run('exchange(a, b, 10, 100)');
    capturing.child.signal('SIGKILL');
    await capturing.child.exited();
    await eventually('the kernel takes the program out', () => programId() === undefined);
    await eventually('the kernel frees the program', () => !objectExists('program', id));
    await p.run('exchange(a, b, 10, 100)');
    // And the next one works.
    const next = await Capturing.start(sandbox);
    await p.run('exchange(a, b, 1, 100)');
    await next.stop();
    assert.equal(next.packets.length, 2);
    assert.equal(programId(), undefined);
    await p.run('a.close(); b.close()');
  });

  it('works without a controller, into a pipe, until nobody reads', async () => {
    const { p } = await connected();
    const own = new Sandbox('capture-pipe');
    try {
      const child = own.spawn(
        '/bin/sh',
        [
          '-c',
          '{ "$0" "$@"; echo "code $?" >&2; } | tshark -n -l -c 4 -i - -T fields -e tcp.len',
          PROGRAM,
          'capture',
          '--pin-dir',
          sandbox.pinDir,
          '-w',
          '-',
        ],
        { cgroup: null },
      );
      await child.until(({ stderr }) => stderr.includes('capturing') || undefined);
      await p.run('exchange(a, b, 1, 300)');
      await child.until(({ lines }) => lines.length >= 2 || undefined);
      await eventuallyAfter(
        () => p.run('exchange(a, b, 1, 301)'),
        () => /code \d+/.exec(child.stderr) ?? undefined,
      );
      assert.deepEqual(child.lines.slice(0, 4), ['300', '300', '301', '301']);
      assert.match(child.stderr, /code 0\n/);
    } finally {
      await own.dispose();
    }
    await p.run('a.close(); b.close()');
  });

  describe('mistakes', () => {
    const capture = (...args: string[]): Promise<Result> =>
      run(sandbox, ['capture', ...(args.includes('--pin-dir') ? [] : ['--pin-dir', sandbox.pinDir]), ...args]);
    const file = (): string => join(sandbox.dir, 'unwanted.pcapng');
    const cases: [string, () => string[], number, RegExp][] = [
      ['no file', () => [], 2, /-w is missing: give it a file/],
      ['a pair that is none', () => ['-w', file(), '--pair', 'x'], 2, /--pair: 'x' is not a pair/],
      ['a pair that is not there', () => ['-w', file(), '--pair', '1000.77'], 1, /there is no pair 1000\.77/],
      ['a port', () => ['-w', file(), '--port', '0'], 2, /--port: give a whole number from 1 to 65535/],
      ['a cgroup', () => ['-w', file(), '--cgroup', 'a'], 2, /--cgroup: 'a' must start with '\/'/],
      ['a snap length', () => ['-w', file(), '--snaplen', '-1'], 2, /--snaplen: give a whole number from 0/],
      ['a count', () => ['-w', file(), '--count', '0'], 2, /--count: give a whole number from 1/],
      ['a duration', () => ['-w', file(), '--duration', 'x'], 2, /--duration: give a number from 0\.1/],
      [
        'a file that can not be made',
        () => ['-w', '/nonexistent/x'],
        1,
        /\/nonexistent\/x can't be written \(ENOENT\)/,
      ],
      ['no datapath', () => ['-w', file(), '--pin-dir', '/sys/fs/bpf/none'], 1, /no datapath is loaded/],
    ];
    for (const [name, args, code, sentence] of cases) {
      it(name, async () => {
        const result = await capture(...args());
        assert.match(result.stderr, sentence);
        assert.match(result.stderr, /^slipstream-bpf: [^\n]+\n$/, 'one sentence');
        assert.equal(result.code, code);
        assert.ok(!readdirSync(sandbox.dir).includes('unwanted.pcapng'));
      });
    }

    it('a terminal', async () => {
      const child = sandbox.spawn(
        'script',
        ['-qec', `${PROGRAM} capture --pin-dir ${sandbox.pinDir} -w -`, '/dev/null'],
        { cgroup: null },
      );
      assert.equal(await child.exited(), 2);
      assert.match(child.lines.join('\n'), /not for a terminal/);
    });

    it('a second capture; the mode of a file that was there', async () => {
      const there = join(sandbox.dir, 'there');
      writeFileSync(there, 'x'.repeat(100_000));
      chmodSync(there, 0o644);
      const capturing = await Capturing.start(sandbox);
      const second = await capture('-w', file());
      assert.match(second.stderr, /another capture of this datapath is running/);
      assert.equal(second.code, 1);
      await capturing.stop();
      const third = await capture('-w', there, '--duration', '0.1');
      assert.equal(third.code, 0, third.stderr);
      assert.ok(statSync(there).size < 10_000);
      assert.equal(statSync(there).mode & 0o777, 0o600);
    });
  });

  describe('the end', () => {
    it('ends when the datapath is taken down', async () => {
      const capturing = await Capturing.start(sandbox);
      await stack.remove();
      assert.equal(await capturing.child.exited(), 1);
      assert.match(capturing.child.stderr, /the datapath was taken down/);
      assert.equal(Datapath.pinState(sandbox.pinDir), 'absent');
    });

    it('ends also when it was taken down in the instant in which the capture started', async () => {
      const pinDir = `${sandbox.pinDir}-instant`;
      const datapath = Datapath.load({
        objectFile: OBJECT_FILE,
        pinDir,
        cgroupDir: sandbox.cgroup,
        maxPairs: 16,
        version: 'test',
      });
      let isThere = true;
      const remove = (): void => {
        if (isThere) datapath.remove();
        isThere = false;
      };
      sandbox.undo(remove);
      const output = join(sandbox.dir, 'instant.pcapng');
      const options = { pinDir, output, snaplen: 64, count: Infinity, duration: 30 };
      const nothing = { pair: undefined, port: undefined, cgroup: undefined };
      await assert.rejects(
        runCapture(
          { ...options, ...nothing },
          {
            objectFile: OBJECT_FILE,
            captureObjectFile: captureObjectFile(),
            version: 'test',
            say: (line) => {
              if (line.startsWith('capturing')) remove();
            },
            stop: new AbortController().signal,
          },
        ),
        /the datapath was taken down/,
      );
    });
  });
});
