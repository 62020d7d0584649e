/** The HTTP surface: the dashboard, /api, /metrics, /healthz, /readyz; over TLS and with passwords where asked to. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createTlsServer, type Server as TlsServer } from 'node:https';
import { type AddressInfo, BlockList, isIP, isIPv6 } from 'node:net';
import type { TLSSocket } from 'node:tls';

import Negotiator from 'negotiator';
import type { Logger } from 'pino';

import { UserError } from '../errors.js';
import { CONTENT_TYPES, type Format } from '../metrics/metrics.js';
import { type Api, parsePairQuery, QueryError } from './api.js';
import { type Asset, readAssets } from './assets.js';
import { BasicAuth } from './basic-auth.js';
import { formatListenAddress, type ListenAddress } from './listen-address.js';
import { type ClientAuthType, type WebConfig, WebConfigFile } from './web-config.js';

/** What the server shows. Filled in while the daemon starts. */
export interface HttpSources {
  /** What /metrics shows; undefined before the datapath is attached. */
  metrics: ((format: Format) => Promise<string>) | undefined;
  /** What /api shows; undefined as above. */
  api: Pick<Api, 'status' | 'pairs'> | undefined;
  /** Undefined when ready; otherwise why not. */
  notReady: () => string | undefined;
}

export interface HttpOptions {
  /** TLS and users; undefined: none of either. */
  webConfig?: WebConfigFile | undefined;
  log: Logger;
}

/** What one connection may take, milliseconds, bytes and numbers. */
const LIMITS = {
  headerBytes: 8 * 1024,
  headerTime: 5_000,
  requestTime: 10_000,
  keepAlive: 5_000,
  /** Nothing sent or received for so long, also while an answer waits to be taken. */
  silence: 15_000,
  requestsPerConnection: 1_000,
  connections: 256,
  checkEvery: 1_000,
} as const;

/** Asked by the kubelet, which can't give a password; they answer with a word on the state, and with no data. */
const PROBES: readonly string[] = ['/healthz', '/readyz'];

const NOT_ATTACHED = 'the datapath is not attached yet\n';
const TEXT = 'text/plain; charset=utf-8';
const JSON_TYPE = 'application/json; charset=utf-8';

/** Of every answer; a web configuration may replace some. */
const SECURITY_HEADERS = {
  'Content-Security-Policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Referrer-Policy': 'no-referrer',
  'X-Content-Type-Options': 'nosniff',
  'X-Frame-Options': 'DENY',
} as const;

const LOOPBACK = new BlockList();
LOOPBACK.addSubnet('127.0.0.0', 8, 'ipv4');
LOOPBACK.addAddress('::1', 'ipv6');

function isLoopback(address: string): boolean {
  return LOOPBACK.check(address, isIPv6(address) ? 'ipv6' : 'ipv4');
}

export class HttpServer {
  readonly #server: Server | TlsServer;
  readonly #sources: HttpSources;
  readonly #log: Logger;
  readonly #assets: ReadonlyMap<string, Asset> = readAssets();
  readonly #file: WebConfigFile | undefined;
  readonly #clientAuth: ClientAuthType | undefined;
  #config: WebConfig | undefined;
  #auth = new BasicAuth(new Map());

