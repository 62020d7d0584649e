/** The HTTP surface. */
import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { once } from 'node:events';

import { formatListenAddress, HttpServer, type HttpSources, parseListenAddress } from '../../controller/daemon/http.js';
import { EXIT, UserError } from '../../controller/errors.js';

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

  describe('the server', () => {
    let server: HttpServer;
    let sources: HttpSources;

    beforeEach(async () => {
      sources = { metrics: undefined, notReady: () => 'the datapath is not attached yet' };
      server = await HttpServer.listen({ host: '127.0.0.1', port: 0 }, sources);
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

    it('serves the metrics in their own type', async () => {
      sources.metrics = () => Promise.resolve({ body: 'a 1\n', contentType: 'text/plain; version=0.0.4' });
      const response = await answers('/metrics?x=1', 200, 'a 1\n');
      assert.equal(response.headers.get('content-type'), 'text/plain; version=0.0.4');
    });

    it('says what failed', async () => {
      sources.metrics = () => Promise.reject(new Error('no memory'));
      await answers('/metrics', 500, 'no memory\n');
      await answers('/healthz', 200, 'ok\n');
    });

    for (const path of ['/', '/metrics/', '/Metrics', '/favicon.ico', '/..%2fetc/passwd']) {
      it(`has no ${path}`, async () => {
        const response = await request(path);
        assert.equal(response.status, 404);
        assert.match(await response.text(), /^there are \/metrics, .*\n$/);
      });
    }

    for (const method of ['POST', 'PUT', 'DELETE', 'OPTIONS']) {
      it(`does not ${method}`, async () => {
        const response = await answers('/metrics', 405, 'only GET and HEAD are answered here\n', { method });
        assert.equal(response.headers.get('allow'), 'GET, HEAD');
      });
    }

    it('answers HEAD without a body', () => answers('/healthz', 200, '', { method: 'HEAD' }));

    it('outlives requests that are none', async () => {
      const { port } = server.address;
      const socket = connect(port, '127.0.0.1');
      socket.on('error', () => undefined);
      socket.end('NONSENSE\r\n\r\n');
      let reply = '';
      socket.setEncoding('utf8').on('data', (text: string) => (reply += text));
      await once(socket, 'close');
      assert.match(reply, /^HTTP\/1\.1 400 /);
      await answers('/healthz', 200, 'ok\n');
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
        HttpServer.listen(server.address, sources),
        /^UserError: metrics address 127\.0\.0\.1:\d+ is in use: choose another with --metrics$/,
      ));

    it('says that the address is elsewhere', () =>
      assert.rejects(
        HttpServer.listen({ host: '192.0.2.1', port: 0 }, sources),
        /^UserError: metrics address 192\.0\.2\.1:0 is not one of this host's: choose another with --metrics$/,
      ));
  });
});
