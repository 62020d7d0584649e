import { makeDaemonLog } from '../../daemon/log.js';
import { up } from '../../daemon/up.js';
import type { UpArguments } from '../commands/up.js';
import { say } from '../options.js';
import { adoptObjectFile, borrowProgram, objectFile, socketsProgram, VERSION } from '../package-info.js';

export async function runUp(args: UpArguments): Promise<void> {
  await up(
    {
      policy: args.policy,
      cgroup: args.cgroup,
      pinDir: args['pin-dir'],
      metrics: args.metrics,
      webConfig: args['web-config'],
      maxPairs: args['max-pairs'],
      detachOnExit: args['detach-on-exit'],
      stateDir: args['state-dir'],
      stallAfter: args['stall-after'],
      acceptKnownBugs: args['accept-known-bugs'],
      adopt: args.adopt ? adoptObjectFile() : undefined,
      timeout: args.timeout,
    },
    {
      objectFile: objectFile(),
      socketsProgram: socketsProgram(),
      borrowProgram: borrowProgram(),
      version: VERSION,
      log: makeDaemonLog({ level: args['log-level'] }),
      say,
    },
  );
}
