/** Scenarios with servers that people run, every byte compared. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { type Child, ROOT, TSX } from '../../kernel/support/sandbox.js';
import { eventually } from '../../kernel/support/stack.js';
import { content, hashes, makeTree, sha256, SIZES } from '../data.js';
import type { Place } from '../place.js';
import { carryOut, type Outcomes, type Steps, type Suite, Unavailable } from '../suite.js';

/** Every run has a network namespace of its own, where all ports are free. */
const PORT = 7000;

function programs(...files: string[]): () => void {
  return () => {
    const missing = files.filter((file) => !existsSync(file));
    if (missing.length > 0) throw new Unavailable(`${missing.join(', ')}: not installed`);
  };
}

async function until(child: Child, text: string): Promise<void> {
  await child.until(
    ({ lines, stderr }) => lines.some((line) => line.includes(text)) || stderr.includes(text) || undefined,
  );
}

/** Waits until something listens on a port in the child's network namespace. */
async function listening(child: Child, port: number): Promise<void> {
  const wanted = new RegExp(`:${port.toString(16).toUpperCase().padStart(4, '0')} \\S+ 0A `);
  await eventually(`${child.process.spawnargs.join(' ')} listens: ${child.stderr}`, () =>
    wanted.test(readFileSync(`/proc/${child.pid}/net/tcp`, 'latin1')),
  );
}

async function ours(place: Place, program: string, ...args: string[]): Promise<string> {
  const file = join(ROOT, 'test', 'apps', 'programs', program);
  return place.run(process.execPath, [...TSX, file, ...args]);
}

function scenario(
  name: string,
  options: Pick<Suite, 'forms'> & Partial<Suite>,
  steps: (place: Place) => Promise<Steps>,
): Suite {
  return {
    name,
    ours: true,
    ...options,
    async run(place, only): Promise<Outcomes> {
      const ready = await place.within(90, `${name}: its servers`, steps(place));
      return carryOut(place, ready, options.stepSeconds ?? 180, only);
    },
  };
}

async function startRedis(place: Place, port: number): Promise<void> {
  const args = ['--port', `${port}`, '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', place.dir];
  await until(place.start('redis-server', args), 'Ready to accept connections');
}

function redisBenchmark(place: Place, port: number, ...args: string[]): () => Promise<string> {
  return () => place.run('redis-benchmark', ['-h', '127.0.0.1', '-p', `${port}`, '-q', '-e', ...args]);
}

const redis = scenario(
  'redis',
  { forms: { accelerated: '', blocking: '' }, prepare: programs('/usr/bin/redis-server') },
  async (place) => {
    await startRedis(place, PORT);
    const port = `${PORT}`;
    const benchmark = (...args: string[]): (() => Promise<string>) => redisBenchmark(place, PORT, ...args);
    return {
      'values of 1 B to 8 MiB': () => ours(place, 'redis-client.ts', port, 'values'),
      pipeline: () => ours(place, 'redis-client.ts', port, 'pipeline'),
      'publish and subscribe': () => ours(place, 'redis-client.ts', port, 'pubsub'),
      monitor: () => ours(place, 'redis-client.ts', port, 'monitor'),
      'redis-benchmark 3 B': benchmark('-n', '30000', '-t', 'ping,set,get,incr,lpush,lrange_100,mset'),
      'redis-benchmark 4 KiB': benchmark('-n', '20000', '-d', '4096', '-t', 'set,get'),
      'redis-benchmark 256 KiB': benchmark('-n', '2000', '-d', '262144', '-t', 'set,get'),
      'redis-benchmark pipelined': benchmark('-n', '100000', '-P', '16', '-t', 'set,get'),
      'redis-cli': async () => {
        const script = Array.from({ length: 500 }, (_, n) => `SET c${n} ${sha256(content(n))}\nGET c${n}\n`).join('');
        const said = await place.bash(`redis-cli -p ${port} <${place.file('commands', script)}`);
        const expected = Array.from({ length: 500 }, (_, n) => `OK\n${sha256(content(n))}`).join('\n');
        assert.equal(said, expected);
      },
    };
  },
);

