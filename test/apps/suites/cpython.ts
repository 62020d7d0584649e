/** CPython's own tests of what talks TCP. */
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';

import { ROOT } from '../../kernel/support/sandbox.js';
import type { Place } from '../place.js';
import { type Outcome, type Outcomes, type Suite, Unavailable } from '../suite.js';

// Not another Python that may come first on the PATH.
const PYTHON = '/usr/bin/python3';
/** Longer than any of the tests takes. */
const PATIENCE_S = 90;

interface Line extends Outcome {
  test: string;
}

/** Runs until its end, the next hung test, or a crash. */
async function runOnce(place: Place, names: string[], outcomes: Outcomes): Promise<'ended' | 'stopped'> {
  const child = place.start(PYTHON, [join(ROOT, 'test', 'apps', 'programs', 'unittests.py')], {
    // Certificates and messages are compared with expectations.
    env: { LANG: 'C.UTF-8', LC_ALL: 'C.UTF-8', SSL_CERT_FILE: '', SSL_CERT_DIR: '', PYTHONPATH: '' },
  });
  child.process.stdin.end(JSON.stringify({ run: names, leave: [...outcomes.keys()] }));
  const process = { ended: false };
  void child.exited().then(() => (process.ended = true));
  let taken = 0;
  let running = '';
  let last = Date.now();
  const take = (): boolean => {
    for (; taken < child.lines.length; taken++) {
      last = Date.now();
      const { test, verdict, detail } = JSON.parse(child.lines[taken] ?? '') as Line;
      if (verdict === 'end') return true;
      if (verdict === 'started') running = test;
      else {
        running = '';
        // A test may fail in more than one way; the first counts.
        if (outcomes.get(test)?.verdict !== 'failed') outcomes.set(test, { verdict, detail });
      }
    }
    return false;
  };
  for (;;) {
    const done = process.ended;
    if (take()) {
      // Threads that tests left behind don't hold us up.
      place.kill();
      await child.exited();
      return 'ended';
    }
    const late = Date.now() - last > PATIENCE_S * 1000;
    if (done || late) {
      place.kill();
      await child.exited();
      if (running === '') throw new Error(`Python ended before its last test: ${child.stderr.slice(-3000)}`);
      const detail = late ? `no end within ${String(PATIENCE_S)} s` : `crash: ${child.stderr.slice(-3000)}`;
      outcomes.set(running, { verdict: late ? 'hung' : 'crashed', detail });
      return 'stopped';
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

function suite(module: string, forms: Suite['forms']): Suite {
  return {
    name: `cpython-${module}`,
    ours: false,
    forms,
    prepare(): void {
      if (!existsSync(PYTHON)) throw new Unavailable(`${PYTHON} is missing`);
      try {
        execFileSync(PYTHON, ['-c', `import test.${module}`], { stdio: 'pipe' });
      } catch {
        throw new Unavailable(`${PYTHON} comes without test.${module}: its testsuite package is missing`);
      }
    },
    async run(place, only): Promise<Outcomes> {
      const outcomes: Outcomes = new Map();
      while ((await runOnce(place, [only ?? `test.${module}`], outcomes)) === 'stopped' && only === undefined);
      return outcomes;
    },
  };
}

export const cpython: Suite[] = [
  suite('test_socket', { accelerated: '', blocking: '' }),
  suite('test_asyncio', { accelerated: '' }),
  suite('test_ssl', { accelerated: 'its servers block in recv()', blocking: '' }),
  suite('test_httpservers', {
    accelerated: 'its servers block in recv()',
    blocking: 'each of its connections carries a request or two',
  }),
];
