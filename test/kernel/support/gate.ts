/** The kernel gate, put to this kernel. */
import { join } from 'node:path';

import { pino } from 'pino';

import { type GateOptions, type GateResult, runGate } from '../../../controller/probe/gate.js';
import { OBJECT_FILE, ROOT, type Sandbox } from './sandbox.js';

/** In a cgroup below the sandbox's, so that nothing beside it is looked at. */
export function gate(sandbox: Sandbox, options: Partial<GateOptions> = {}): Promise<GateResult> {
  return runGate({
    objectFile: OBJECT_FILE,
    socketsProgram: join(ROOT, 'build', 'probe', 'slipstream-gate'),
    cgroupRoot: sandbox.cgroup,
    cgroupDir: sandbox.cgroup,
    log: pino({ level: 'silent' }),
    ...options,
  });
}
