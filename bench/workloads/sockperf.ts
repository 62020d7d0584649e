/** sockperf's ping-pong: the time of one way, with sockets that do not block. */
import { numberIn, type Workload } from '../workload.js';

export function sockperf(size: number): Workload {
  return {
    name: 'sockperf',
    size,
    clients: 1,
    unit: 'µs',
    higherIsBetter: false,
    needs: [{ command: 'sockperf', package: 'sockperf' }],
    unix: false,
    redirects: true,
    leastSeconds: 1,
    start: async (place) => {
      const { address, port } = place.listen;
      const server = place.server('sockperf', ['server', '--tcp', '--nonblocked', '-i', address, '-p', String(port)]);
      await place.listening(server);
    },
    run: async (place, _transport, seconds) => {
      const { address, port } = place.connect;
      const where = ['--tcp', '--nonblocked', '-i', address, '-p', String(port)];
      const load = ['-m', String(size), '-t', String(Math.max(1, Math.round(seconds)))];
      const lines = await place.client('sockperf', ['ping-pong', ...where, ...load]);
      return numberIn(lines, /Summary: Latency is ([\d.]+) usec/);
    },
  };
}