const postgresql = scenario(
  'postgresql',
  { forms: { accelerated: '', blocking: '' }, prepare: programs('/usr/lib/postgresql') },
  async (place) => {
    const user = 'nobody';
    const bin = await place.bash('ls -d /usr/lib/postgresql/*/bin | tail -n 1');
    mkdirSync(place.path('pg'));
    await place.run('chown', [user, place.path('pg')]);
    const cwd = place.path('pg');
    const data = join(cwd, 'data');
    await place.run(join(bin, 'initdb'), ['-D', data, '-U', 'app', '-A', 'trust', '-E', 'UTF8', '--locale=C', '-N'], {
      user,
      cwd,
    });
    const set = ['fsync=off', 'listen_addresses=127.0.0.1', `port=${PORT}`, 'unix_socket_directories='];
    await until(
      place.start(join(bin, 'postgres'), ['-D', data, ...set.flatMap((option) => ['-c', option])], { user, cwd }),
      'ready to accept connections',
    );
    const env = {
      PGHOST: '127.0.0.1',
      PGPORT: `${PORT}`,
      PGUSER: 'app',
      PGDATABASE: 'postgres',
      PGSSLMODE: 'disable',
      PGGSSENCMODE: 'disable',
    };
    const psql = (...commands: string[]): Promise<string> =>
      place.run(join(bin, 'psql'), ['-XAtq', '-v', 'ON_ERROR_STOP=1', ...commands.flatMap((c) => ['-c', c])], { env });
    const bench = (...args: string[]): Promise<string> => place.run(join(bin, 'pgbench'), args, { env });
    const rows = Array.from({ length: 8000 }, (_, n) => `${n}\t${content(1 + ((n * 37) % 4000), n).toString('hex')}\n`);
    const table = Buffer.from(rows.join(''));
    return {
      'pgbench -i': async () => {
        await bench('-i', '-s', '3', '-q');
        assert.equal(await psql('SELECT count(*) FROM pgbench_accounts'), '300000');
      },
      'pgbench -S': async () => {
        const said = await bench('-S', '-n', '-c', '8', '-j', '2', '-t', '3000');
        assert.match(said, /actually processed: 24000\/24000/);
      },
      'pgbench TPC-B': async () => {
        for (const protocol of ['simple', 'extended', 'prepared']) {
          const said = await bench('-n', '-c', '8', '-j', '2', '-t', '300', '-M', protocol);
          assert.match(said, /actually processed: 2400\/2400/, protocol);
        }
        // What every transaction keeps equal.
        const sums = await psql(
          'SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),' +
            ' (SELECT sum(bbalance) FROM pgbench_branches), (SELECT sum(delta) FROM pgbench_history),' +
            ' (SELECT count(*) FROM pgbench_history)',
        );
        const [accounts, ...others] = sums.split('|');
        assert.deepEqual(others, [accounts, accounts, accounts, '7200'], sums);
      },
      'COPY in and out': async () => {
        const file = place.file('table', table);
        await psql('CREATE TABLE t (n int, bytes text)', `\\copy t FROM '${file}'`);
        const digest = "SELECT md5(string_agg(n || E'\\t' || bytes || E'\\n', '' ORDER BY n)) FROM t";
        assert.equal(await psql(digest), createHash('md5').update(table).digest('hex'));
        const out = place.path('table-out');
        await psql(`\\copy (SELECT * FROM t ORDER BY n) TO '${out}'`);
        assert.equal(sha256(readFileSync(out)), sha256(table));
        await psql('DROP TABLE t');
      },
      'LISTEN and NOTIFY': async () => {
        // Every round notifies the session itself; the answer carries the payload.
        const script = Array.from({ length: 300 }, (_, n) => `NOTIFY news, '${sha256(content(n))}';\n`).join('');
        const said = await place.run(
          join(bin, 'psql'),
          ['-XAtq', '-f', place.file('notify', `LISTEN news;\n${script}`)],
          { env },
        );
        const heard = [...said.matchAll(/with payload "(\w+)"/g)].map(([, payload]) => payload);
        assert.deepEqual(
          heard,
          Array.from({ length: 300 }, (_, n) => sha256(content(n))),
        );
      },
    };
  },
);

