/** Every command, in the order in which help and the manual page name them. */
import { benchCommand } from './commands/bench.js';
import { captureCommand } from './commands/capture.js';
import { completionCommand } from './commands/completion.js';
import { doctorCommand } from './commands/doctor.js';
import { downCommand } from './commands/down.js';
import { explainCommand } from './commands/explain.js';
import { learnedCommand } from './commands/learned.js';
import { pairsCommand } from './commands/pairs.js';
import { policyCommand } from './commands/policy.js';
import { statusCommand } from './commands/status.js';
import { topCommand } from './commands/top.js';
import { upCommand } from './commands/up.js';
import { type CommandDescription, describeCommands } from './description.js';
import type { Named } from './mistakes.js';

export const PROGRAM = 'slipstream-bpf';

export const COMMANDS: readonly Named[] = [
  upCommand,
  downCommand,
  statusCommand,
  pairsCommand,
  topCommand,
  explainCommand,
  captureCommand,
  policyCommand,
  learnedCommand,
  doctorCommand,
  benchCommand,
  completionCommand(PROGRAM, () => describedCommands()),
];

/** The same as data. */
export function describedCommands(): CommandDescription[] {
  return describeCommands(COMMANDS);
}
