/**
 * Proof that the suite can see: the same cases on a datapath that redirects
 * everything from the first byte and checks nothing (test/fixtures/naive.bpf.c).
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';

import { BpfObject } from '../../../addon/index.js';
import { Connection } from '../support/endpoint.js';
import { needsRoot, ROOT, Sandbox } from '../support/sandbox.js';
import type { Case } from './case.js';
import { CASES } from './cases.js';
import { type Line, record } from './record.js';

/** A case that takes longer than this hangs. */
const LIMIT_MS = 2500;
/** Plain TCP gets more, for a busy machine's sake. */
const PATIENCE_MS = 20_000;
/** Cases at a time: most wait. */
const WORKERS = 6;
const ENOUGH = 10;

class Naive {
  readonly #object: BpfObject;
  readonly #close: (() => void)[] = [];

  constructor(cgroup: string) {
    this.#object = BpfObject.open(join(ROOT, 'build', 'fixtures', 'naive.bpf.o'));
    this.#object.load();
    const redirect = this.#object.program('naive_redirect');
    const sockets = this.#object.map('naive_sockets');
    redirect.attachSockmap(sockets);
    const link = this.#object.program('naive_establish').attachCgroup(cgroup);
    this.#close.push(() => {
      redirect.detachSockmap(sockets);
    });
    this.#close.push(() => {
      link.close();
    });
  }

  get redirected(): bigint {
    return this.#object.map('naive_count').lookup(Buffer.alloc(4))?.readBigUInt64LE() ?? 0n;
  }

  close(): void {
    for (const close of this.#close.reverse()) close();
    this.#object.close();
  }
}

describe('semantics: a naive datapath', function () {
  this.timeout(120_000);
  let sandbox: Sandbox;
  let plain: string;
  let naive: Naive;

  before(function () {
    needsRoot(this);
    sandbox = new Sandbox('naive');
    plain = sandbox.makeCgroup('plain', 'beside');
    naive = new Naive(sandbox.cgroup);
    sandbox.undo(() => {
      naive.close();
    });
  });

  after(() => sandbox.dispose());

  /** The record, or what there is of it if the case fails or hangs. */
  async function tried(test: Case, cgroup: string, limitMs: number): Promise<{ lines: Line[]; done: boolean }> {
    const options = { client: { cgroup }, server: { cgroup }, sockopts: ['TCP_NODELAY 1'] };
    const connection = await Connection.open(sandbox, { ...options, blocking: test.blocking ?? false });
    const end = (): void => {
      for (const { child } of [connection.client, connection.server]) child.signal('SIGKILL');
    };
    const lines: Line[] = [];
    const timer = setTimeout(end, limitMs);
    try {
      if ((await test.needs?.(connection)) === undefined) await record(test, connection, {}, lines);
      return { lines, done: true };
    } catch {
      return { lines, done: false };
    } finally {
      clearTimeout(timer);
      end();
    }
  }

  it(`fails at least ${String(ENOUGH)} cases that must be equal`, async () => {
    const left = CASES.filter(({ differs, through }) => differs === undefined && through === undefined);
    const failed: string[] = [];
    const worker = async (): Promise<void> => {
      for (let test = left.shift(); test !== undefined; test = left.shift()) {
        const tcp = await tried(test, plain, PATIENCE_MS);
        assert.ok(tcp.done, `${test.name}: not even plain TCP gets through`);
        const actual = await tried(test, sandbox.cgroup, LIMIT_MS);
        if (!actual.done) failed.push(`${test.name} (hangs or breaks off)`);
        else if (!isDeepStrictEqual(actual.lines, tcp.lines)) failed.push(test.name);
      }
    };
    await Promise.all(Array.from({ length: WORKERS }, worker));
    console.log(failed.map((name) => `      the naive datapath fails: ${name}`).join('\n'));
    assert.ok(naive.redirected > 0n, 'nothing was redirected');
    assert.ok(failed.length >= ENOUGH, `${String(failed.length)} cases failed`);
  });
});
