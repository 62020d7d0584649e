/** What is measured: how each workload runs once, on each of the transports. */
import { freePort } from '../test/kernel/support/redis.js';
import { type Child, program, type Sandbox } from '../test/kernel/support/sandbox.js';
import { BetweenContainers } from './containers.js';

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
  /** nat: two containers and a published port between them (DNAT and MASQUERADE). */
  path: 'loopback' | 'nat';
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

function exchange(
  mode: 'pingpong' | 'stream',
  size: number,
  placement: 'same-cpu' | 'cross-cpu',
  path: Workload['path'] = 'loopback',
): Workload {
  return {
    name: mode === 'pingpong' ? 'ping-pong' : 'stream',
    path,
    size,
    placement,
    clients: 1,
    unit: mode === 'pingpong' ? 'round trips/s' : 'MB/s',
    redirects: mode === 'pingpong',
    run: async (sandbox, transport, seconds) => {
      const args = ['--mode', mode, '--size', String(size), '--seconds', String(seconds), '--warmup', '0.3s'];
      args.push('--nonblocking', '1', '--cpu-client', '0', '--cpu-server', placement === 'same-cpu' ? '0' : '1');
      if (transport.kind === 'unix') args.push('--unix', transport.path);
      const [client, server] =
        path === 'nat' && transport.kind === 'tcp'
          ? await streamBetweenContainers(sandbox, transport.cgroup, args)
          : [await streamHere(sandbox, transport, args)];
      return {
        rate: mode === 'pingpong' ? client.messagesPerSecond : client.bytesPerSecond / 1e6,
        cpu: (client.cpuSeconds + (server?.cpuSeconds ?? 0)) / client.messages,
      };
    },
  };
}

async function streamHere(sandbox: Sandbox, transport: Transport, args: string[]): Promise<StreamResult> {
  const child = sandbox.spawn(program('stream'), args, transport.kind === 'tcp' ? { cgroup: transport.cgroup } : {});
  return streamResult(child);
}

/** Results of the client's half and of the server's. */
async function streamBetweenContainers(
  sandbox: Sandbox,
  cgroup: string,
  args: string[],
): Promise<[StreamResult, StreamResult]> {
  const between = new BetweenContainers(sandbox, cgroup);
  try {
    const { server, published } = between;
    // The client tries for ten seconds until somebody listens.
    const [far, near] = [
      between.start('server', '/programs/stream', [
        ...args,
        ...['--server-only', '--address', server.address, '--port', String(server.port)],
      ]),
      between.start('client', '/programs/stream', [
        ...args,
        ...['--client-only', '--address', published.address, '--port', String(published.port)],
      ]),
    ];
    return await Promise.all([streamResult(near), streamResult(far)]);
  } finally {
    between.remove();
  }
}

async function streamResult(child: Child): Promise<StreamResult> {
  const code = await child.exited();
  if (code !== 0) throw new Error(`stream ended with ${String(code)}: ${child.lines.join(' ')} ${child.stderr}`);
  return JSON.parse(child.lines.at(-1) ?? '{}') as StreamResult;
}

function redis(clients: number, pipeline: number, path: Workload['path'] = 'loopback'): Workload {
  return {
    name: pipeline === 1 ? 'redis GET' : `redis GET, pipeline ${String(pipeline)}`,
    path,
    size: 3,
    placement: 'free',
    clients,
    unit: 'requests/s',
    redirects: true,
    run: async (sandbox, transport, seconds) => {
      // Requests are fixed in advance: from a guess of the rate to about the wanted time.
      const requests = Math.ceil(seconds * (pipeline > 1 ? 300_000 : clients > 1 ? 50_000 : 20_000));
      const load = ['-c', String(clients), '-n', String(requests), '-P', String(pipeline), '-t', 'get', '--csv'];
      return path === 'nat' && transport.kind === 'tcp'
        ? redisBetweenContainers(sandbox, transport.cgroup, load)
        : redisHere(sandbox, transport, load);
    },
  };
}

const STORE_NOTHING = ['--save', '', '--appendonly', 'no'];

async function redisHere(sandbox: Sandbox, transport: Transport, load: string[]): Promise<Sample> {
  const port = transport.kind === 'tcp' ? await freePort() : 0;
  const listen = transport.kind === 'unix' ? ['--unixsocket', transport.path] : ['--bind', '127.0.0.1'];
  const options = transport.kind === 'tcp' ? { cgroup: transport.cgroup } : {};
  const server = sandbox.spawn(
    'redis-server',
    ['--port', String(port), ...listen, ...STORE_NOTHING, '--dir', sandbox.dir],
    options,
  );
  try {
    await redisReady(server);
    const where = transport.kind === 'unix' ? ['-s', transport.path] : ['-h', '127.0.0.1', '-p', String(port)];
    return await redisRate(sandbox.spawn('redis-benchmark', [...where, ...load], options));
  } finally {
    server.signal('SIGTERM');
    await server.exited();
  }
}

async function redisBetweenContainers(sandbox: Sandbox, cgroup: string, load: string[]): Promise<Sample> {
  const between = new BetweenContainers(sandbox, cgroup);
  try {
    const { server, published } = between;
    const listen = ['--port', String(server.port), '--bind', server.address, '--protected-mode', 'no'];
    await redisReady(between.start('server', 'redis-server', [...listen, ...STORE_NOTHING, '--dir', '/tmp']));
    const where = ['-h', published.address, '-p', String(published.port)];
    return await redisRate(between.start('client', 'redis-benchmark', [...where, ...load]));
  } finally {
    between.remove();
  }
}

async function redisReady(server: Child): Promise<void> {
  await server.until(({ lines }) => lines.find((line) => /Ready to accept|now ready/.test(line)));
}

async function redisRate(benchmark: Child): Promise<Sample> {
  benchmark.process.stdin.end();
  const code = await benchmark.exited();
  const rate = Number(
    benchmark.lines
      .find((line) => line.startsWith('"GET"'))
      ?.split(',')[1]
      ?.replaceAll('"', ''),
  );
  if (code !== 0 || !Number.isFinite(rate)) {
    throw new Error(`redis-benchmark ended with ${String(code)}: ${[...benchmark.lines, benchmark.stderr].join(' ')}`);
  }
  return { rate, cpu: null };
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
  ...([64, 1024, 16_384, 65_536] as const).flatMap((size) => [
    exchange('pingpong', size, 'same-cpu', 'nat'),
    exchange('pingpong', size, 'cross-cpu', 'nat'),
  ]),
  redis(1, 1, 'nat'),
  redis(50, 1, 'nat'),
];