  private constructor(sources: HttpSources, { webConfig, log }: HttpOptions) {
    this.#sources = sources;
    this.#log = log;
    this.#file = webConfig;
    this.#config = webConfig?.config;
    const { tls, users } = this.#config ?? {};
    if (users !== undefined) this.#auth = new BasicAuth(users);
    this.#clientAuth = tls?.clientAuthType;
    const options = {
      maxHeaderSize: LIMITS.headerBytes,
      connectionsCheckingInterval: LIMITS.checkEvery,
      headersTimeout: LIMITS.headerTime,
      requestTimeout: LIMITS.requestTime,
      keepAliveTimeout: LIMITS.keepAlive,
      handshakeTimeout: LIMITS.headerTime,
    };
    const onRequest = (request: IncomingMessage, response: ServerResponse): void => {
      this.#handle(request, response).catch((error: unknown) => {
        this.#log.error({ path: request.url, error: String(error) }, 'an answer failed');
        if (!response.headersSent)
          this.#send(response, 500, `${error instanceof Error ? error.message : String(error)}\n`);
        else response.destroy();
      });
    };
    if (tls === undefined) {
      this.#server = createServer(options, onRequest);
    } else {
      const server = createTlsServer(
        {
          ...options,
          ...tls.context,
          requestCert: tls.clientAuthType !== 'NoClientCert',
          rejectUnauthorized: tls.clientAuthType === 'RequireAndVerifyClientCert',
        },
        onRequest,
      );
      server.prependListener('secureConnection', (socket) => {
        if (!this.#isWelcome(socket)) socket.destroy();
      });
      this.#server = server;
    }
    // Before the server's own listener: a handshake is to see the certificate that is there now.
    this.#server.prependListener('connection', () => {
      this.#refresh();
    });
    this.#server.setTimeout(LIMITS.silence);
    this.#server.maxRequestsPerSocket = LIMITS.requestsPerConnection;
    this.#server.maxConnections = LIMITS.connections;
  }

  /** @throws UserError if the address can't be had. */
  static async listen(address: ListenAddress, sources: HttpSources, options: HttpOptions): Promise<HttpServer> {
    const http = new HttpServer(sources, options);
    await new Promise<void>((resolve, reject) => {
      http.#server.once('error', (error: NodeJS.ErrnoException) => {
        reject(listenError(address, error));
      });
      http.#server.listen(address.port, address.host === '' ? undefined : address.host, resolve);
    });
    http.#server.removeAllListeners('error').on('error', (error) => {
      options.log.error({ error: String(error) }, 'the HTTP server has a problem');
    });
    http.#warnIfOpen();
    return http;
  }

  /** Where it listens, with the port that the kernel chose if 0 was asked for. */
  get address(): ListenAddress {
    const { address, port } = this.#server.address() as AddressInfo;
    return { host: address, port };
  }

  /** `http://ADDR:PORT` or `https://ADDR:PORT`. */
  get origin(): string {
    return `${this.#clientAuth === undefined ? 'http' : 'https'}://${formatListenAddress(this.address)}`;
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise<void>((resolve) => {
      this.#server.close(() => {
        resolve();
      });
    });
  }

  /** Whether everybody who can connect is answered. */
  get #isOpen(): boolean {
    const asksForCertificate =
      this.#clientAuth === 'RequireAndVerifyClientCert' || this.#clientAuth === 'RequireAnyClientCert';
    return this.#config === undefined || (this.#config.users.size === 0 && !asksForCertificate);
  }

  #warnIfOpen(): void {
    const lacks = [...(this.#clientAuth === undefined ? ['TLS'] : []), ...(this.#isOpen ? ['a password'] : [])];
    if (lacks.length === 0 || isLoopback(this.address.host)) return;
    this.#log.warn(
      `${this.origin} can be reached from other hosts without ${lacks.join(' and ')}: give --web-config, or a loopback address`,
    );
  }

  /** Takes up what changed in the web configuration and the files that it names. */
  #refresh(): void {
    try {
      if (this.#file?.refresh() !== true) return;
    } catch (error) {
      this.#log.error(
        `the old web configuration stays in force: ${error instanceof Error ? error.message : String(error)}`,
      );
      return;
    }
    const { tls, users } = this.#file.config;
    if (tls?.clientAuthType !== this.#clientAuth) {
      this.#log.error(
        'the web configuration now differs in TLS or client_auth_type: restart to have it, the old one stays in force',
      );
      return;
    }
    if (tls !== undefined) (this.#server as TlsServer).setSecureContext(tls.context);
    this.#config = this.#file.config;
    this.#auth = new BasicAuth(users);
    this.#log.info('web configuration reloaded');
  }

  /** What Node.js does not check of a client's certificate. */
  #isWelcome(socket: TLSSocket): boolean {
    const hasCertificate = socket.getPeerX509Certificate() !== undefined;
    switch (this.#clientAuth) {
      case 'RequireAnyClientCert':
        return hasCertificate;
      case 'VerifyClientCertIfGiven':
        return !hasCertificate || socket.authorized;
      default:
        return true;
    }
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    if (!this.#isOwnName(request.headers.host)) {
      const remedy = 'ask for localhost or an address, or give --web-config with users';
      this.#send(response, 421, `this server is not known by that name: ${remedy}\n`);
      return;
    }
    const isProbe = PROBES.includes(request.url ?? '');
    const answer = isProbe ? 'yes' : await this.#auth.check(request.headers.authorization);
    if (answer === 'no') {
      response.setHeader('WWW-Authenticate', 'Basic realm="slipstream-bpf", charset="UTF-8"');
      this.#send(response, 401, 'a user name and a password are needed\n');
    } else if (answer === 'busy') {
      response.setHeader('Retry-After', '1');
      this.#send(response, 503, 'too many passwords wait to be checked: try again\n');
    } else if (request.method !== 'GET' && request.method !== 'HEAD') {
      response.setHeader('Allow', 'GET, HEAD');
      this.#send(response, 405, 'only GET and HEAD are answered here\n');
    } else {
      await this.#answer(request, response);
    }
  }

  /**
   * A page of another site may have its own name point to this host (DNS rebinding) and so read what only local
   * programs may. Where nothing else protects a loopback address, such names are not answered.
   */
  #isOwnName(host: string | undefined): boolean {
    if (!this.#isOpen || this.#clientAuth !== undefined || host === undefined || !isLoopback(this.address.host))
      return true;
    const name = host.replace(/:\d*$/, '').replace(/^\[(.*)\]$/, '$1');
    return isIP(name) !== 0 || /^(.+\.)?localhost$/i.test(name);
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { metrics, api, notReady } = this.#sources;
    const [path = '/', query = ''] = (request.url ?? '/').split('?', 2);
    switch (path) {
      case '/healthz':
        this.#send(response, 200, 'ok\n');
        return;
      case '/readyz': {
        const reason = notReady();
        this.#send(response, reason === undefined ? 200 : 503, `${reason ?? 'ok'}\n`);
        return;
      }
      case '/metrics': {
        response.setHeader('Vary', 'Accept');
        const format = preferredFormat(request);
        if (metrics === undefined) this.#send(response, 503, NOT_ATTACHED);
        else this.#send(response, 200, await metrics(format), CONTENT_TYPES[format]);
        return;
      }
      case '/api/status':
        if (api === undefined) this.#send(response, 503, NOT_ATTACHED);
        else this.#send(response, 200, `${JSON.stringify(api.status())}\n`, JSON_TYPE);
        return;
      case '/api/pairs':
        await this.#answerPairs(new URLSearchParams(query), response);
        return;
    }
    const asset = this.#assets.get(path);
    if (asset !== undefined) this.#send(response, 200, asset.body, asset.contentType);
    else this.#send(response, 404, 'there are /, /metrics, /api/status, /api/pairs, /healthz and /readyz\n');
  }

  async #answerPairs(parameters: URLSearchParams, response: ServerResponse): Promise<void> {
    const { api } = this.#sources;
    if (api === undefined) {
      this.#send(response, 503, NOT_ATTACHED);
      return;
    }
    try {
      const { pairs, more } = await api.pairs(parsePairQuery(parameters));
      if (more) response.setHeader('X-Truncated', 'true');
      this.#send(response, 200, `${JSON.stringify(pairs)}\n`, JSON_TYPE);
    } catch (error) {
      if (!(error instanceof QueryError)) throw error;
      this.#send(response, 400, `${error.message}\n`);
    }
  }

  #send(response: ServerResponse, status: number, body: string | Buffer, contentType = TEXT): void {
    response.writeHead(status, {
      ...SECURITY_HEADERS,
      ...this.#config?.headers,
      'Cache-Control': 'no-cache',
      'Content-Type': contentType,
      'Content-Length': Buffer.byteLength(body),
    });
    response.end(body);
  }
}

/** What a scraper would rather have; text where it has no wish that can be met. */
function preferredFormat(request: IncomingMessage): Format {
  const preferred = new Negotiator(request).mediaType([CONTENT_TYPES.text, CONTENT_TYPES.openMetrics]);
  return preferred === CONTENT_TYPES.openMetrics ? 'openMetrics' : 'text';
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
