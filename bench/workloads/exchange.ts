/** Our own ping-pong and one-way stream, blocking or in an event loop (test/programs/stream.c). */
import type { Place } from '../place.js';
import { BLOCKING_READERS, type Transport, type Workload } from '../workload.js';

type Mode = 'pingpong' | 'stream';

interface Result {
  bytesPerSecond: number;
  messagesPerSecond: number;
}

/**
 * `event loop`: epoll and O_NONBLOCK. `blocking`: blocking calls, which the default policy leaves on TCP. `opted in`:
 * the same with `blockingReaders: true`.
 */
export type Readers = 'event loop' | 'blocking' | 'opted in';

export function exchange(mode: Mode, size: number, readers: Readers = 'event loop'): Workload {
  const details = { 'event loop': undefined, blocking: 'blocking', 'opted in': 'blockingReaders: true' };
  const detail = details[readers];
  return {
    name: mode === 'pingpong' ? 'ping-pong' : 'stream',
    size,
    clients: 1,
    ...(detail !== undefined && { detail }),
    unit: mode === 'pingpong' ? 'round trips/s' : 'MB/s',
    higherIsBetter: true,
    needs: [],
    unix: true,
    // A stream is redirected if that is measured to be faster.
    ...((mode === 'pingpong' || readers === 'blocking') && { redirects: readers !== 'blocking' }),
    ...(readers === 'opted in' && { policy: BLOCKING_READERS }),
    run: (place, transport, seconds) =>
      run(place, transport, mode, [
        ...[
          '--size',
          String(size),
          '--seconds',
          String(seconds),
          '--nonblocking',
          readers === 'event loop' ? '1' : '0',
        ],
      ]),
  };
}

async function run(place: Place, transport: Transport, mode: Mode, args: string[]): Promise<number> {
  const { listen, connect } = place;
  // Both ways of a stream have been measured by then.
  const common = ['--mode', mode, '--warmup', mode === 'stream' ? '0.4s' : '0.2s', ...args];
  const ends = place.at(
    transport,
    () => ({
      server: ['--address', listen.address, '--port', String(listen.port)],
      client: ['--address', connect.address, '--port', String(connect.port)],
    }),
    (path) => ({ server: ['--unix', path], client: ['--unix', path] }),
  );
  const server = place.server(place.program('stream'), [...common, '--server-only', ...ends.server]);
  await place.listening(server, transport === 'unix' ? place.unixPath : listen.port);
  const lines = await place.client(place.program('stream'), [...common, '--client-only', ...ends.client], [server]);
  const result = JSON.parse(lines.at(-1) ?? '{}') as Result;
  return mode === 'pingpong' ? result.messagesPerSecond : result.bytesPerSecond / 1e6;
}
