/** Short connections, one after the other: connect, one request, one answer, close (bench/programs/connect.c). */
import type { Workload } from '../workload.js';

export function connect(): Workload {
  return {
    name: 'connect',
    size: 64,
    clients: 1,
    unit: 'connections/s',
    higherIsBetter: true,
    needs: [],
    unix: true,
    redirects: false,
    start: async (place) => {
      const { address, port } = place.listen;
      const tcp = place.server(place.program('connect'), ['--server', '--address', address, '--port', String(port)]);
      const unix = place.server(place.program('connect'), ['--server', '--unix', place.unixPath]);
      await place.listening(tcp);
      await place.listening(unix, place.unixPath);
    },
    run: async (place, transport, seconds) => {
      const where = place.at(
        transport,
        ({ address, port }) => ['--address', address, '--port', String(port)],
        (path) => ['--unix', path],
      );
      const lines = await place.client(place.program('connect'), ['--client', '--seconds', String(seconds), ...where]);
      const result = JSON.parse(lines.at(-1) ?? '{}') as { connections: number; seconds: number };
      return result.connections / result.seconds;
    },
  };
}
