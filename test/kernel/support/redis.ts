/** A real server and its benchmark, from Debian's redis packages. */
import { createServer } from 'node:net';
import { once } from 'node:events';

import type { Child, Sandbox, SpawnOptions } from './sandbox.js';

/** A port that was free a moment ago. */
export async function freePort(host = '127.0.0.1'): Promise<number> {
  const server = createServer().listen(0, host);
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

export class Redis {
  readonly child: Child;
  readonly port: number;

  private constructor(child: Child, port: number) {
    this.child = child;
    this.port = port;
  }

  /** Resolves when it accepts connections. */
  static async start(sandbox: Sandbox, options: SpawnOptions = {}): Promise<Redis> {
    const port = await freePort();
    const child = sandbox.spawn(
      'redis-server',
      ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', sandbox.dir],
      options,
    );
    await child.until(({ lines }) => lines.find((line) => line.includes('Ready to accept connections')));
    return new Redis(child, port);
  }
}

export interface BenchmarkOptions extends SpawnOptions {
  port: number;
  clients: number;
  requests: number;
}

/** Runs redis-benchmark and returns requests a second. */
export async function redisBenchmark(sandbox: Sandbox, options: BenchmarkOptions): Promise<number> {
  const args = [
    '-h',
    '127.0.0.1',
    '-p',
    String(options.port),
    '-c',
    String(options.clients),
    '-n',
    String(options.requests),
  ];
  args.push('-t', 'get', '--csv', '-e');
  const child = sandbox.spawn('redis-benchmark', args, options);
  child.process.stdin.end();
  const code = await child.exited();
  const row = child.lines.find((line) => line.toLowerCase().startsWith('"get"'));
  const rate = Number(row?.split(',')[1]?.replaceAll('"', ''));
  if (code !== 0 || !Number.isFinite(rate)) {
    throw new Error(`redis-benchmark ended with ${String(code)}: ${[...child.lines, child.stderr].join('\n')}`);
  }
  return rate;
}