/** A web server of nginx, and one that passes everything on to it. */
function nginx(name: string, binary: string, suite: Pick<Suite, 'forms'> & Partial<Suite>): Suite {
  return scenario(name, { prepare: programs('/usr/sbin/nginx'), ...suite }, async (place) => {
    const program = place.path(binary);
    copyFileSync('/usr/sbin/nginx', program);
    const serve = async (port: number, location: string, more = ''): Promise<void> => {
      const dir = place.path(`nginx-${port}`);
      mkdirSync(join(dir, 'www'), { recursive: true });
      for (const [which, size] of SIZES.entries()) {
        mkdirSync(join(dir, 'www', `${size}`));
        writeFileSync(join(dir, 'www', `${size}`, `${which}`), content(size, which));
      }
      const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
        (kind) => `${kind}_temp_path ${join(dir, kind)};`,
      );
      const config = `
        user root; worker_processes 2; pid ${join(dir, 'pid')}; error_log ${join(dir, 'error.log')} warn; daemon off;
        events { worker_connections 256; }
        http {
          access_log off; keepalive_requests 1000000; client_max_body_size 64m; ${temporary.join(' ')}
          ${more}
          server { listen 127.0.0.1:${port}; location / { ${location} } }
        }`;
      await listening(place.start(program, ['-p', dir, '-c', place.file(`nginx-${port}.conf`, config)]), port);
    };
    const www = `root ${place.path(`nginx-${PORT}`)}/www; sendfile on; tcp_nopush on; dav_methods PUT DELETE;`;
    await serve(PORT, www);
    const pass = 'proxy_pass http://behind; proxy_http_version 1.1; proxy_set_header Connection "";';
    const upstream = `upstream behind { server 127.0.0.1:${PORT}; keepalive 16; }`;
    await serve(PORT + 1, pass, upstream);
    await serve(PORT + 2, `${pass} proxy_buffering off; proxy_request_buffering off;`, upstream);
    const ask = (port: number, what: string, rounds: string) => () =>
      ours(place, 'http-client.ts', `http://127.0.0.1:${port}`, what, rounds);
    return {
      'files of 1 B to 8 MiB': ask(PORT, 'get', '2'),
      curl: () => curl(place, `http://127.0.0.1:${PORT}`),
      'PUT and GET': ask(PORT, 'store', '1'),
      'proxied files': ask(PORT + 1, 'get', '2'),
      'proxied PUT and GET': ask(PORT + 1, 'store', '1'),
      'proxied curl': () => curl(place, `http://127.0.0.1:${PORT + 1}`),
      'proxied files, unbuffered': ask(PORT + 2, 'get', '2'),
      'proxied PUT and GET, unbuffered': ask(PORT + 2, 'store', '1'),
    };
  });
}

/** One connection, every size three times over. */
async function curl(place: Place, url: string): Promise<void> {
  const files = [0, 1, 2].flatMap((round) =>
    SIZES.map((size, which) => ({ size, which, file: place.path(`curl-${which}-${round}`) })),
  );
  // Small ones between, so that this is a conversation.
  const small = Array.from({ length: 60 }, () => ({ size: 100, which: 1, file: place.path('curl-small') }));
  const config = [...small, ...files]
    .map(({ size, which, file }) => `url = "${url}/${size}/${which}"\noutput = "${file}"\n`)
    .join('');
  await place.run('curl', ['--silent', '--show-error', '--fail', '-K', place.file('curl.conf', config)]);
  for (const { size, which, file } of files) {
    assert.equal(sha256(readFileSync(file)), sha256(content(size, which)), `${size} bytes by curl`);
    rmSync(file);
  }
}

