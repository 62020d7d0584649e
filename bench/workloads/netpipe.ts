/** NetPIPE: ping-pong of growing messages with blocking calls, which a policy must opt in to. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { geometricMean } from '../statistics.js';
import { BLOCKING_READERS, type Workload } from '../workload.js';

const LARGEST = 65_536;
/** Round trips of each size in a second's run. */
const REPEATS = 60;

export function netpipe(): Workload {
  return {
    name: 'NetPIPE',
    size: null,
    clients: 1,
    detail: '1 B to 64 KiB, blockingReaders: true',
    unit: 'round trips/s',
    higherIsBetter: true,
    needs: [{ command: 'NPtcp', package: 'netpipe-tcp' }],
    unix: false,
    redirects: true,
    policy: BLOCKING_READERS,
    run: async (place, _transport, seconds) => {
      const output = join(place.directory, 'netpipe');
      const { address, port } = place.connect;
      const common = ['-l', '1', '-u', String(LARGEST), '-p', '0', '-n', String(Math.ceil(REPEATS * seconds))];
      const server = place.server('NPtcp', ['-P', String(place.listen.port), ...common]);
      await place.listening(server);
      await place.client('NPtcp', ['-h', address, '-P', String(port), ...common, '-o', output], [server]);
      return roundTrips(readFileSync(output, 'utf8'));
    },
  };
}

/** The geometric mean over the sizes, from lines of bytes, Mbit/s and seconds one way. */
export function roundTrips(output: string): number {
  const times = output
    .trim()
    .split('\n')
    .map((line) => Number(line.trim().split(/\s+/)[2]));
  return geometricMean(times.map((seconds) => 1 / (2 * seconds)));
}
