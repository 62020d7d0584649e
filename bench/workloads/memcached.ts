/** memcached and libmemcached's memcslap, whose threads have a connection each. */
import { numberIn, type Workload } from '../workload.js';

/** What memcslap sets and gets by default has 1 KiB. */
const VALUE = 1024;
/** Keys that it sets before it measures; each thread gets them once. */
const KEYS = 6000;

export function memcached(threads: number): Workload {
  return {
    name: 'memcached GET',
    size: VALUE,
    clients: threads,
    unit: 'requests/s',
    higherIsBetter: true,
    needs: [
      { command: 'memcached', package: 'memcached' },
      { command: 'memcslap', package: 'libmemcached-tools' },
    ],
    unix: true,
    redirects: true,
    start: async (place) => {
      const { address, port } = place.listen;
      const common = ['-u', 'root', '-t', '4'];
      const tcp = place.server('memcached', [...common, '-U', '0', '-l', address, '-p', String(port)]);
      await place.listening(tcp);
      if (!place.onHost) return;
      const unix = place.server('memcached', [...common, '-s', place.unixPath]);
      await place.listening(unix, place.unixPath);
    },
    run: async (place, transport, seconds) => {
      const server = place.at(
        transport,
        ({ address, port }) => `${address}:${String(port)}`,
        (path) => path,
      );
      const keys = Math.max(1000, Math.ceil((KEYS * seconds) / Math.min(threads, 4)));
      const load = ['-t', 'get', '-c', String(threads), '-e', String(keys)];
      const lines = await place.client('memcslap', ['-s', server, ...load]);
      return (keys * threads) / numberIn(lines, /^Time to get .* threads?: +([\d.]+) seconds/);
    },
  };
}
