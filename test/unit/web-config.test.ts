/** The web configuration: what is accepted, and one sentence with its place for what is not. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { hashSync } from 'bcryptjs';

import { BasicAuth } from '../../controller/daemon/basic-auth.js';
import { WebConfigFile } from '../../controller/daemon/web-config.js';
import { EXIT, UserError } from '../../controller/errors.js';

const HASH = hashSync('secret', 4);

describe('web configuration', () => {
  let dir: string;
  let file: string;

  before(() => {
    dir = mkdtempSync(join(tmpdir(), 'slipstream-web-'));
    file = join(dir, 'web.yaml');
    for (const name of ['server', 'other']) {
      execFileSync(
        'openssl',
        [
          ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'],
          ...['-subj', '/CN=localhost', '-keyout', join(dir, `${name}.key`), '-out', join(dir, `${name}.crt`)],
        ],
        { stdio: 'ignore' },
      );
    }
    writeFileSync(join(dir, 'nonsense.pem'), 'nonsense\n');
    execFileSync('mkfifo', [join(dir, 'fifo')]);
  });

  after(() => {
    rmSync(dir, { recursive: true });
  });

  function read(yaml: string): WebConfigFile {
    writeFileSync(file, yaml);
    return new WebConfigFile(file);
  }

  it('may be empty', () => {
    for (const yaml of ['', '{}', '# nothing\n']) {
      const { tls, users, headers } = read(yaml).config;
      assert.deepEqual([tls, users.size, headers], [undefined, 0, {}]);
    }
  });

  it('has all that the format and this server share', () => {
    const { config } = read(`
tls_server_config:
  cert_file: server.crt
  key_file: ${join(dir, 'server.key')}
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: other.crt
  min_version: TLS13
http_server_config:
  http2: false
  headers:
    Strict-Transport-Security: max-age=31536000
basic_auth_users:
  prometheus: ${HASH}
`);
    assert.equal(config.tls?.clientAuthType, 'RequireAndVerifyClientCert');
    assert.equal(config.tls.context.minVersion, 'TLSv1.3');
    assert.match(String(config.tls.context.ca), /BEGIN CERTIFICATE/);
    assert.deepEqual(config.headers, { 'Strict-Transport-Security': 'max-age=31536000' });
    assert.deepEqual([...config.users], [['prometheus', HASH]]);
  });

  const tls = (more = '', cert = 'server.crt', key = 'server.key'): string =>
    `tls_server_config:\n  cert_file: ${cert}\n  key_file: ${key}\n${more}`;
  const wrong: [what: string, yaml: string, place: string, message: RegExp][] = [
    ['no YAML', 'a: [', '1:5', /^/],
    ['a list', '- a\n', '1:1', /must be a mapping/],
    [
      'an unknown key',
      'basic_auth_user: {}\n',
      '1:1',
      /unknown key 'basic_auth_user': did you mean 'basic_auth_users'\?/,
    ],
    ['no certificate', 'tls_server_config:\n  key_file: server.key\n', '2:3', /cert_file must be a text/],
    ['a missing file', tls('', 'none.crt'), '2:14', /cert_file 'none\.crt': no such file: check the name/],
    ['a directory', tls('', '.'), '2:14', /this is a directory/],
    ['a FIFO', tls('', 'server.crt', 'fifo'), '3:13', /key_file 'fifo': this is no regular file: give one$/],
    ['no PEM', tls('', 'nonsense.pem'), '2:14', /cert_file can't be used \(.*\): give a PEM file$/],
    [
      'a key of another certificate',
      tls('', 'server.crt', 'other.key'),
      '3:13',
      /key_file .* that fits the certificate/,
    ],
    ['an unknown auth type', tls('  client_auth_type: RequireAny\n'), '4:21', /unknown client_auth_type 'RequireAny'/],
    [
      'verification without a CA',
      tls('  client_auth_type: RequireAndVerifyClientCert\n'),
      '4:21',
      /add client_ca_file/,
    ],
    ['a CA without verification', tls('  client_ca_file: other.crt\n'), '4:19', /has no effect with NoClientCert/],
    [
      'a CA that is none',
      tls('  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: nonsense.pem\n'),
      '5:19',
      /client_ca_file/,
    ],
    ['an old version', tls('  min_version: TLS10\n'), '4:16', /write TLS12 or TLS13/],
    ['versions the wrong way round', tls('  min_version: TLS13\n  max_version: TLS12\n'), '4:16', /swap them/],
    [
      'cipher_suites',
      tls('  cipher_suites: [TLS_AES_128_GCM_SHA256]\n'),
      '4:3',
      /cipher_suites is not supported by this server/,
    ],
    ['client_allowed_sans', tls('  client_allowed_sans: [a]\n'), '4:3', /client_allowed_sans is not supported/],
    ['HTTP/2', 'http_server_config:\n  http2: true\n', '2:10', /HTTP\/2 is not served here/],
    [
      'an unknown header',
      'http_server_config:\n  headers:\n    X-Frame-Option: deny\n',
      '3:5',
      /did you mean 'X-Frame-Options'/,
    ],
    [
      'a header of two lines',
      'http_server_config:\n  headers:\n    X-Frame-Options: "a\\nb"\n',
      '3:22',
      /must not have control characters/,
    ],
    ['a password in clear', 'basic_auth_users:\n  me: secret\n', '2:7', /not a bcrypt hash/],
    ['no password', 'basic_auth_users:\n  me:\n', '2:3', /must be a bcrypt hash/],
    ['a costly hash', `basic_auth_users:\n  me: $2y$15$${'a'.repeat(53)}\n`, '2:7', /cost above 14/],
    ['a rate limit', 'rate_limit: {}\n', '1:1', /rate_limit is not supported by this server: remove it/],
  ];
  for (const [what, yaml, place, message] of wrong) {
    it(`says where it has ${what}`, () => {
      assert.throws(
        () => read(yaml),
        (error) => {
          assert(error instanceof UserError);
          assert.equal(error.exitCode, EXIT.usage);
          assert.ok(error.message.startsWith(`${file}:${place}: `), error.message);
          assert.match(error.message.slice(file.length + place.length + 3), message);
          assert.doesNotMatch(error.message, /\n/);
          return true;
        },
      );
    });
  }

  it('says that it is missing', () => {
    assert.throws(() => new WebConfigFile(join(dir, 'none.yaml')), /none\.yaml: no such file: check the name$/);
  });

  it('is read again when it or a file that it names has changed, and kept when that is invalid', () => {
    const config = read(tls());
    assert.equal(config.refresh(), false);
    const { cert } = config.config.tls?.context ?? {};
    execFileSync('cp', [join(dir, 'other.crt'), join(dir, 'server.crt')]);
    assert.throws(() => config.refresh(), /key_file/);
    assert.equal(config.refresh(), false, 'says it once');
    assert.equal(config.config.tls?.context.cert, cert);
    execFileSync('cp', [join(dir, 'other.key'), join(dir, 'server.key')]);
    assert.equal(config.refresh(), true);
    assert.notEqual(config.config.tls?.context.cert, cert);
    writeFileSync(file, `basic_auth_users: { me: ${HASH} }\n`);
    assert.equal(config.refresh(), true);
    assert.equal(config.config.users.size, 1);
    rmSync(file);
    assert.throws(() => config.refresh(), /no such file/);
    assert.equal(config.config.users.size, 1);
  });
});

describe('basic authentication', () => {
  const header = (user: string, password: string): string =>
    `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`;
  const users = new Map([
    ['cheap', hashSync('one:two', 4)],
    ['dear', hashSync('pässword', 5)],
  ]);

  it('lets everybody in without users', async () => {
    assert.equal(await new BasicAuth(new Map()).check(undefined), 'yes');
  });

  it('knows right from wrong, also at the second time', async () => {
    const auth = new BasicAuth(users);
    for (let time = 0; time < 2; time++) {
      assert.equal(await auth.check(header('cheap', 'one:two')), 'yes');
      assert.equal(await auth.check(header('dear', 'pässword')), 'yes');
      assert.equal(await auth.check(header('dear', 'one:two')), 'no');
      assert.equal(await auth.check(header('nobody', 'one:two')), 'no');
      assert.equal(await auth.check(header('nobody', '')), 'no');
    }
  });

  for (const bad of [
    undefined,
    '',
    'Basic',
    'Basic !',
    'Bearer abc',
    `Basic ${Buffer.from('cheap').toString('base64')}`,
  ]) {
    it(`takes ${JSON.stringify(bad)} for nobody`, async () => {
      assert.equal(await new BasicAuth(users).check(bad), 'no');
    });
  }

  it('does not let checks pile up', async () => {
    const auth = new BasicAuth(users);
    const answers = await Promise.all(Array.from({ length: 40 }, (_, n) => auth.check(header('dear', String(n)))));
    assert.equal(answers.filter((answer) => answer === 'busy').length, 24);
    assert.equal(await auth.check(header('dear', 'pässword')), 'yes', 'and goes on afterwards');
  });

  it('checks one password once for all who ask at the same time', async () => {
    const auth = new BasicAuth(users);
    const answers = await Promise.all(Array.from({ length: 16 }, () => auth.check(header('dear', 'pässword'))));
    assert.ok(answers.every((answer) => answer === 'yes'));
  });

  it('keeps who is right while others guess', async () => {
    const auth = new BasicAuth(new Map([['me', hashSync('right', 4)]]));
    assert.equal(await auth.check(header('me', 'right')), 'yes');
    for (let guess = 0; guess < 120; guess++) await auth.check(header('me', String(guess)));
    // What is known is answered although all places are taken.
    const guesses = Array.from({ length: 16 }, (_, n) => auth.check(header('me', `x${n}`)));
    assert.equal(await auth.check(header('me', 'right')), 'yes');
    assert.equal(await auth.check(header('me', 'y')), 'busy');
    await Promise.all(guesses);
  });
});
