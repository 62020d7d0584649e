/** The datapath and a controller inside the test's own process, so that a test can reach into the table. */
import { pino } from 'pino';

import { Controller } from '../../../controller/daemon/controller.js';
import { CgroupNames } from '../../../controller/datapath/cgroups.js';
import { Datapath } from '../../../controller/datapath/datapath.js';
import { type Control, type PairRecord, SIDES, type State } from '../../../controller/datapath/pair-table.js';
import { compilePolicy } from '../../../controller/policy/evaluate.js';
import { parsePolicy } from '../../../controller/policy/parse.js';
import type { Policy } from '../../../controller/policy/schema.js';
import { cgroupRoot } from '../../../controller/probe/host.js';
import type { PromotionSource } from '../../../controller/probe/kernel.js';
import { cgroupTotals } from '../../../controller/view/totals.js';
import { BORROW_PROGRAM, OBJECT_FILE, type Sandbox } from './sandbox.js';

/** Parses a policy that a test wrote. */
export function policyOf(yaml: string): Policy {
  const result = parsePolicy(yaml, 'test');
  if (!result.ok) throw new Error(result.problems.map(({ message }) => message).join('; '));
  return result.policy;
}

/** Promotes as soon as possible, also blocking readers. */
export const EAGER = 'version: 1\ndefaults: { promoteAfter: 2, blockingReaders: true }\n';

export interface StackOptions {
  policy?: string;
  maxPairs?: number;
  /** Milliseconds; default 0, so that a test knows of each message which way it goes. */
  keepalive?: number;
  /** Milliseconds. */
  stallAfter?: number;
  /** Bytes; default 0, so that no stream is measured. */
  streamBytes?: number;
  streamGain?: number;
  promotion?: PromotionSource;
}

export class Stack {
  readonly datapath: Datapath;
  readonly controller: Controller;
  readonly cgroups = new CgroupNames(cgroupRoot());
  #removed = false;

  constructor(sandbox: Sandbox, options: StackOptions = {}) {
    this.datapath = Datapath.load({
      objectFile: OBJECT_FILE,
      pinDir: sandbox.pinDir,
      cgroupDir: sandbox.cgroup,
      maxPairs: options.maxPairs ?? 1024,
      version: 'test',
      promotion: options.promotion,
    });
    this.controller = new Controller({
      datapath: this.datapath,
      cgroups: this.cgroups,
      policy: compilePolicy(policyOf(options.policy ?? EAGER)),
      tuning: { keepalive: options.keepalive ?? 0, streamBytes: options.streamBytes ?? 0 },
      streamGain: options.streamGain,
      stallAfter: options.stallAfter ?? 30_000,
      borrowProgram: BORROW_PROGRAM,
      log: pino({ level: process.env['SLIPSTREAM_TEST_LOG'] ?? 'silent' }),
    });
    this.controller.start();
    sandbox.undo(async () => {
      await this.remove();
    });
  }

  async remove(): Promise<void> {
    if (this.#removed) return;
    this.#removed = true;
    await this.controller.stop();
    this.datapath.remove();
  }

  /** Every pair that is not FREE. */
  records(...states: State[]): PairRecord[] {
    const { pairs } = this.datapath;
    const wanted: State[] =
      states.length > 0 ? states : ['half', 'observed', 'candidate', 'approved', 'inserted', 'draining', 'leaving'];
    return [...pairs.slots(...wanted)].flatMap(([slot, control]) => pairs.read(slot, control) ?? []);
  }

  /** The pair whose server listens on this port. */
  pairOn(port: number): PairRecord | undefined {
    return this.records().find((record) => record.ends.some((end) => end.port === port && end.remotePort !== port));
  }

  /** Redirected by open and closed pairs together. */
  redirected(): { bytes: number; messages: number } {
    const totals = cgroupTotals(this.datapath, this.cgroups);
    return {
      bytes: totals.reduce((sum, { bytes }) => sum + bytes, 0),
      messages: totals.reduce((sum, { messages }) => sum + messages, 0),
    };
  }

  passed(): Record<string, number> {
    return this.datapath.counters().passed;
  }

  /** Turns the paths of a pair: `direct`, `tcp` for each sender. */
  paths(slot: number): string[] {
    const record = this.datapath.pairs.read(slot);
    return SIDES.map((side) => record?.directions[side].path ?? 'gone');
  }
}

/** Waits for a condition in shared memory, for which the kernel has no event. */
export async function eventually<T>(what: string, find: () => T | undefined | false, timeoutMs = 10_000): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const found = find();
    if (found !== undefined && found !== false) return found;
    if (performance.now() > deadline) throw new Error(`${what}: not within ${String(timeoutMs)} ms`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

export type { Control, PairRecord };
