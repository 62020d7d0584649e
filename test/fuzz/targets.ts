/** What is fuzzed: whatever the bytes, each must refuse them in its own words or take them. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

import { pino } from 'pino';

import { HttpServer } from '../../controller/daemon/http.js';
import { parseWebConfig } from '../../controller/daemon/web-config.js';
import { EXIT, UserError } from '../../controller/errors.js';
import { compilePolicy, decide, decidePair, excludedProgram } from '../../controller/policy/evaluate.js';
import { parsePolicy } from '../../controller/policy/parse.js';
import { readSection, replaceSection } from './object-file.js';

const FOLDER = dirname(fileURLToPath(import.meta.url));
export const CORPUS = join(FOLDER, 'corpus');

export interface Target {
  name: string;
  seeds: Buffer[];
  /** Put into what is made of the seeds. */
  words: string[];
  /** Resolves to undefined while all is well, or rejects. */
  start: () => Promise<Running>;
}

export interface Running {
  try: (bytes: Buffer) => Promise<void> | void;
  stop: () => Promise<void> | void;
  /** Besides failures, for people. */
  remark?: () => string | undefined;
}

/** What is kept for a target: where it began, and what once broke it. */
export function corpus(name: string): Buffer[] {
  const folder = join(CORPUS, name);
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .sort()
    .map((file) => readFileSync(join(folder, file)));
}

const nothing = (): void => undefined;

const policy: Target = {
  name: 'policy',
  seeds: corpus('policy'),
  words: [
    'rules:',
    'defaults:',
    '- name: ',
    'cgroup: ',
    'pod: ',
    'ports: ',
    '*',
    '**',
    '&a ',
    '*a',
    '<<: ',
    '!!',
    '{',
    ']',
  ],
  start: () =>
    Promise.resolve({
      try: (bytes): void => {
        const result = parsePolicy(bytes.toString(), 'fuzz');
        if (!result.ok) {
          assert.ok(result.problems.length > 0);
          for (const { message } of result.problems) assert.doesNotMatch(message, /\n/);
          return;
        }
        const compiled = compilePolicy(result.policy);
        const names = [undefined, '', 'redis-server', bytes.toString().slice(0, 15)];
        const places = [undefined, '/', '/system.slice/redis.service', `/${bytes.toString().slice(-40)}`];
        const ends = names.flatMap((program) =>
          places.map((cgroup) => ({ program, cgroup, ports: [6379, 40000] as [number, number] })),
        );
        for (const end of ends) {
          assert.ok(['accelerate', 'observe', 'tcp'].includes(decide(compiled, end).action));
          for (const other of ends) {
            assert.deepEqual(decidePair(compiled, [end, other]), decidePair(compiled, [other, end]));
          }
          excludedProgram(compiled, end.program ?? '');
        }
      },
      stop: nothing,
    }),
};

const webConfig: Target = {
  name: 'web-config',
  seeds: corpus('web-config'),
  words: [
    'tls_server_config:',
    'basic_auth_users:',
    'http_server_config:',
    'headers:',
    '$2y$10$',
    'null',
    '&a ',
    '*a',
    '{',
  ],
  start: () =>
    Promise.resolve({
      try: (bytes): void => {
        try {
          parseWebConfig(bytes.toString(), 'fuzz.yaml');
        } catch (error) {
          if (!(error instanceof UserError)) throw error;
          assert.equal(error.exitCode, EXIT.usage);
          assert.doesNotMatch(error.message, /\n/);
        }
      },
      stop: nothing,
    }),
};

const http: Target = {
  name: 'http',
  seeds: corpus('http'),
  words: [
    'GET ',
    'HEAD ',
    'POST ',
    'HTTP/1.1',
    '\r\n',
    'Host: localhost\r\n',
    'Accept: ',
    'Content-Length: ',
    'chunked',
    '%00',
    '..',
    '?',
  ],
  start: async () => {
    const server = await HttpServer.listen(
      { host: '127.0.0.1', port: 0 },
      {
        metrics: () => Promise.resolve('# EOF\n'),
        api: { status: () => ({}), pairs: () => ({}) } as never,
        notReady: () => undefined,
      },
      { log: pino({ level: 'silent' }) },
    );
    const { port } = new URL(server.origin);
    const answerTo = async (bytes: Buffer): Promise<string> => {
      const socket = connect({ port: Number(port), host: '127.0.0.1' });
      const parts: Buffer[] = [];
      socket.on('data', (part) => parts.push(part));
      socket.on('error', nothing); // it may be reset
      socket.end(bytes);
      await once(socket, 'close');
      return Buffer.concat(parts).toString('latin1');
    };
    return {
      try: async (bytes) => {
        const answer = await answerTo(bytes);
        assert.match(answer, /^(HTTP\/1\.1 (2\d\d|3\d\d|4\d\d|501|503|505) |$)/);
        const health = await answerTo(
          Buffer.from('GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'),
        );
        assert.match(health, /^HTTP\/1\.1 200 /);
      },
      stop: () => server.close(),
    };
  },
};

/** Only what libbpf gives to the addon, so only the section .BTF changes. In a process of its own: it may crash. */
const object = readFileSync(join(FOLDER, '..', '..', 'build', 'bpf', 'adopt.bpf.o'));
const btf: Target = {
  name: 'btf',
  seeds: [readSection(object, '.BTF'), ...corpus('btf')],
  words: ['pair', 'direction', '\0'],
  start: async () => {
    const folder = mkdtempSync(join(tmpdir(), 'slipstream-fuzz-'));
    const file = join(folder, 'object.bpf.o');
    let libraryCrashes = 0;
    const open = () => {
      const child = spawn(process.execPath, ['--import', 'tsx', join(FOLDER, 'read-btf.ts'), file], {
        stdio: ['pipe', 'pipe', 'ignore'],
      });
      child.stdin.on('error', nothing);
      const lines = createInterface({ input: child.stdout });
      const ended = once(child, 'close');
      return { child, ended, lines: lines[Symbol.asyncIterator]() };
    };
    let reader = open();
    /** False: the process has ended. */
    const says = async (wanted: string): Promise<boolean> => {
      const timer = setTimeout(() => reader.child.kill('SIGKILL'), 20_000);
      const { value, done } = (await reader.lines.next()) as IteratorResult<string, unknown>;
      clearTimeout(timer);
      return done !== true && value === wanted;
    };
    assert.ok(await says('ready'));
    return {
      try: async (bytes) => {
        writeFileSync(file, replaceSection(object, '.BTF', bytes));
        reader.child.stdin.write('\n');
        const opened = await says('opened');
        if (opened && (await says('read'))) return;
        const [code, signal] = (await reader.ended) as [number | null, string | null];
        reader = open();
        assert.ok(await says('ready'));
        // libbpf takes what it opens for the compiler's work.
        if (opened) assert.fail(`reading its types ended with ${String(signal ?? code)}`);
        libraryCrashes++;
      },
      stop: async () => {
        reader.child.stdin.end();
        await reader.ended;
        rmSync(folder, { recursive: true });
      },
      remark: () =>
        libraryCrashes > 0 ? `libbpf itself crashed ${String(libraryCrashes)} times opening an object` : undefined,
    };
  },
};

export const TARGETS: readonly Target[] = [policy, webConfig, http, btf];
