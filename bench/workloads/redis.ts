/** redis-server and redis-benchmark. */
import { numberIn, type Workload } from '../workload.js';

export function redis(clients: number, pipeline = 1): Workload {
  // Requests are fixed in advance: from a guess of the rate to about the wanted time.
  const guess = pipeline > 1 ? 200_000 : clients > 1 ? 40_000 : 15_000;
  return {
    name: 'redis GET',
    size: 3,
    clients,
    ...(pipeline > 1 && { detail: `pipeline ${String(pipeline)}` }),
    unit: 'requests/s',
    higherIsBetter: true,
    needs: [
      { command: 'redis-server', package: 'redis-server' },
      { command: 'redis-benchmark', package: 'redis-tools' },
    ],
    unix: true,
    redirects: true,
    start: async (place) => {
      const { address, port } = place.listen;
      const server = place.server('redis-server', [
        ...['--bind', address, '--port', String(port), '--protected-mode', 'no'],
        ...(place.onHost ? ['--unixsocket', place.unixPath] : []),
        ...['--save', '', '--appendonly', 'no', '--dir', place.directory],
      ]);
      await server.until(({ lines }) => lines.find((line) => /Ready to accept|now ready/.test(line)));
    },
    run: async (place, transport, seconds) => {
      const where = place.at(
        transport,
        ({ address, port }) => ['-h', address, '-p', String(port)],
        (path) => ['-s', path],
      );
      const load = ['-c', String(clients), '-P', String(pipeline), '-n', String(Math.ceil(guess * seconds))];
      return numberIn(
        await place.client('redis-benchmark', [...where, ...load, '-t', 'get', '--csv']),
        /^"GET","([\d.]+)"/,
      );
    },
  };
}
