/** nginx with files of one size, alone or in front of another nginx, asked by wrk (HTTP/1.1) or h2load (HTTP/2). */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

import type { Child } from '../../test/kernel/support/sandbox.js';
import type { Place } from '../place.js';
import { numberIn, type Workload } from '../workload.js';

/** Of each run. */
const CONNECTIONS = 8;

const NGINX = { command: 'nginx', package: 'nginx' };

const COMMON = {
  size: null,
  clients: CONNECTIONS,
  unit: 'requests/s',
  higherIsBetter: true,
  // nginx is left on TCP where FIONREAD does not count both queues: the kernel gate tells.
  leastSeconds: 1,
} as const;

export function nginx(size: number): Workload {
  return {
    ...COMMON,
    name: 'nginx',
    size,
    detail: 'wrk, keep-alive',
    needs: [NGINX, { command: 'wrk', package: 'wrk' }],
    unix: false,
    start: (place) => start(place, size),
    run: wrk,
  };
}

export function nginxProxy(size: number): Workload {
  return {
    ...nginx(size),
    name: 'nginx proxy',
    detail: 'wrk, keep-alive upstream',
    startsAnew: true,
    start: async (place) => {
      const upstream = await place.inner();
      await start(place, size, upstream);
      const proxy = serve(
        place,
        'proxy',
        `
        upstream inner { server 127.0.0.1:${String(upstream)}; keepalive ${String(CONNECTIONS)}; }
        server {
          listen ${place.listen.address}:${String(place.listen.port)};
          location / { proxy_pass http://inner; proxy_http_version 1.1; proxy_set_header Connection ""; }
        }`,
      );
      await place.listening(proxy);
    },
  };
}

export function nginxHttp2(size: number): Workload {
  return {
    ...COMMON,
    name: 'nginx HTTP/2',
    size,
    detail: 'h2load, 10 streams',
    needs: [NGINX, { command: 'h2load', package: 'nghttp2-client' }],
    unix: true,
    start: (place) => start(place, size, undefined, 'http2'),
    run: async (place, transport, seconds) => {
      const uri = place.at(
        transport,
        ({ address, port }) => [`http://${address}:${String(port)}/file`],
        (path) => [`--base-uri=unix:${path}`, 'http://localhost/file'],
      );
      const load = ['-c', String(CONNECTIONS), '-m', '10', '-D', String(Math.max(1, Math.round(seconds)))];
      return numberIn(await place.client('h2load', [...load, ...uri]), /([\d.]+) req\/s/);
    },
  };
}

async function start(place: Place, size: number, port = place.listen.port, http2 = ''): Promise<void> {
  writeFileSync(join(place.directory, 'file'), Buffer.alloc(size, 'x'));
  const inner = port !== place.listen.port;
  const server = serve(
    place,
    'files',
    `
    server {
      listen ${inner ? '127.0.0.1' : place.listen.address}:${String(port)} ${http2};
      ${inner ? '' : `listen unix:${place.unixPath} ${http2};`}
      root ${place.directory};
    }`,
  );
  await place.listening(server, port);
}

function serve(place: Place, name: string, http: string): Child {
  const config = join(place.directory, `${name}.conf`);
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map((kind) => `${kind}_temp_path ${place.directory}/${name}-${kind};`)
    .join(' ');
  writeFileSync(
    config,
    `daemon off; user root; worker_processes 1; pid ${place.directory}/${name}.pid; error_log stderr crit;
    events { worker_connections 512; }
    http { access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000; ${temporary} ${http} }\n`,
  );
  return place.server('nginx', ['-c', config, '-e', 'stderr']);
}

async function wrk(place: Place, _transport: unknown, seconds: number): Promise<number> {
  const { address, port } = place.connect;
  const load = ['-t', '1', '-c', String(CONNECTIONS), '-d', `${String(Math.max(1, Math.round(seconds)))}s`];
  const lines = await place.client('wrk', [...load, `http://${address}:${String(port)}/file`]);
  const failed = lines.find((line) => /Non-2xx|Socket errors/.test(line));
  if (failed !== undefined) throw new Error(`wrk: ${failed.trim()}`);
  return numberIn(lines, /^Requests\/sec: +([\d.]+)/);
}
