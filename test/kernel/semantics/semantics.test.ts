/**
 * Nobody can tell: each case of cases.ts on plain TCP and on an accelerated pair,
 * in three forms. Where the kernel makes equality impossible the case says so, and
 * the row of docs/guarantees.md that admits it.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { type Answer, Connection } from '../support/endpoint.js';
import { needsRoot, ROOT, Sandbox } from '../support/sandbox.js';
import { EAGER, type PairRecord, Stack } from '../support/stack.js';
import { type Case, CASES } from './cases.js';

/** When the pair is promoted. Null: plain TCP. */
type Form = null | 'from the first byte' | 'both directions DIRECT' | 'promoted in mid-case';

/** What may differ between two runs of the same program. */
const VOLATILE = new Set(['microseconds', 'where', 'port', 'tag', 'calls', 'again']);

function observable(answer: Answer): string {
  return JSON.stringify(Object.fromEntries(Object.entries(answer).filter(([key]) => !VOLATILE.has(key))));
}

describe('semantics', function () {
  this.timeout(60_000);
  let sandbox: Sandbox;
  let stack: Stack;
  let plain: string;

  before(function () {
    needsRoot(this);
    sandbox = new Sandbox('semantics');
    plain = sandbox.makeCgroup('plain', 'beside');
    stack = new Stack(sandbox, { policy: EAGER });
  });

  after(() => sandbox.dispose());

  /** Runs a case once; returns the record and how many messages were redirected. */
  async function record(test: Case, form: Form): Promise<{ lines: string[]; redirected: number }> {
    const where = form === null ? { client: { cgroup: plain }, server: { cgroup: plain } } : {};
    // Without Nagle the state after a step does not depend on when an ACK came.
    const sockopts = ['TCP_NODELAY 1'];
    const connection = await Connection.open(sandbox, { ...where, sockopts, blocking: test.blocking ?? false });
    const lines: string[] = [];
    const wait = test.blocking === true ? 'wait=block' : '';
    const step = async (side: 'client' | 'server', command: string): Promise<Answer> => {
      const answer = await connection[side].run(command);
      lines.push(`${side} ${command} → ${observable(answer)}`);
      return answer;
    };
    if (form === 'both directions DIRECT') await connection.promote(stack, wait);
    let midways = 0;
    await test.run({
      client: (command) => step('client', command),
      server: (command) => step('server', command),
      midway: async () => {
        midways++;
        if (form !== 'promoted in mid-case' || midways > 1) return;
        // What a case did so far may rightly keep the pair from being promoted.
        const settled = ({ control, refusal }: PairRecord): boolean =>
          control.state === 'inserted' || refusal !== 'none';
        await connection.driveUntil(stack, 'promoted or refused', settled, wait);
      },
      connection,
    });
    assert.ok(midways > 0, 'the case has no midway point');
    const redirected = stack.redirected().messages;
    await connection.close();
    return { lines, redirected };
  }

  for (const test of CASES) {
    for (const form of ['from the first byte', 'both directions DIRECT', 'promoted in mid-case'] as const) {
      it(`${test.name}: ${form}${test.differs === undefined ? '' : ' (may differ)'}`, async () => {
        const expected = await record(test, null);
        const before = stack.redirected().messages;
        const actual = await record(test, form);
        if (form === 'both directions DIRECT') assert.ok(actual.redirected > before, 'nothing was redirected');
        if (test.differs === undefined) {
          assert.deepEqual(actual.lines, expected.lines);
        } else {
          const page = readFileSync(join(ROOT, 'docs', 'guarantees.md'), 'utf8');
          assert.ok(page.includes(test.differs.row), `docs/guarantees.md does not admit ${test.differs.row}`);
        }
      });
    }
  }
});
