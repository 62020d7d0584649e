/** What is loaded while a row runs: nothing, the product as `up` runs it, parts of it, or a naive sockmap. */
import { join } from 'node:path';

import { pino } from 'pino';

import { BpfObject } from '../addon/index.js';
import { Controller } from '../controller/daemon/controller.js';
import { CgroupNames } from '../controller/datapath/cgroups.js';
import { Datapath } from '../controller/datapath/datapath.js';
import { compilePolicy } from '../controller/policy/evaluate.js';
import type { GateFacts } from '../controller/probe/findings.js';
import { cgroupRoot } from '../controller/probe/host.js';
import { cgroupTotals } from '../controller/view/totals.js';
import { policyOf } from '../test/kernel/support/stack.js';
import { BORROW_PROGRAM, OBJECT_FILE, ROOT } from '../test/kernel/support/sandbox.js';

export interface Loaded {
  /** Messages redirected since it was loaded; null where that is not counted. */
  redirected(): number | null;
  /** Detaches and frees it. */
  remove(): Promise<void>;
}

export const NOTHING: Loaded = { redirected: () => null, remove: () => Promise.resolve() };

const DEFAULT_POLICY = 'version: 1\n';
/** As `up` has it. */
const MAX_PAIRS = 16_384;
/** How long pairs may take to leave the sockmap, milliseconds. */
const PATIENCE = 3000;

/** The datapath with its controller, which ends with this process. */
export function loadSlipstream(cgroupDir: string, gate: GateFacts | undefined, policy = DEFAULT_POLICY): Loaded {
  const datapath = Datapath.load({
    objectFile: OBJECT_FILE,
    pinDir: undefined,
    cgroupDir,
    maxPairs: MAX_PAIRS,
    version: 'bench',
  });
  const cgroups = new CgroupNames(cgroupRoot());
  const controller = new Controller({
    datapath,
    cgroups,
    policy: compilePolicy(policyOf(policy)),
    gate,
    borrowProgram: BORROW_PROGRAM,
    log: pino({ level: 'silent' }),
  });
  controller.start();
  return {
    redirected: () => cgroupTotals(datapath, cgroups).reduce((sum, { messages }) => sum + messages, 0),
    remove: async () => {
      await controller.takeDown(PATIENCE);
      await controller.stop();
      datapath.remove();
    },
  };
}

/** The tracepoint program that looks at every receive on the machine, without anything it could find. */
export function loadTracepoint(): Loaded {
  const object = BpfObject.open(OBJECT_FILE);
  object.loadProgram('observe');
  object.load();
  const link = object.program('observe').attachTracepoint();
  return {
    redirected: () => 0,
    remove: () => {
      link.close();
      object.close();
      return Promise.resolve();
    },
  };
}

/** Programs that do nothing, or hardly anything, where the datapath has its own (test/fixtures/empty.bpf.c). */
export function loadEmpty(cgroupDir: string, sockops: 'empty_establish' | 'empty_remember'): Loaded {
  const object = BpfObject.open(join(ROOT, 'build', 'fixtures', 'empty.bpf.o'));
  object.load();
  const links = [object.program(sockops).attachCgroup(cgroupDir), object.program('empty_receive').attachTracepoint()];
  return {
    redirected: () => 0,
    remove: () => {
      for (const link of links) link.close();
      object.close();
      return Promise.resolve();
    },
  };
}

/** Every connection is redirected from its first byte, and nothing is checked (test/fixtures/naive.bpf.c). */
export function loadNaive(cgroupDir: string): Loaded {
  const object = BpfObject.open(join(ROOT, 'build', 'fixtures', 'naive.bpf.o'));
  object.load();
  const sockets = object.map('naive_sockets');
  const redirect = object.program('naive_redirect');
  redirect.attachSockmap(sockets);
  const link = object.program('naive_establish').attachCgroup(cgroupDir);
  return {
    redirected: () => Number(object.map('naive_count').lookup(Buffer.alloc(4))?.readBigUInt64LE() ?? 0n),
    remove: () => {
      link.close();
      redirect.detachSockmap(sockets);
      object.close();
      return Promise.resolve();
    },
  };
}