/** haproxy with splice-auto in front of Redis (tcp) and of a web server (http). */
function haproxy(name: string, binary: string, suite: Pick<Suite, 'forms'> & Partial<Suite>): Suite {
  return scenario(name, { prepare: programs('/usr/sbin/haproxy'), ...suite }, async (place) => {
    const program = place.path(binary);
    copyFileSync('/usr/sbin/haproxy', program);
    await startRedis(place, PORT);
    const web = place.start(process.execPath, [
      ...TSX,
      join(ROOT, 'test', 'apps', 'programs', 'http-server.ts'),
      `${PORT + 1}`,
    ]);
    await until(web, 'listening');
    const config = `
global
  maxconn 500
defaults
  timeout connect 10s
  timeout client 60s
  timeout server 60s
  option splice-auto
  option splice-request
  option splice-response
listen tcp
  mode tcp
  bind 127.0.0.1:${PORT + 2}
  server redis 127.0.0.1:${PORT}
listen http
  mode http
  bind 127.0.0.1:${PORT + 3}
  server web 127.0.0.1:${PORT + 1}
`;
    const front = place.start(program, ['-db', '-f', place.file('haproxy.cfg', config)]);
    await listening(front, PORT + 3);
    const tcp = `${PORT + 2}`;
    const url = `http://127.0.0.1:${PORT + 3}`;
    return {
      'tcp: values of 1 B to 8 MiB': () => ours(place, 'redis-client.ts', tcp, 'values'),
      'tcp: pipeline': () => ours(place, 'redis-client.ts', tcp, 'pipeline'),
      'tcp: publish and subscribe': () => ours(place, 'redis-client.ts', tcp, 'pubsub'),
      'tcp: redis-benchmark': redisBenchmark(place, PORT + 2, '-n', '20000', '-d', '1024', '-t', 'set,get'),
      'http: answers of 1 B to 8 MiB': () => ours(place, 'http-client.ts', url, 'get', '2'),
      'http: PUT': () => ours(place, 'http-client.ts', url, 'put', '1'),
      'http: curl': () => curl(place, url),
    };
  });
}

let tree = '';
let treeHashes = new Map<string, string>();

function needTree(): void {
  tree = mkdtempSync(join(tmpdir(), 'slipstream-tree-'));
  makeTree(tree);
  treeHashes = hashes(tree);
}

function removeTree(): void {
  if (tree !== '') rmSync(tree, { recursive: true, force: true });
  tree = '';
}

function assertTree(dir: string): void {
  assert.deepEqual(hashes(dir), treeHashes);
  rmSync(dir, { recursive: true, force: true });
}

const rsync = scenario(
  'rsync',
  {
    forms: { accelerated: 'rsync blocks in recv() at its beginning', blocking: '' },
    prepare: () => {
      programs('/usr/bin/rsync')();
      needTree();
    },
    finish: removeTree,
  },
  async (place) => {
    const module = place.path('module');
    mkdirSync(module);
    const config = `
      use chroot = no
      uid = root
      gid = root
      pid file = ${place.path('rsyncd.pid')}
      [tree]
        path = ${tree}
      [in]
        path = ${module}
        read only = no
    `;
    // With a socket for its standard input, which Node.js gives, it would serve that one.
    const daemon = `exec rsync --daemon --no-detach --address=127.0.0.1 --port=${PORT} --config=${place.file('rsyncd.conf', config)}`;
    await listening(place.start('sh', ['-c', `${daemon} </dev/null`]), PORT);
    const url = `rsync://127.0.0.1:${PORT}`;
    const out = place.path('out');
    return {
      'pull 200 MiB': async () => {
        await place.run('rsync', ['-a', `${url}/tree/`, out]);
        assertTree(out);
      },
      'push 200 MiB': async () => {
        await place.run('rsync', ['-a', `${tree}/`, `${url}/in/whole/`]);
        assertTree(join(module, 'whole'));
      },
      'send what has changed': async () => {
        await place.run('rsync', ['-a', `${tree}/`, `${url}/in/delta/`]);
        const changed = join(module, 'delta', 'large', '0');
        const bytes = readFileSync(changed);
        for (let at = 0; at < bytes.length; at += 2 ** 20) bytes.writeUInt8(bytes.readUInt8(at) ^ 255, at);
        writeFileSync(changed, bytes);
        rmSync(join(module, 'delta', 'small', '7'));
        writeFileSync(join(module, 'delta', 'surplus'), 'surplus');
        await place.run('rsync', [
          '-a',
          '--checksum',
          '--no-whole-file',
          '--delete',
          '-z',
          `${tree}/`,
          `${url}/in/delta/`,
        ]);
        assertTree(join(module, 'delta'));
      },
      'many small transfers': async () => {
        await place.bash(`for n in {1..40}; do rsync -a ${tree}/small/$n ${url}/in/few/small/ --mkpath; done`);
        const sent = hashes(join(module, 'few'));
        assert.equal(sent.size, 40);
        for (const [name, hash] of sent) assert.equal(hash, treeHashes.get(name), name);
      },
    };
  },
);

