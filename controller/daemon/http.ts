/** The HTTP surface: /metrics, /healthz, /readyz. */
import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

import { EXIT, UserError } from '../errors.js';

export interface ListenAddress {
  host: string;
  port: number;
}

/** What the server shows. Filled in while the daemon starts. */
export interface HttpSources {
  /** Text and content type of /metrics; undefined before the datapath is attached. */
  metrics: (() => Promise<{ body: string; contentType: string }>) | undefined;
  /** Undefined when ready; otherwise why not. */
  notReady: () => string | undefined;
}

/**
 * Splits `ADDR:PORT`, `[ADDR6]:PORT` or `:PORT`.
 * @throws UserError (exit code 2)
 */
export function parseListenAddress(text: string): ListenAddress {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]\s]*)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  if (match === null || port > 65535) {
    throw new UserError(
      `--metrics ${text}: not an address and port, write for instance 127.0.0.1:9468 or [::1]:9468`,
      EXIT.usage,
    );
  }
  return { host: match[1] ?? match[2] ?? '', port };
}

/** `ADDR:PORT`, with brackets around IPv6. */
export function formatListenAddress({ host, port }: ListenAddress): string {
  return `${host.includes(':') ? `[${host}]` : host}:${String(port)}`;
}

export class HttpServer {
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
  }

  /** @throws UserError if the address can't be had. */
  static async listen(address: ListenAddress, sources: HttpSources): Promise<HttpServer> {
    const server = createServer((request, response) => {
      if (request.method !== 'GET' && request.method !== 'HEAD') {
        response.setHeader('Allow', 'GET, HEAD');
        send(response, 405, 'only GET and HEAD are answered here\n');
        return;
      }
      const path = (request.url ?? '/').split('?', 1)[0] ?? '/';
      answer(path, sources, response).catch((error: unknown) => {
        send(response, 500, `${error instanceof Error ? error.message : String(error)}\n`);
      });
    });
    server.requestTimeout = 10_000;
    server.headersTimeout = 5_000;
    server.keepAliveTimeout = 5_000;
    server.maxConnections = 256;
    await new Promise<void>((resolve, reject) => {
      server.on('error', (error: NodeJS.ErrnoException) => {
        reject(listenError(address, error));
      });
      server.listen(address.port, address.host === '' ? undefined : address.host, resolve);
    });
    return new HttpServer(server);
  }

  /** Where it listens, with the port that the kernel chose if 0 was asked for. */
  get address(): ListenAddress {
    const { address, port } = this.#server.address() as AddressInfo;
    return { host: address, port };
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise<void>((resolve) => {
      this.#server.close(() => {
        resolve();
      });
    });
  }
}

async function answer(path: string, sources: HttpSources, response: ServerResponse): Promise<void> {
  switch (path) {
    case '/healthz':
      send(response, 200, 'ok\n');
      break;
    case '/readyz': {
      const reason = sources.notReady();
      send(response, reason === undefined ? 200 : 503, `${reason ?? 'ok'}\n`);
      break;
    }
    case '/metrics':
      if (sources.metrics === undefined) {
        send(response, 503, 'the datapath is not attached yet\n');
      } else {
        const { body, contentType } = await sources.metrics();
        send(response, 200, body, contentType);
      }
      break;
    default:
      send(response, 404, 'there are /metrics, /healthz and /readyz\n');
  }
}

function send(response: ServerResponse, status: number, body: string, contentType = 'text/plain; charset=utf-8'): void {
  response.writeHead(status, { 'Content-Type': contentType, 'X-Content-Type-Options': 'nosniff' });
  response.end(body);
}

function listenError(address: ListenAddress, error: NodeJS.ErrnoException): UserError {
  const where = formatListenAddress(address);
  switch (error.code) {
    case 'EADDRINUSE':
      return new UserError(`metrics address ${where} is in use: choose another with --metrics`);
    case 'EADDRNOTAVAIL':
    case 'ENOTFOUND':
      return new UserError(`metrics address ${where} is not one of this host's: choose another with --metrics`);
    default:
      return new UserError(
        `metrics address ${where} can't be had (${error.code ?? error.message}): choose another with --metrics`,
      );
  }
}
