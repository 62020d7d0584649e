/**
 * Nobody can tell: each case on plain TCP and on an accelerated pair, in three
 * forms. Where the kernel makes equality impossible, the case names the answers
 * that differ and the row of docs/guarantees.md that admits it.
 */
import assert from 'node:assert/strict';

import { Connection, type ConnectionOptions } from '../support/endpoint.js';
import { gate } from '../support/gate.js';
import { needsRoot, Sandbox, skip } from '../support/sandbox.js';
import { EAGER, eventually, type PairRecord, Stack } from '../support/stack.js';
import type { Answers, Case, Difference } from './case.js';
import { CASES } from './cases.js';
import { admitted, RACES } from './guarantees.js';
import { natted } from './nat.js';
import { type Line, record } from './record.js';

const FORMS = ['from the first byte', 'both directions DIRECT', 'promoted in mid-case'] as const;
type Form = (typeof FORMS)[number];

/** What a run on an accelerated pair came to. */
interface Run {
  lines: Line[];
  /** Messages redirected by the case itself. */
  redirected: number;
  /** Messages of the case that passed, by reason. */
  passed: Record<string, number>;
  /** Why the pair was not promoted in mid-case. */
  refusal: string | undefined;
}

describe('semantics', function () {
  this.timeout(60_000);
  let sandbox: Sandbox;
  let stack: Stack;
  let plain: string;
  const skipped = new Map<Case, string>();
  const expected = new Map<Case, Line[]>();
  /** What the kernel gate finds wrong here. */
  let failing: readonly string[];

  before(async function () {
    needsRoot(this);
    sandbox = new Sandbox('semantics');
    plain = sandbox.makeCgroup('plain', 'beside');
    ({
      masks: { failed: failing },
    } = await gate(sandbox));
    stack = new Stack(sandbox, { policy: EAGER });
  });

  after(() => sandbox.dispose());

  function open(test: Case, cgroup?: string): Promise<Connection> {
    const route: ConnectionOptions | string = test.through === 'nat' ? natted(sandbox) : {};
    if (typeof route === 'string') throw new Error(route);
    return Connection.open(sandbox, {
      ...route,
      client: { ...route.client, ...(cgroup !== undefined && { cgroup }) },
      server: { ...route.server, ...(cgroup !== undefined && { cgroup }) },
      // Without Nagle the state after a step does not depend on when an ACK came.
      sockopts: ['TCP_NODELAY 1'],
      blocking: test.blocking ?? false,
    });
  }

  /** The record on plain TCP, or why there is none. */
  async function onTcp(test: Case): Promise<Line[] | string> {
    const known = expected.get(test) ?? skipped.get(test);
    if (known !== undefined) return known;
    const route = test.through === 'nat' ? natted(sandbox) : undefined;
    let missing = typeof route === 'string' ? route : undefined;
    if (missing === undefined && test.needs !== undefined) {
      const trial = await open(test, plain);
      missing = await test.needs(trial);
      await trial.close();
    }
    if (missing !== undefined) {
      skipped.set(test, missing);
      return missing;
    }
    const connection = await open(test, plain);
    const lines = await record(test, connection, {});
    await connection.close();
    expected.set(test, lines);
    return lines;
  }

  async function accelerated(test: Case, form: Form): Promise<Run> {
    const connection = await open(test);
    const wait = test.blocking === true ? 'wait=block' : '';
    let refusal: string | undefined;
    if (form === 'both directions DIRECT') await connection.promote(stack, wait);
    const before = { redirected: stack.redirected().messages, passed: stack.passed() };
    const lines = await record(test, connection, {
      midway: async () => {
        if (form !== 'promoted in mid-case') return;
        // What a case did so far may rightly keep the pair from being promoted.
        const wanted = test.prevented?.refusal;
        const settled = (pair: PairRecord): boolean =>
          pair.control.state === 'inserted' || (wanted !== undefined && pair.refusal === wanted);
        const pair = await connection.driveUntil(stack, wanted ?? 'promoted', settled, wait);
        refusal = pair.control.state === 'inserted' ? 'none' : pair.refusal;
      },
      inserted: async () => {
        if (form === 'from the first byte') await connection.inState(stack, 'inserted');
      },
      left: async () => {
        if (form === 'both directions DIRECT') await connection.inState(stack, 'observed');
      },
    });
    if (form === 'both directions DIRECT' && test.prevented?.demotion !== undefined) {
      await eventually('demoted', () => connection.pairIn(stack)?.demotion === test.prevented?.demotion);
    }
    const redirected = stack.redirected().messages - before.redirected;
    const passed = Object.fromEntries(
      Object.entries(stack.passed()).map(([reason, count]) => [reason, count - (before.passed[reason] ?? 0)]),
    );
    await connection.close();
    return { lines, redirected, passed, refusal };
  }

  /** Of a command: what may differ. */
  function admissible({ answers, failing: exceptions = {} }: Difference): Answers {
    const id = failing.find((finding): finding is keyof typeof exceptions => finding in exceptions);
    return (id === undefined ? undefined : exceptions[id]) ?? answers;
  }

  /** Throws unless the run is as the case says; returns whether it equals TCP's. */
  function judge(test: Case, form: Form, wanted: Line[], run: Run): boolean {
    const { prevented, differs, silent } = test;
    if (form === 'promoted in mid-case' && prevented?.refusal !== undefined) {
      assert.equal(run.refusal, prevented.refusal, 'why the pair was not promoted');
    } else if (form === 'both directions DIRECT' && prevented?.passes !== undefined) {
      assert.ok((run.passed[prevented.passes] ?? 0) > 0, `nothing passed: ${JSON.stringify(run.passed)}`);
    } else if (form === 'both directions DIRECT' && silent !== true && prevented === undefined) {
      assert.ok(run.redirected > 0, `nothing was redirected: ${JSON.stringify(run.passed)}`);
    }
    const isPrevented = form === 'promoted in mid-case' && prevented?.refusal !== undefined;
    const isUntouched = form === 'from the first byte' && run.redirected === 0;
    if (differs === undefined || isPrevented || isUntouched) {
      assert.deepEqual(run.lines, wanted);
      return true;
    }
    let equal = true;
    assert.equal(run.lines.length, wanted.length);
    for (const [index, { command, answer }] of wanted.entries()) {
      const actual = run.lines[index];
      assert.equal(actual?.command, command);
      if (actual.answer === answer) continue;
      const [tcp, promoted] = admissible(differs)[command] ?? [];
      const said = `${command}: ${answer} on TCP, ${actual.answer} on the pair`;
      assert.ok(tcp?.test(answer) === true && promoted?.test(actual.answer) === true, said);
      equal = false;
    }
    return equal;
  }

  for (const test of CASES) {
    for (const form of FORMS) {
      it(`${test.name}: ${form}`, async function () {
        const wanted = await onTcp(test);
        if (typeof wanted === 'string') skip(this, wanted);
        let run = await accelerated(test, form);
        let equal: boolean;
        try {
          equal = judge(test, form, wanted, run);
        } catch (error) {
          // Now and then one message uses TCP to keep the way open.
          if ((run.passed['keepalive'] ?? 0) === 0) throw error;
          run = await accelerated(test, form);
          equal = judge(test, form, wanted, run);
        }
        if (test.differs !== undefined && form === 'both directions DIRECT' && this.test !== undefined) {
          this.test.title += equal
            ? ' (may differ, but is equal here)'
            : ` (differs: ${admitted(test.differs.row).because})`;
        }
      });
    }
  }

  it('every difference that docs/guarantees.md admits is shown by a case, or is a race', () => {
    const shown = [...CASES.flatMap(({ differs }) => differs?.row ?? []), ...RACES];
    for (const row of shown) admitted(row);
    const silent = admitted.rows.filter(({ call }) => !shown.some((row) => call.startsWith(row)));
    assert.deepEqual(
      silent.map(({ call }) => call),
      [],
    );
  });
});
