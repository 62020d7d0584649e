/**
 * A service and who asks it.
 *
 *   service.js serve http|http2 SIZE PORT|PATH [ADDRESS]
 *   service.js ask http|http2 SIZE SECONDS CONNECTIONS STREAMS PORT|PATH [ADDRESS]
 *
 * HTTP/1.1: POST of SIZE bytes, as many come back. HTTP/2 as gRPC uses it: five bytes of framing before the message,
 * the status in trailers.
 */
import { Buffer } from 'node:buffer';
import http from 'node:http';
import http2 from 'node:http2';
import net from 'node:net';
import { performance } from 'node:perf_hooks';

const [role, protocol, size, ...rest] = process.argv.slice(2);
const body = Buffer.alloc(Number(size) + (protocol === 'http2' ? 5 : 0), 'x');
/** Seconds until the code is compiled. */
const WARM_UP = 0.3;
const TYPE = { 'content-type': protocol === 'http2' ? 'application/grpc' : 'application/json' };

function where([place, address]) {
  return address === undefined ? { path: place } : { port: Number(place), host: address };
}

function received(message) {
  return new Promise((resolve, reject) => {
    message.on('error', reject).on('end', resolve).resume();
  });
}

function serve() {
  const server =
    protocol === 'http'
      ? http.createServer({ keepAliveTimeout: 60_000 }, async (request, response) => {
          await received(request);
          response.writeHead(200, { ...TYPE, 'content-length': body.length }).end(body);
        })
      : http2.createServer().on('stream', (stream) => {
          stream.on('error', () => undefined);
          void received(stream).then(() => {
            stream.respond({ ':status': 200, ...TYPE }, { waitForTrailers: true });
            stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
            stream.end(body);
          });
        });
  server.listen(where(rest), () => console.log('ready'));
}

function askHttp(agent, at) {
  return new Promise((resolve, reject) => {
    const headers = { ...TYPE, 'content-length': body.length };
    const { path: socketPath, ...address } = at;
    http
      .request({ ...address, socketPath, agent, method: 'POST', path: '/call', headers }, (response) => {
        received(response).then(resolve, reject);
      })
      .on('error', reject)
      .end(body);
  });
}

async function askHttp2(session) {
  const stream = session.request({ ':method': 'POST', ':path': '/service/Call', te: 'trailers', ...TYPE });
  stream.end(body);
  await received(stream);
}

async function ask() {
  const [seconds, connections, streams] = rest.slice(0, 3).map(Number);
  const at = where(rest.slice(3));
  const agent = new http.Agent({ keepAlive: true, maxSockets: connections });
  const session =
    protocol === 'http2' ? http2.connect('http://service', { createConnection: () => net.connect(at) }) : undefined;
  const once = () => (session === undefined ? askHttp(agent, at) : askHttp2(session));
  const during = async (limit) => {
    let done = 0;
    const start = performance.now();
    const elapsed = () => (performance.now() - start) / 1000;
    const worker = async () => {
      for (; elapsed() < limit; done++) await once();
    };
    await Promise.all(Array.from({ length: connections * streams }, worker));
    return done / elapsed();
  };
  await during(WARM_UP);
  console.log(`${await during(seconds)} requests/s`);
  agent.destroy();
  session?.destroy();
}

if (role === 'serve') serve();
else await ask();
