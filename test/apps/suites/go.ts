/** The tests of Go's standard library. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';

import { ROOT } from '../../kernel/support/sandbox.js';
import { type Outcomes, type Suite, Unavailable } from '../suite.js';

interface Event {
  Action: string;
  Test?: string;
  Output?: string;
}

const OUT = join(ROOT, 'build', 'apps');
const ENV = { GOCACHE: join(OUT, 'go-cache'), GOFLAGS: '', GO111MODULE: 'off', GOTOOLCHAIN: 'local', GOPROXY: 'off' };
// Behind the PATH's own, which may be another version.
const GO = '/usr/bin/go';

function suite(name: string, goPackage: string): Suite {
  const binary = join(OUT, `${name}.test`);
  let source = '';
  return {
    name: `go-${name}`,
    ours: false,
    // The runtime makes every socket non-blocking.
    forms: { accelerated: '' },
    prepare(): void {
      if (!existsSync(GO)) throw new Unavailable(`${GO} is missing`);
      mkdirSync(OUT, { recursive: true });
      const options = { env: { ...process.env, ...ENV }, encoding: 'utf8', stdio: 'pipe' } as const;
      source = join(execFileSync(GO, ['env', 'GOROOT'], options).trim(), 'src', goPackage);
      if (!existsSync(source)) throw new Unavailable(`${source} is missing: Go came without its source`);
      execFileSync(GO, ['test', '-c', '-o', binary, goPackage], options);
    },
    async run(place, only): Promise<Outcomes> {
      const args = ['-test.v=true', '-test.short', '-test.timeout=240s'];
      if (only !== undefined) args.push(`-test.run=${only.split('/').map(exactly).join('/')}`);
      const output = await place.run(GO, ['tool', 'test2json', '-t', binary, ...args], {
        // 2 where a test failed, 1 from test2json itself.
        codes: [0, 1, 2],
        seconds: 300,
        cwd: source,
        env: { ...ENV, HOME: place.dir },
      });
      const outcomes: Outcomes = new Map();
      const printed = new Map<string, string>();
      for (const line of output.split('\n')) {
        const { Action: action, Test: test, Output: text } = JSON.parse(line) as Event;
        if (test === undefined) continue;
        if (action === 'output') printed.set(test, (printed.get(test) ?? '') + (text ?? ''));
        const verdict = { run: 'unfinished', pass: 'passed', fail: 'failed', skip: 'skipped' }[action];
        if (verdict === undefined) continue;
        outcomes.set(test, { verdict, detail: (printed.get(test) ?? '').slice(-4000) });
      }
      if (outcomes.size === 0) throw new Error(`no test of ${goPackage} ran: ${output.slice(-2000)}`);
      return outcomes;
    },
  };
}

function exactly(name: string): string {
  return `^${name.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')}$`;
}

export const go: Suite[] = [suite('net', 'net'), suite('net-http', 'net/http')];
