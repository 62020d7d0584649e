/** sockperf's ping-pong: the time of one way. It blocks in receives, or else spins. */
import { BLOCKING_READERS, numberIn, type Workload } from '../workload.js';

export function sockperf(size: number): Workload {
  return {
    name: 'sockperf',
    size,
    clients: 1,
    detail: 'blockingReaders: true',
    unit: 'µs',
    higherIsBetter: false,
    needs: [{ command: 'sockperf', package: 'sockperf' }],
    unix: false,
    redirects: true,
    policy: BLOCKING_READERS,
    // With its warm-up and what it waits for.
    leastSeconds: 2.8,
    start: async (place) => {
      const { address, port } = place.listen;
      const server = place.server('sockperf', ['server', '--tcp', '-i', address, '-p', String(port)]);
      await place.listening(server);
    },
    run: async (place, _transport, seconds) => {
      const { address, port } = place.connect;
      const where = ['--tcp', '-i', address, '-p', String(port)];
      const load = ['-m', String(size), '-t', String(Math.max(1, Math.round(seconds)))];
      const lines = await place.client('sockperf', ['ping-pong', ...where, ...load]);
      return numberIn(lines, /Summary: Latency is ([\d.]+) usec/);
    },
  };
}
