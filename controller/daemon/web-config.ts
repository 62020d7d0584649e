/**
 * Who may ask, and over what: TLS, response headers and users, in the file format of Prometheus' exporter-toolkit
 * (its docs/web-configuration.md). What this server can't do is refused, never passed over.
 */
import { statSync } from 'node:fs';
import { validateHeaderValue } from 'node:http';
import { dirname, resolve } from 'node:path';
import { createSecureContext, type SecureContextOptions } from 'node:tls';

import { z } from 'zod';

import { EXIT, UserError } from '../errors.js';
import { formatProblem } from '../policy/parse.js';
import { anyOf, quote, suggest } from '../policy/words.js';
import { readYaml, type YamlText } from '../policy/yaml.js';
import { readTextFile, UnreadableFile } from '../read-file.js';

/** As Go's crypto/tls names them. */
export const CLIENT_AUTH_TYPES = [
  'NoClientCert',
  'RequestClientCert',
  'RequireAnyClientCert',
  'VerifyClientCertIfGiven',
  'RequireAndVerifyClientCert',
] as const;
export type ClientAuthType = (typeof CLIENT_AUTH_TYPES)[number];

const VERSIONS = { TLS12: 'TLSv1.2', TLS13: 'TLSv1.3' } as const;
const VERSION_NAMES = Object.keys(VERSIONS) as (keyof typeof VERSIONS)[];

/** The headers that exporter-toolkit lets a file set. */
const HEADERS = [
  'Content-Security-Policy',
  'Strict-Transport-Security',
  'X-Content-Type-Options',
  'X-Frame-Options',
  'X-XSS-Protection',
] as const;

/** A check of a password with a higher cost takes seconds. */
const MAX_COST = 14;

/** Keys of the format that have no counterpart here, with what to do instead. */
const UNSUPPORTED: Readonly<Record<string, string>> = {
  cert: 'put the certificate into a file and name it in cert_file',
  key: 'put the key into a file and name it in key_file',
  client_ca: 'put the certificates into a file and name it in client_ca_file',
  client_allowed_sans: "remove it and let client_ca_file hold a certificate authority of the clients' own",
  cipher_suites: "remove it, OpenSSL's defaults hold",
  curve_preferences: "remove it, OpenSSL's defaults hold",
  prefer_server_cipher_suites: "remove it, the server's order holds",
  rate_limit: 'remove it',
  auth_excluded_paths: 'remove it, every path asks for the password',
};

const text = (key: string, example: string): z.ZodString =>
  z
    .string(`${key} must be a text: write for example ${key}: ${example}`)
    .min(1, `${key} is empty: fill it or remove it`);
const version = (key: string): z.ZodEnum<{ TLS12: 'TLS12'; TLS13: 'TLS13' }> =>
  z.enum(VERSION_NAMES, `${key} must be one that is safe to use: write ${anyOf(VERSION_NAMES)}`);
const header = z.string('a header must be a text: put it in quotes').refine((value) => isHeaderValue(value), {
  error: 'a header must not have control characters: write it on one line',
});

const tlsSchema = z.strictObject(
  {
    cert_file: text('cert_file', 'server.crt'),
    key_file: text('key_file', 'server.key'),
    client_auth_type: z
      .enum(CLIENT_AUTH_TYPES, {
        error: ({ input }) =>
          typeof input === 'string'
            ? `unknown client_auth_type ${quote(input)}: ${suggest(input, CLIENT_AUTH_TYPES)}`
            : `client_auth_type must be a text: write ${anyOf(CLIENT_AUTH_TYPES)}`,
      })
      .default('NoClientCert'),
    client_ca_file: text('client_ca_file', 'ca.crt').optional(),
    min_version: version('min_version').default('TLS12'),
    max_version: version('max_version').default('TLS13'),
  },
  mapping('tls_server_config', 'tls_server_config: { cert_file: server.crt, key_file: server.key }'),
);

const httpSchema = z.strictObject(
  {
    http2: z
      .boolean('http2 must be true or false: write http2: false')
      .refine((wanted) => !wanted, 'HTTP/2 is not served here: write http2: false or remove the key')
      .default(false),
    headers: z
      .strictObject(
        Object.fromEntries(HEADERS.map((name) => [name, header.optional()])) as Record<
          (typeof HEADERS)[number],
          z.ZodOptional<typeof header>
        >,
        mapping('headers', 'headers: { X-Frame-Options: deny }'),
      )
      .prefault({}),
  },
  mapping('http_server_config', 'http_server_config: { headers: { X-Frame-Options: deny } }'),
);

