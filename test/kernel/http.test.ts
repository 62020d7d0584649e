/** The HTTP surface of a real daemon: TLS, users, /api and what Prometheus and curl make of it. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { hashSync } from 'bcryptjs';

import type { ApiPair, ApiStatus } from '../../controller/daemon/api.js';
import { MEANING } from '../../controller/probe/findings.js';
import type { PairRow } from '../../controller/view/pairs.js';
import { Daemon, run } from './support/daemon.js';
import { Connection } from './support/endpoint.js';
import { needsRoot, Sandbox } from './support/sandbox.js';

describe('HTTP', function () {
  this.timeout(60_000);
  let sandbox: Sandbox;

  before(function () {
    needsRoot(this);
  });

  beforeEach(() => {
    sandbox = new Sandbox('http');
  });

  afterEach(() => sandbox.dispose());

  it('metrics of live pairs pass promtool, and tell who asks for OpenMetrics which pair was promoted', async () => {
    const daemon = await Daemon.start(sandbox);
    const c = await Connection.open(sandbox);
    while ((await daemon.metric('slipstream_redirected_messages_total')) === 0) await c.pingPong(20, 64);
    const { body } = await daemon.get('/metrics');
    const check = spawnSync('promtool', ['check', 'metrics'], { input: body, encoding: 'utf8' });
    assert.deepEqual([check.status, check.stderr], [0, '']);
    const age = Date.now() / 1000 - (await daemon.metric('slipstream_last_sweep_timestamp_seconds'));
    assert.ok(age < 30, `the last sweep was ${age} s ago`);
    const response = await fetch(daemon.metricsUrl, { headers: { Accept: 'application/openmetrics-text' } });
    assert.match(response.headers.get('content-type') ?? '', /^application\/openmetrics-text; version=1\.0\.0/);
    const [row] = JSON.parse((await daemon.get('/api/pairs')).body) as ApiPair[];
    assert.ok((await response.text()).includes(` # {pair="${row?.id}"} `), 'the exemplar is the pair');
  });

  it('/api says what the command line says, and finds pairs', async () => {
    const daemon = await Daemon.start(sandbox);
    const first = await Connection.open(sandbox);
    const second = await Connection.open(sandbox, { blocking: true });
    await first.pingPong(5, 100);
    await second.pingPong(5, 100);
    const api = async (query = ''): Promise<ApiPair[]> =>
      JSON.parse((await daemon.get(`/api/pairs${query}`)).body) as ApiPair[];
    const listed = JSON.parse(
      (await run(sandbox, ['pairs', '--json', '--pin-dir', sandbox.pinDir])).stdout,
    ) as PairRow[];
    const unnamed = ({ name, ...end }: PairRow['client'] & { name?: string | null }): object => {
      assert.ok(name === undefined || name === end.cgroup, 'this cgroup has no other name');
      return end;
    };
    const strip = (rows: (PairRow & { rate?: unknown })[]): object[] =>
      rows.map(({ ageSeconds, rate, client, server, ...row }) => ({
        ...row,
        client: unnamed(client),
        server: unnamed(server),
        hasAge: ageSeconds > 0 && rate !== 1,
      }));
    assert.equal(listed.length, 2);
    assert.deepEqual(strip(await api()), strip(listed));
    assert.deepEqual(
      (await api(`?port=${first.port}`)).map(({ server }) => server.port),
      [first.port],
    );
    assert.equal((await api(`?cgroup=${encodeURIComponent(sandbox.cgroupPath)}&program=endpoint`)).length, 2);
    assert.equal((await api('?program=other')).length, 0);
    assert.equal((await api('?state=inserted')).length, 0);
    assert.equal((await api('?limit=1')).length, 1);
    assert.equal((await daemon.get('/api/pairs?limit=x')).status, 400);
    const status = JSON.parse((await daemon.get('/api/status')).body) as ApiStatus;
    assert.equal(status.datapath?.pairs.observed, 2);
    assert.equal(status.datapath.controllerRunning, true);
    assert.equal(status.policy?.file, '(default)');
    assert.equal(status.kernel.findings.length, Object.keys(MEANING).length);
  });

  it('--web-config: TLS and users, for curl and for promtool, which reads the same file', async () => {
    const file = join(sandbox.dir, 'web.yaml');
    const path = (name: string): string => join(sandbox.dir, name);
    execFileSync(
      'openssl',
      [
        ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'],
        ...['-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1'],
        ...['-keyout', path('server.key'), '-out', path('server.crt')],
      ],
      { stdio: 'ignore' },
    );
    writeFileSync(
      file,
      `tls_server_config: { cert_file: server.crt, key_file: server.key }\nbasic_auth_users: { me: ${hashSync('right', 4)} }\n`,
    );
    const check = spawnSync('promtool', ['check', 'web-config', file], { encoding: 'utf8' });
    assert.equal(check.status, 0, check.stderr);
    const daemon = await Daemon.start(sandbox, ['--web-config', file]);
    assert.match(daemon.metricsUrl, /^https:/);
    const curl = async (...args: string[]): Promise<string> => {
      const child = sandbox.spawn(process.execPath, ['-e', CURL, daemon.metricsUrl, ...args], {
        cgroup: null,
        env: { NODE_EXTRA_CA_CERTS: path('server.crt') },
      });
      assert.equal(await child.exited(), 0, child.stderr);
      return child.lines.join('\n');
    };
    assert.match(await curl(), /^401 /);
    assert.match(await curl('me:wrong'), /^401 /);
    assert.match(await curl('me:right'), /^200 .*slipstream_build_info/s);
  });

  for (const [what, content, message] of [
    ['is invalid', 'basic_auth_users:\n  me: secret\n', /web\.yaml:2:7: the password is not a bcrypt hash/],
    [
      'has a key that is not supported',
      'tls_server_config:\n  cert_file: a\n  key_file: b\n  cipher_suites: []\n',
      /web\.yaml:4:3: cipher_suites is not supported/,
    ],
  ] as const) {
    it(`up with a web configuration that ${what} ends with one sentence and exit code 2, and leaves nothing`, async () => {
      const file = join(sandbox.dir, 'web.yaml');
      writeFileSync(file, content);
      const result = await run(sandbox, [
        'up',
        '--cgroup',
        sandbox.cgroup,
        '--pin-dir',
        sandbox.pinDir,
        '--metrics',
        '127.0.0.1:0',
        '--web-config',
        file,
      ]);
      assert.equal(result.code, 2);
      assert.match(result.stderr, message);
      assert.equal(result.stderr.trim().split('\n').length, 1);
      const { stdout } = await run(sandbox, ['status', '--json', '--pin-dir', sandbox.pinDir]);
      assert.equal((JSON.parse(stdout) as { loaded: boolean }).loaded, false);
    });
  }

  it('an address that others reach is logged as a warning', async () => {
    const daemon = await Daemon.start(sandbox, ['--metrics', '0.0.0.0:0']);
    assert.match(
      daemon.child.stderr,
      /"level":40,.*can be reached from other hosts without TLS and a password: give --web-config/,
    );
  });

  it('churn leaves a few lines and a sum, not one for each pair', async () => {
    const daemon = await Daemon.start(sandbox, ['--log-level', 'debug']);
    const connections = 30;
    for (let n = 0; n < connections; n++) {
      const c = await Connection.open(sandbox, { blocking: true });
      while ((await daemon.metric('slipstream_refusals_total', 'reason="blocking"')) <= n) await c.pingPong(20, 64);
      await c.close();
    }
    assert.equal(await daemon.stop(), 0);
    const lines = daemon.child.stderr
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { msg: string; refusals?: object });
    const refused = lines.filter(({ msg }) => msg === 'refused').length;
    assert.ok(refused > 0 && refused <= 20, `${refused} lines`);
    const [activity, more] = lines.filter(({ msg }) => msg === 'activity');
    assert.deepEqual([activity?.refusals, more], [{ blocking: connections }, undefined]);
  });
});

/** What curl would do, by the certificate authority that the environment names: URL [USER:PASSWORD]. */
const CURL = `
const [url, auth] = process.argv.slice(1);
const headers = auth === undefined ? {} : { Authorization: 'Basic ' + Buffer.from(auth).toString('base64') };
fetch(url, { headers }).then(async (response) => { console.log(response.status, await response.text()); });
`;
