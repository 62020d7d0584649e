/** Services of Node.js that ask each other: HTTP/1.1 with keep-alive, or many streams of HTTP/2 on one connection. */
import { join } from 'node:path';

import { ROOT } from '../../test/kernel/support/sandbox.js';
import { numberIn, type Workload } from '../workload.js';

const PROGRAM = join(ROOT, 'bench', 'programs', 'service.js');

/** @param clients connections */
export function nodeHttp(size: number, clients: number): Workload {
  return service('Node.js HTTP', size, clients, 1);
}

/** As gRPC uses it: framed messages and trailers. @param streams at a time, on one connection */
export function nodeHttp2(size: number, streams: number): Workload {
  return { ...service('Node.js HTTP/2', size, 1, streams), detail: `${String(streams)} streams` };
}

function service(name: string, size: number, clients: number, streams: number): Workload {
  const protocol = name.endsWith('/2') ? 'http2' : 'http';
  return {
    name,
    size,
    clients,
    unit: 'requests/s',
    higherIsBetter: true,
    needs: [],
    unix: true,
    // What many streams say at once does not look like requests and answers.
    ...(streams === 1 && { redirects: true }),
    start: async (place) => {
      const { address, port } = place.listen;
      const args = [PROGRAM, 'serve', protocol, String(size)];
      const servers = [place.server(process.execPath, [...args, String(port), address])];
      if (place.onHost) servers.push(place.server(process.execPath, [...args, place.unixPath]));
      for (const server of servers) await server.until(({ lines }) => lines.find((line) => line === 'ready'));
    },
    run: async (place, transport, seconds) => {
      const where = place.at(
        transport,
        ({ address, port }) => [String(port), address],
        (path) => [path],
      );
      const load = [String(seconds), String(clients), String(streams)];
      const args = [PROGRAM, 'ask', protocol, String(size), ...load, ...where];
      return numberIn(await place.client(process.execPath, args), /^([\d.]+) requests\/s/);
    },
  };
}