const schema = z.strictObject(
  {
    tls_server_config: tlsSchema.optional(),
    http_server_config: httpSchema.prefault({}),
    basic_auth_users: z
      .record(
        z.string(),
        z
          .string('the password must be a bcrypt hash: make one with "htpasswd -nBC 10 NAME"')
          .refine((hash) => costOf(hash) !== undefined, {
            error: 'the password is not a bcrypt hash ($2a$, $2b$ or $2y$): make one with "htpasswd -nBC 10 NAME"',
          })
          .refine((hash) => (costOf(hash) ?? 0) <= MAX_COST, {
            error: `a bcrypt cost above ${MAX_COST} takes seconds a check: make another hash with "htpasswd -nBC 10 NAME"`,
          }),
        mapping('basic_auth_users', "basic_auth_users: { prometheus: '$2y$10$...' }"),
      )
      .default({}),
  },
  mapping('the web configuration', 'basic_auth_users:'),
);

export interface TlsSettings {
  readonly clientAuthType: ClientAuthType;
  /** For tls.createSecureContext, with what the files hold. */
  readonly context: SecureContextOptions;
}

export interface WebConfig {
  readonly tls: TlsSettings | undefined;
  readonly headers: Readonly<Record<string, string>>;
  /** Bcrypt hashes by user name; none: everybody may ask. */
  readonly users: ReadonlyMap<string, string>;
}

/** The cost of a bcrypt hash, the binary logarithm of its rounds; undefined if it is none. */
export function costOf(hash: string): number | undefined {
  const cost = Number(/^\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}$/.exec(hash)?.[1]);
  return cost >= 4 && cost <= 31 ? cost : undefined;
}

/** A web configuration and the files that it names, read again when one of them has changed. */
export class WebConfigFile {
  readonly #file: string;
  #config: WebConfig;
  #named: string[] = [];
  #seen: string;

  /** @throws UserError (exit code 2) with the first thing that is wrong and its place */
  constructor(file: string) {
    this.#file = file;
    this.#config = this.#read();
    this.#seen = this.#signature();
  }

  get config(): WebConfig {
    return this.#config;
  }

