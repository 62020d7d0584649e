/** The HTTP surface. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { Agent, request as httpsRequest } from 'node:https';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect as connectTls, type ConnectionOptions } from 'node:tls';

import { hashSync } from 'bcryptjs';
import { type Logger, pino } from 'pino';

import { HttpServer, type HttpSources } from '../../controller/daemon/http.js';
import { formatListenAddress, parseListenAddress } from '../../controller/daemon/listen-address.js';
import { WebConfigFile } from '../../controller/daemon/web-config.js';
import { EXIT, UserError } from '../../controller/errors.js';
import { CONTENT_TYPES } from '../../controller/metrics/metrics.js';

describe('http', () => {
  describe('addresses', () => {
    const cases: [string, string, number][] = [
      ['127.0.0.1:9468', '127.0.0.1', 9468],
      ['[::1]:0', '::1', 0],
      ['[::ffff:127.0.0.1]:65535', '::ffff:127.0.0.1', 65535],
      [':80', '', 80],
      ['localhost:80', 'localhost', 80],
    ];
    for (const [text, host, port] of cases) {
      it(`${text} is understood and printed alike`, () => {
        assert.deepEqual(parseListenAddress(text), { host, port });
        assert.equal(formatListenAddress({ host, port }), text);
      });
    }

    const wrong = [
      '',
      ':',
      '80',
      'a',
      'a:',
      '::1:80',
      '[::1]',
      '[::1]80',
      '[a b]:1',
      'a b:1',
      'a:65536',
      'a:123456',
      'a:-1',
      'a:1x',
      'a:1:1',
      ' a:1',
      '[]:1',
      '[::1%eth0]:1',
    ];
    for (const text of wrong) {
      it(`${JSON.stringify(text)} is refused`, () => {
        assert.throws(
          () => parseListenAddress(text),
          (error) =>
            error instanceof UserError &&
            error.exitCode === EXIT.usage &&
            error.message.startsWith(`--metrics ${text}: `),
        );
      });
    }
  });

  const log = pino({ level: 'silent' });

  describe('the server', () => {
    let server: HttpServer;
    let sources: HttpSources;

    beforeEach(async () => {
      sources = { metrics: undefined, api: undefined, notReady: () => 'the datapath is not attached yet' };
      server = await HttpServer.listen({ host: '127.0.0.1', port: 0 }, sources, { log });
    });

    afterEach(() => server.close());

    const request = (path: string, init?: RequestInit): Promise<Response> =>
      fetch(`http://${formatListenAddress(server.address)}${path}`, init);

    async function answers(path: string, status: number, body: string, init?: RequestInit): Promise<Response> {
      const response = await request(path, init);
      assert.deepEqual([response.status, await response.text()], [status, body]);
      assert.equal(response.headers.get('x-content-type-options'), 'nosniff');
      return response;
    }

    it('is alive at once', () => answers('/healthz', 200, 'ok\n'));

    it('is not ready before the datapath is attached', () =>
      answers('/readyz', 503, 'the datapath is not attached yet\n'));

    it('has no metrics before the datapath is attached', () =>
      answers('/metrics', 503, 'the datapath is not attached yet\n'));

    it('is ready when told so, and while it ends no more', async () => {
      sources.notReady = () => undefined;
      await answers('/readyz', 200, 'ok\n');
      sources.notReady = () => 'shutting down';
      await answers('/readyz', 503, 'shutting down\n');
    });

    const OPEN_METRICS = 'application/openmetrics-text';
    const wishes: [wish: string | undefined, format: keyof typeof CONTENT_TYPES][] = [
      [undefined, 'text'],
      ['', 'text'],
      ['*/*', 'text'],
      ['application/json', 'text'],
      ['nonsense;;;q=x', 'text'],
      ['text/html,application/xhtml+xml,*/*;q=0.8', 'text'],
      [OPEN_METRICS, 'openMetrics'],
      [`${OPEN_METRICS};version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.6`, 'text'],
      [`text/plain;q=0.1,${OPEN_METRICS};q=0.2`, 'openMetrics'],
      [`${OPEN_METRICS};q=0,*/*`, 'text'],
      [`${OPEN_METRICS};version=0.0.1,text/plain;version=0.0.4;q=0.5`, 'text'],
      // Prometheus 2.42 and 3
      [
        `${OPEN_METRICS};version=1.0.0,${OPEN_METRICS};version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1`,
        'openMetrics',
      ],
      [
        `${OPEN_METRICS};version=1.0.0;escaping=allow-utf-8;q=0.6,${OPEN_METRICS};version=1.0.0;q=0.5,text/plain;version=1.0.0;q=0.3,*/*;q=0.1`,
        'openMetrics',
      ],
    ];
    for (const [wish, format] of wishes) {
      it(`serves the metrics as ${format} to who accepts ${JSON.stringify(wish)}`, async () => {
        sources.metrics = (as) => Promise.resolve(`${as}\n`);
        // fetch would add a wish of its own.
        const header = wish === undefined ? '' : `Accept: ${wish}\r\n`;
        const reply = await raw(`GET /metrics?x=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n${header}\r\n`);
        assert.match(reply, /^HTTP\/1\.1 200 /);
        assert.ok(reply.includes(`\r\nContent-Type: ${CONTENT_TYPES[format]}\r\n`), reply);
        assert.ok(reply.endsWith(`\r\n\r\n${format}\n`), reply);
        assert.match(reply, /\r\nVary: Accept\r\n/);
      });
    }

    it('says what failed', async () => {
      sources.metrics = () => Promise.reject(new Error('no memory'));
      await answers('/metrics', 500, 'no memory\n');
      await answers('/healthz', 200, 'ok\n');
    });

    for (const path of [
      '/index.html',
      '/metrics/',
      '/app.js/',
      '/tsconfig.json',
      '/api',
      '/api/pairs/1',
      '/Metrics',
      '/favicon.ico',
      '/..%2fetc/passwd',
    ]) {
      it(`has no ${path}`, async () => {
        const response = await request(path);
        assert.equal(response.status, 404);
        assert.match(await response.text(), /^there are \/, \/metrics, .*\n$/);
      });
    }

    for (const method of ['POST', 'PUT', 'DELETE', 'OPTIONS']) {
      it(`does not ${method}`, async () => {
        const response = await answers('/metrics', 405, 'only GET and HEAD are answered here\n', { method });
        assert.equal(response.headers.get('allow'), 'GET, HEAD');
      });
    }

    it('answers HEAD without a body', () => answers('/healthz', 200, '', { method: 'HEAD' }));

    /** Sends text and reads until the server closes. */
    async function raw(text: string): Promise<string> {
      const socket = connect(server.address.port, '127.0.0.1');
      socket.on('error', () => undefined);
      socket.write(text);
      let reply = '';
      socket.setEncoding('utf8').on('data', (part: string) => (reply += part));
      await once(socket, 'close');
      return reply;
    }

    it('outlives requests that are none', async () => {
      assert.match(await raw('NONSENSE\r\n\r\n'), /^HTTP\/1\.1 400 /);
      await answers('/healthz', 200, 'ok\n');
    });

    it('bounds request lines and headers', async () => {
      const host = 'Host: localhost\r\n';
      assert.match(await raw(`GET /${'a'.repeat(9000)} HTTP/1.1\r\n${host}\r\n`), /^HTTP\/1\.1 431 /);
      assert.match(await raw(`GET / HTTP/1.1\r\n${host}X: ${'a'.repeat(9000)}\r\n\r\n`), /^HTTP\/1\.1 431 /);
    });

    it('does not wait long for a client that is slow to ask', async function () {
      this.timeout(20_000);
      assert.match(await raw('GET / HTTP/1.1\r\n'), /^HTTP\/1\.1 408 /);
    });

    it('tells browsers to take nothing from elsewhere, and to put the page into no other', async () => {
      for (const path of ['/', '/healthz', '/none']) {
        const { headers } = await request(path);
        const policy = headers.get('content-security-policy') ?? '';
        for (const part of ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"])
          assert.ok(policy.includes(part), policy);
        assert.doesNotMatch(policy, /unsafe|\*|http/);
        assert.equal(headers.get('x-frame-options'), 'DENY');
        assert.equal(headers.get('referrer-policy'), 'no-referrer');
        assert.equal(headers.get('cross-origin-resource-policy'), 'same-origin');
      }
    });

    it('serves every file that the page asks for', async () => {
      const page = await (await request('/')).text();
      const found = [...page.matchAll(/(?:src|href)="([^"#]+)"/g)].map(([, path = '']) => path);
      assert.ok(found.includes('app.js') && found.includes('style.css'));
      for (const path of ['charts.js', 'uplot.js', 'reasons.js', ...found.filter((name) => name.includes('.'))]) {
        const response = await request(`/${path}`);
        assert.equal(response.status, 200, path);
        assert.match(response.headers.get('content-type') ?? '', /^(text\/(css|javascript)|image\/svg\+xml)/, path);
      }
      assert.doesNotMatch(page, /https?:\/\/|style="|<script>/);
    });

    it('has no /api before the datapath is attached', async () => {
      for (const path of ['/api/status', '/api/pairs']) await answers(path, 503, 'the datapath is not attached yet\n');
    });

    it('answers /api as JSON, says what is left out, and refuses what it does not understand', async () => {
      let asked: unknown;
      sources.api = {
        status: () => ({ version: '1' }) as never,
        pairs: (query) => {
          asked = query;
          return Promise.resolve({ pairs: [], more: query.limit === 1 });
        },
      };
      const response = await answers('/api/status', 200, '{"version":"1"}\n');
      assert.equal(response.headers.get('content-type'), 'application/json; charset=utf-8');
      assert.equal((await answers('/api/pairs', 200, '[]\n')).headers.get('x-truncated'), null);
      const few = await answers(
        '/api/pairs?limit=1&sort=rate&state=inserted&port=80&cgroup=/a&program=x&reason=policy',
        200,
        '[]\n',
      );
      assert.equal(few.headers.get('x-truncated'), 'true');
      assert.deepEqual(asked, {
        state: 'inserted',
        reason: 'policy',
        program: 'x',
        cgroup: '/a',
        port: 80,
        sort: 'rate',
        limit: 1,
      });
      for (const [query, message] of [
        ['limits=1', "unknown parameter 'limits': did you mean 'limit'?"],
        ['limit=0', "limit '0': give a whole number from 1 to 10000"],
        ['limit=1e3', "limit '1e3': give a whole number from 1 to 10000"],
        ['port=x', "port 'x': give a whole number from 1 to 65535"],
        [
          'state=free',
          "unknown state 'free': write half, joining, observed, candidate, approved, inserted, draining, leaving or closed",
        ],
        ['sort=age', "unknown sort 'age': write table or rate"],
        ['state=half&state=closed', 'state is given more than once: give it once'],
        ['program=', 'program is empty: fill it or leave it out'],
      ] as const) {
        await answers(`/api/pairs?${query}`, 400, `${message}\n`);
      }
      assert.equal((await request('/api/pairs?cgroup=web')).status, 400);
    });

    it('does not answer to names that anybody can point here', async () => {
      const ask = (host: string): Promise<string> =>
        raw(`GET /healthz HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`);
      for (const host of ['127.0.0.1', 'localhost:9468', '[::1]:80', 'a.localhost', '10.0.0.1']) {
        assert.match(await ask(host), /^HTTP\/1\.1 200 /, host);
      }
      for (const host of ['evil.example', 'localhost.evil.example:80', 'x'])
        assert.match(await ask(host), /^HTTP\/1\.1 421 /, host);
    });

    it('ends although a client is connected', async () => {
      const socket = connect(server.address.port, '127.0.0.1');
      socket.on('error', () => undefined);
      await once(socket, 'connect');
      const closed = once(socket, 'close');
      socket.resume();
      await server.close();
      await closed;
    });

    it('says that the port is in use', () =>
      assert.rejects(
        HttpServer.listen(server.address, sources, { log }),
        /^UserError: metrics address 127\.0\.0\.1:\d+ is in use: choose another with --metrics$/,
      ));

    it('says that the address is elsewhere', () =>
      assert.rejects(
        HttpServer.listen({ host: '192.0.2.1', port: 0 }, sources, { log }),
        /^UserError: metrics address 192\.0\.2\.1:0 is not one of this host's: choose another with --metrics$/,
      ));
  });

  describe('with a web configuration', () => {
    let dir: string;
    let lines: { level: number; msg: string }[];
    let logged: Logger;
    let server: HttpServer | undefined;
    const sources: HttpSources = { metrics: undefined, api: undefined, notReady: () => undefined };

    before(() => {
      dir = mkdtempSync(join(tmpdir(), 'slipstream-http-'));
      for (const name of ['server', 'next', 'client']) {
        const key = [
          '-newkey',
          'ec',
          '-pkeyopt',
          'ec_paramgen_curve:prime256v1',
          '-nodes',
          '-keyout',
          path(`${name}.key`),
        ];
        execFileSync(
          'openssl',
          ['req', '-x509', ...key, '-days', '2', '-subj', `/CN=${name}`, '-out', path(`${name}.crt`)],
          {
            stdio: 'ignore',
          },
        );
      }
    });

    after(() => {
      rmSync(dir, { recursive: true });
    });

    beforeEach(() => {
      lines = [];
      logged = pino({}, { write: (line: string) => lines.push(JSON.parse(line) as { level: number; msg: string }) });
      for (const part of ['crt', 'key']) writeFileSync(path(`used.${part}`), readFileSync(path(`server.${part}`)));
    });

    afterEach(async () => {
      await server?.close();
      server = undefined;
    });

    const path = (name: string): string => join(dir, name);
    const tls = (more = ''): string => `tls_server_config:\n  cert_file: used.crt\n  key_file: used.key\n${more}`;

    async function listen(yaml: string, host = '127.0.0.1'): Promise<HttpServer> {
      writeFileSync(path('web.yaml'), yaml);
      const webConfig = new WebConfigFile(path('web.yaml'));
      return (server = await HttpServer.listen({ host, port: 0 }, sources, { webConfig, log: logged }));
    }

    /** Status of /healthz over TLS. */
    function ask(options: ConnectionOptions & { auth?: string } = {}): Promise<number> {
      const { port } = server!.address;
      return new Promise((resolve, reject) => {
        httpsRequest(
          {
            port,
            host: '127.0.0.1',
            path: '/healthz',
            rejectUnauthorized: false,
            ...options,
            agent: new Agent({ maxCachedSessions: 0 }),
          },
          (response) => {
            response.resume().on('end', () => {
              resolve(response.statusCode ?? 0);
            });
          },
        )
          .on('error', reject)
          .end();
      });
    }

    /** Common name of the certificate that the server shows. */
    async function shown(): Promise<string> {
      const socket = connectTls({ port: server!.address.port, host: '127.0.0.1', rejectUnauthorized: false });
      await once(socket, 'secureConnect');
      const { subject } = socket.getPeerCertificate();
      socket.destroy();
      return String(subject.CN);
    }

    it('speaks TLS only, and no version that is too old', async () => {
      assert.match((await listen(tls('  min_version: TLS13\n'))).origin, /^https:\/\/127\.0\.0\.1:\d+$/);
      assert.equal(await ask(), 200);
      await assert.rejects(ask({ maxVersion: 'TLSv1.2' }), /protocol version/i);
      await assert.rejects(fetch(`http://127.0.0.1:${server!.address.port}/healthz`));
    });

    it('takes up a new certificate, and keeps the old one while the new one is not complete', async () => {
      await listen(tls());
      assert.equal(await shown(), 'server');
      writeFileSync(path('used.crt'), readFileSync(path('next.crt')));
      assert.equal(await shown(), 'server');
      assert.deepEqual(
        lines.map(({ level }) => level),
        [50],
      );
      assert.match(lines[0]?.msg ?? '', /^the old web configuration stays in force: .*web\.yaml:3:13: key_file/);
      writeFileSync(path('used.key'), readFileSync(path('next.key')));
      assert.equal(await shown(), 'next');
      assert.equal(lines.at(-1)?.msg, 'web configuration reloaded');
    });

    const own = (name: string): ConnectionOptions => ({
      cert: readFileSync(path(`${name}.crt`)),
      key: readFileSync(path(`${name}.key`)),
    });
    const ca = '  client_ca_file: client.crt\n';
    for (const [type, more, none, unknown, known] of [
      ['NoClientCert', '', 200, 200, 200],
      ['RequestClientCert', '', 200, 200, 200],
      ['RequireAnyClientCert', '', 0, 200, 200],
      ['VerifyClientCertIfGiven', ca, 200, 0, 200],
      ['RequireAndVerifyClientCert', ca, 0, 0, 200],
    ] as const) {
      it(`${type}: without a certificate ${none}, with a strange one ${unknown}, with a known one ${known}`, async () => {
        await listen(tls(`  client_auth_type: ${type}\n${more}`));
        const status = (options: ConnectionOptions): Promise<number> => ask(options).catch(() => 0);
        assert.equal(await status({}), none);
        assert.equal(await status(own('next')), unknown);
        assert.equal(await status(own('client')), known);
      });
    }

    it('asks for a password everywhere but for probes, and says nothing else without one', async () => {
      await listen(`basic_auth_users: { me: ${hashSync('right', 4)} }\n`);
      const get = (auth: string | undefined, to = '/metrics'): Promise<Response> =>
        fetch(`${server!.origin}${to}`, {
          headers: auth === undefined ? {} : { Authorization: `Basic ${Buffer.from(auth).toString('base64')}` },
        });
      const around = ['/healthz?x', '/healthz/', '//healthz', '/%68ealthz', '/readyz/x'];
      for (const to of ['/', '/metrics', '/api/status', '/api/pairs', '/none', ...around]) {
        const response = await get(undefined, to);
        assert.equal(response.status, 401, to);
        assert.equal(response.headers.get('www-authenticate'), 'Basic realm="slipstream-bpf", charset="UTF-8"');
        assert.equal(await response.text(), 'a user name and a password are needed\n');
      }
      for (const to of ['/healthz', '/readyz']) {
        for (const auth of [undefined, 'me:wrong']) {
          const response = await get(auth, to);
          assert.deepEqual([response.status, await response.text()], [200, 'ok\n'], to);
        }
        assert.equal((await fetch(`${server!.origin}${to}`, { method: 'POST' })).status, 405);
      }
      for (const auth of ['me:wrong', 'you:right', 'me:', ':']) assert.equal((await get(auth)).status, 401, auth);
      assert.equal((await get('me:right')).status, 503, 'not attached');
      writeFileSync(path('web.yaml'), `basic_auth_users: { you: ${hashSync('right', 4)} }\n`);
      // A new connection has the file looked at; what it says holds for all.
      const again = await fetch(`${server!.origin}/metrics`, {
        headers: { Authorization: `Basic ${Buffer.from('you:right').toString('base64')}`, Connection: 'close' },
      });
      const last = await get('me:right');
      assert.deepEqual([again.status, last.status].sort(), [401, 503]);
    });

    it('sets the headers of the file', async () => {
      await listen(
        'http_server_config: { headers: { X-Frame-Options: SAMEORIGIN, Strict-Transport-Security: max-age=1 } }\n',
      );
      const { headers } = await fetch(`${server!.origin}/healthz`);
      assert.equal(headers.get('x-frame-options'), 'SAMEORIGIN');
      assert.equal(headers.get('strict-transport-security'), 'max-age=1');
    });

    for (const [yaml, host, warning] of [
      ['', '127.0.0.1', undefined],
      ['', '127.9.9.9', undefined],
      ['', '0.0.0.0', 'without TLS and a password'],
      ['', '::', 'without TLS and a password'],
      [tls(), '0.0.0.0', 'without a password'],
      [`basic_auth_users: { me: ${hashSync('x', 4)} }\n`, '0.0.0.0', 'without TLS'],
      [tls(`basic_auth_users: { me: ${hashSync('x', 4)} }\n`), '0.0.0.0', undefined],
      [tls(`  client_auth_type: RequireAndVerifyClientCert\n${ca}`), '0.0.0.0', undefined],
    ] as const) {
      it(`${warning === undefined ? 'does not warn' : `warns of an address ${warning}`}: ${host}, ${yaml === '' ? 'nothing' : yaml.slice(0, 16)}`, async () => {
        await listen(yaml, host);
        const warnings = lines.filter(({ level }) => level === 40);
        assert.equal(warnings.length, warning === undefined ? 0 : 1, JSON.stringify(lines));
        if (warning !== undefined) assert.ok(warnings[0]?.msg.includes(`can be reached from other hosts ${warning}: `));
      });
    }
  });
});
