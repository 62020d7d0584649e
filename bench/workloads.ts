/** What is measured: how each workload runs once, on each of the transports. */
import { freePort } from '../test/kernel/support/redis.js';
import { program, type Sandbox } from '../test/kernel/support/sandbox.js';

/** How the two ends talk in one run. */
export type Transport = { kind: 'tcp'; cgroup: string } | { kind: 'unix'; path: string };

export interface Sample {
  /** Units of work a second. */
  rate: number;
  /** CPU seconds a unit of work, both ends; null where they can't be told. */
  cpu: number | null;
}

export interface Workload {
  name: string;
  path: 'loopback';
  /** Bytes of a message. */
  size: number;
  placement: 'same-cpu' | 'cross-cpu' | 'free';
  clients: number;
  unit: 'round trips/s' | 'MB/s' | 'requests/s';
  /** Whether redirection is expected; a stream is to stay on TCP. */
  redirects: boolean;
  run: (sandbox: Sandbox, transport: Transport, seconds: number) => Promise<Sample>;
}

interface StreamResult {
  bytesPerSecond: number;
  messagesPerSecond: number;
  messages: number;
  cpuSeconds: number;
}

function exchange(mode: 'pingpong' | 'stream', size: number, placement: 'same-cpu' | 'cross-cpu'): Workload {
  return {
    name: mode === 'pingpong' ? 'ping-pong' : 'stream',
    path: 'loopback',
    size,
    placement,
    clients: 1,
    unit: mode === 'pingpong' ? 'round trips/s' : 'MB/s',
    redirects: mode === 'pingpong',
    run: async (sandbox, transport, seconds) => {
      const args = ['--mode', mode, '--size', String(size), '--seconds', String(seconds), '--warmup', '0.3s'];
      args.push('--nonblocking', '1', '--cpu-client', '0', '--cpu-server', placement === 'same-cpu' ? '0' : '1');
      if (transport.kind === 'unix') args.push('--unix', transport.path);
      const child = sandbox.spawn(
        program('stream'),
        args,
        transport.kind === 'tcp' ? { cgroup: transport.cgroup } : {},
      );
      const code = await child.exited();
      if (code !== 0) throw new Error(`stream ended with ${String(code)}: ${child.lines.join(' ')} ${child.stderr}`);
      const result = JSON.parse(child.lines.at(-1) ?? '{}') as StreamResult;
      return {
        rate: mode === 'pingpong' ? result.messagesPerSecond : result.bytesPerSecond / 1e6,
        cpu: result.cpuSeconds / result.messages,
      };
    },
  };
}

function redis(clients: number, pipeline: number): Workload {
  return {
    name: pipeline === 1 ? 'redis GET' : `redis GET, pipeline ${String(pipeline)}`,
    path: 'loopback',
    size: 3,
    placement: 'free',
    clients,
    unit: 'requests/s',
    redirects: true,
    run: async (sandbox, transport, seconds) => {
      const server =
        transport.kind === 'unix'
          ? ['--port', '0', '--unixsocket', transport.path]
          : ['--port', '0', '--bind', '127.0.0.1'];
      const options = transport.kind === 'tcp' ? { cgroup: transport.cgroup } : {};
      const port = transport.kind === 'tcp' ? await freePort() : 0;
      if (transport.kind === 'tcp') server[1] = String(port);
      const child = sandbox.spawn('redis-server', [...server, '--save', '', '--dir', sandbox.dir], options);
      try {
        await child.until(({ lines }) => lines.find((line) => /Ready to accept|now ready/.test(line)));
        const where = transport.kind === 'unix' ? ['-s', transport.path] : ['-h', '127.0.0.1', '-p', String(port)];
        // Requests are fixed in advance: from a guess of the rate to about the wanted time.
        const requests = Math.ceil(seconds * (pipeline > 1 ? 300_000 : clients > 1 ? 50_000 : 20_000));
        const args = [
          ...where,
          '-c',
          String(clients),
          '-n',
          String(requests),
          '-P',
          String(pipeline),
          '-t',
          'get',
          '--csv',
        ];
        const bench = sandbox.spawn('redis-benchmark', args, options);
        bench.process.stdin.end();
        await bench.exited();
        const row = bench.lines.find((line) => line.startsWith('"GET"'));
        return { rate: Number(row?.split(',')[1]?.replaceAll('"', '')), cpu: null };
      } finally {
        child.signal('SIGTERM');
        await child.exited();
      }
    },
  };
}

export const WORKLOADS: readonly Workload[] = [
  ...([64, 1024, 16_384, 65_536] as const).flatMap((size) => [
    exchange('pingpong', size, 'same-cpu'),
    exchange('pingpong', size, 'cross-cpu'),
  ]),
  ...([64, 1024, 65_536] as const).flatMap((size) => [
    exchange('stream', size, 'same-cpu'),
    exchange('stream', size, 'cross-cpu'),
  ]),
  redis(1, 1),
  redis(50, 1),
  redis(50, 16),
];