  /**
   * Looks whether a file has changed, and reads all of them if one has.
   * @returns whether there is another configuration now
   * @throws UserError once for each change that is invalid; the configuration stays as it was
   */
  refresh(): boolean {
    const now = this.#signature();
    if (now === this.#seen) return false;
    this.#seen = now;
    this.#config = this.#read();
    this.#seen = this.#signature(); // the files may be others
    return true;
  }

  #read(): WebConfig {
    let content: string;
    try {
      content = readTextFile(this.#file);
    } catch (error) {
      if (!(error instanceof UnreadableFile)) throw error;
      throw new UserError(`--web-config ${this.#file}: ${error.message}`, EXIT.usage);
    }
    const { config, named } = parseWebConfig(content, this.#file);
    this.#named = named;
    return config;
  }

  /** What tells one state of the files from another. */
  #signature(): string {
    return [this.#file, ...this.#named]
      .map((file) => {
        const found = statSync(file, { bigint: true, throwIfNoEntry: false });
        return found === undefined ? '-' : `${found.dev}:${found.ino}:${found.size}:${found.mtimeNs}`;
      })
      .join(' ');
  }
}

/**
 * Reads the configuration and the files that it names, which may be relative to it.
 * @throws UserError (exit code 2), `file:line:column: message`
 */
export function parseWebConfig(content: string, file: string): { config: WebConfig; named: string[] } {
  const yaml = readYaml(content.replace(/^\uFEFF/, ''));
  const fail = (at: { line: number; column: number }, message: string): never => {
    throw new UserError(formatProblem({ file, line: at.line, column: at.column, message }), EXIT.usage);
  };
  const [finding] = yaml.findings;
  if (finding !== undefined) fail(finding, finding.message);
  const { data, error } = schema.safeParse(yaml.value ?? {});
  if (data === undefined) {
    const [issue] = error.issues;
    return fail(placeOf(issue, yaml), messageOf(issue));
  }
  const named: string[] = [];
  const tls = data.tls_server_config;
  const load = (key: 'cert_file' | 'key_file' | 'client_ca_file'): string | undefined => {
    const name = tls?.[key];
    if (name === undefined) return undefined;
    const path = resolve(dirname(file), name);
    named.push(path);
    try {
      return readTextFile(path);
    } catch (reason) {
      if (!(reason instanceof UnreadableFile)) throw reason;
      return fail(yaml.locate(['tls_server_config', key]), `${key} ${quote(name)}: ${reason.message}`);
    }
  };
  const at = (key: string): { line: number; column: number } => yaml.locate(['tls_server_config', key]);
  let settings: TlsSettings | undefined;
  if (tls !== undefined) {
    const { client_auth_type: clientAuthType, min_version: least, max_version: most } = tls;
    if (least > most) fail(at('min_version'), `min_version ${least} is above max_version ${most}: swap them`);
    const verifies = clientAuthType === 'VerifyClientCertIfGiven' || clientAuthType === 'RequireAndVerifyClientCert';
    if (verifies && tls.client_ca_file === undefined) {
      fail(at('client_auth_type'), `${clientAuthType} needs to know whom to trust: add client_ca_file`);
    }
    if (!verifies && tls.client_ca_file !== undefined) {
      fail(
        at('client_ca_file'),
        `client_ca_file has no effect with ${clientAuthType}: write client_auth_type: RequireAndVerifyClientCert, or remove it`,
      );
    }
    const cert = load('cert_file') ?? '';
    const key = load('key_file') ?? '';
    const ca = load('client_ca_file');
    const context = {
      cert,
      key,
      ...(ca !== undefined && { ca }),
      minVersion: VERSIONS[least],
      maxVersion: VERSIONS[most],
    };
    for (const [name, part] of [
      ['cert_file', { cert }],
      ['key_file', { cert, key }],
      ['client_ca_file', { ca }],
    ] as const) {
      try {
        createSecureContext(part);
      } catch (reason) {
        fail(
          at(name),
          `${name} can't be used (${reasonOf(reason)}): give a PEM file${name === 'key_file' ? ' that fits the certificate' : ''}`,
        );
      }
    }
    if (ca?.includes('-----BEGIN CERTIFICATE-----') === false)
      fail(at('client_ca_file'), 'client_ca_file holds no certificate: give a PEM file');
    settings = { clientAuthType, context };
  }
  const { headers } = data.http_server_config;
  return {
    config: {
      tls: settings,
      headers: Object.fromEntries(Object.entries(headers).filter(([, value]) => value !== undefined)) as Record<
        string,
        string
      >,
      users: new Map(Object.entries(data.basic_auth_users)),
    },
    named,
  };
}

type Issue = z.core.$ZodIssue | undefined;

function placeOf(issue: Issue, yaml: YamlText): { line: number; column: number } {
  const path = issue?.path ?? [];
  return issue?.code === 'unrecognized_keys' ? yaml.locateKey(path, issue.keys[0] ?? '') : yaml.locate(path);
}

function messageOf(issue: Issue): string {
  if (issue?.code !== 'unrecognized_keys') return issue?.message ?? 'the file is invalid: correct it';
  const [key = ''] = issue.keys;
  const [section, inner] = issue.path;
  const known =
    inner === 'headers'
      ? HEADERS
      : Object.keys(
          { tls_server_config: tlsSchema, http_server_config: httpSchema }[String(section)]?.shape ?? schema.shape,
        );
  const instead = inner === 'headers' ? undefined : UNSUPPORTED[key];
  return instead === undefined
    ? `unknown key ${quote(key)}: ${suggest(key, known)}`
    : `${key} is not supported by this server: ${instead}`;
}

function isHeaderValue(value: string): boolean {
  try {
    validateHeaderValue('X-Any', value);
    return true;
  } catch {
    return false;
  }
}

/** OpenSSL's own words, without its numbers. */
function reasonOf(error: unknown): string {
  const { message, reason } = error as Error & { reason?: string };
  return reason ?? message;
}

/** The message for something that is not a mapping; unknown keys are worded where they are reported. */
function mapping(what: string, example: string): { error: (issue: { code?: string }) => string | undefined } {
  return {
    error: ({ code }) =>
      code === 'invalid_type' ? `${what} must be a mapping: write for example ${example}` : undefined,
  };
}