let madeRunSshd = false;

const ssh = scenario(
  'sshd',
  {
    forms: { accelerated: '', blocking: '' },
    prepare: () => {
      programs('/usr/sbin/sshd', '/usr/bin/ssh', '/usr/bin/rsync')();
      // sshd insists on this directory, which its service would make.
      if (!existsSync('/run/sshd')) {
        mkdirSync('/run/sshd', { mode: 0o755 });
        madeRunSshd = true;
      }
      needTree();
    },
    finish: () => {
      removeTree();
      if (madeRunSshd) rmdirSync('/run/sshd');
    },
  },
  async (place) => {
    for (const key of ['host', 'user']) {
      await place.run('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', place.path(key)]);
    }
    const config = `
      ListenAddress 127.0.0.1:${PORT}
      HostKey ${place.path('host')}
      AuthorizedKeysFile ${place.path('user')}.pub
      PidFile none
      StrictModes no
      UsePAM no
      PermitRootLogin yes
      PasswordAuthentication no
      MaxStartups 100
      Subsystem sftp internal-sftp
    `;
    const sshd = place.start('/usr/sbin/sshd', ['-D', '-e', '-f', place.file('sshd_config', config)]);
    await until(sshd, 'Server listening');
    const client = `
      Host app
      HostName 127.0.0.1
      Port ${PORT}
      User root
      IdentityFile ${place.path('user')}
      IdentitiesOnly yes
      BatchMode yes
      StrictHostKeyChecking no
      UserKnownHostsFile ${place.path('known')}
      LogLevel ERROR
    `;
    const file = place.file('ssh_config', client);
    const remote = `ssh -F ${file} app`;
    const bytes = content(48 * 2 ** 20, 1);
    const big = place.file('big', bytes);
    return {
      'a line at a time': async () => {
        const script = `
          coproc ${remote} 'while read -r line; do echo "$line"; done'
          for n in {1..2000}; do
            echo "line $n $RANDOM" >&"\${COPROC[1]}"
            read -r answer <&"\${COPROC[0]}"
            [[ $answer == "line $n "* ]]
          done`;
        await place.bash(script);
      },
      '48 MiB each way': async () => {
        assert.equal(await place.bash(`${remote} cat <${big} | sha256sum | cut -c -64`), sha256(bytes));
      },
      'many sessions': async () => {
        const said = await place.bash(
          `for n in {1..20}; do ${remote} "head -c 100000 ${big} | sha256sum" & done; wait; echo end`,
        );
        const expected = `${sha256(bytes.subarray(0, 100_000))}  -\n`;
        assert.equal(said, `${expected.repeat(20)}end`);
      },
      'rsync over ssh, 200 MiB': async () => {
        await place.run('rsync', ['-a', '-e', `ssh -F ${file}`, `${tree}/`, `app:${place.path('copy')}`]);
        assertTree(place.path('copy'));
      },
      sftp: async () => {
        const there = place.path('there');
        const back = place.path('back');
        const batch = place.file('batch', `put ${big} ${there}\nget ${there} ${back}\nls -l ${place.dir}\n`);
        await place.run('sftp', ['-q', '-F', file, '-b', batch, 'app']);
        assert.equal(sha256(readFileSync(back)), sha256(bytes));
      },
      'a forwarded port': async () => {
        await startRedis(place, PORT + 1);
        const forward = place.start('ssh', [
          '-F',
          file,
          '-N',
          '-L',
          `127.0.0.1:${PORT + 2}:127.0.0.1:${PORT + 1}`,
          'app',
        ]);
        await listening(forward, PORT + 2);
        await ours(place, 'redis-client.ts', `${PORT + 2}`, 'values');
      },
    };
  },
);

const mosquitto = scenario(
  'mosquitto',
  { forms: { accelerated: '' }, prepare: programs('/usr/sbin/mosquitto', '/usr/bin/mosquitto_pub') },
  async (place) => {
    const config = `
listener ${PORT} 127.0.0.1
allow_anonymous true
user root
max_queued_messages 0
`;
    await until(place.start('/usr/sbin/mosquitto', ['-c', place.file('mosquitto.conf', config)]), 'running');
    const at = ['-h', '127.0.0.1', '-p', `${PORT}`];
    const lines = Array.from({ length: 3000 }, (_, n) => content(1 + ((n * 13) % 1000), n).toString('hex'));
    const input = place.file('lines', `${lines.join('\n')}\n`);
    const exchange = async (qos: string): Promise<void> => {
      const args = [...at, '-t', 'a/b', '-q', qos, '-C', `${lines.length}`, '-d', '-F', 'payload %p'];
      const subscribers = [1, 2, 3].map(() => place.start('stdbuf', ['-oL', 'mosquitto_sub', ...args]));
      for (const child of subscribers) await until(child, 'Subscribed');
      await place.bash(`mosquitto_pub ${at.join(' ')} -t a/b -q ${qos} -l <${input}`);
      for (const child of subscribers) {
        await place.within(60, `mosquitto_sub of QoS ${qos}`, child.exited());
        const payloads = child.lines.filter((line) => line.startsWith('payload ')).map((line) => line.slice(8));
        assert.equal(sha256(Buffer.from(payloads.join('\n'))), sha256(Buffer.from(lines.join('\n'))));
      }
    };
    return {
      'QoS 0': () => exchange('0'),
      'QoS 1': () => exchange('1'),
      'QoS 2': () => exchange('2'),
      'messages of 4 MiB': async () => {
        const bytes = content(4 * 2 ** 20, 1);
        const file = place.file('large', bytes);
        const args = [...at, '-t', 'large', '-q', '1', '-C', '5', '-d', '-F', 'payload %x'];
        const child = place.start('stdbuf', ['-oL', 'mosquitto_sub', ...args]);
        await until(child, 'Subscribed');
        for (let n = 0; n < 5; n++) await place.run('mosquitto_pub', [...at, '-t', 'large', '-q', '1', '-f', file]);
        await place.within(60, 'mosquitto_sub of large messages', child.exited());
        const payloads = child.lines.filter((line) => line.startsWith('payload ')).map((line) => line.slice(8));
        assert.deepEqual(
          payloads.map((payload) => sha256(Buffer.from(payload, 'hex'))),
          payloads.map(() => sha256(bytes)),
        );
        assert.equal(payloads.length, 5);
      },
    };
  },
);

export const servers: Suite[] = [
  redis,
  postgresql,
  nginx('nginx', 'nginx', { forms: { accelerated: 'nginx is excluded by name' } }),
  nginx('nginx-renamed', 'web-test', {
    forms: { accelerated: '' },
    stepSeconds: 20,
    known: {
      matches: /PUT|proxied/,
      reason: 'FIONREAD leaves out one of two queues, so nginx waits for an edge that has been; it is excluded by name',
    },
  }),
  haproxy('haproxy', 'haproxy', { forms: { accelerated: 'haproxy is excluded by name' } }),
  haproxy('haproxy-renamed', 'proxy-test', {
    forms: { accelerated: '' },
    stepSeconds: 20,
    known: {
      matches: /^(tcp|http):/,
      reason: 'splice does not see redirected bytes; haproxy is excluded by name',
    },
  }),
  rsync,
  ssh,
  mosquitto,
];
