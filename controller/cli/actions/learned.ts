import { LearnedPrograms } from '../../policy/learned.js';
import { requireRoot } from '../../probe/host.js';
import { renderTable } from '../../view/pairs.js';
import { shortName } from '../../view/short-name.js';
import type { LearnedArguments } from '../commands/learned.js';
import { say } from '../options.js';

export function runLearned(args: LearnedArguments): void {
  requireRoot('learned');
  const learned = new LearnedPrograms(args['state-dir']);
  if (args.forget !== undefined || args['forget-all'] === true) {
    const count = learned.forget(args.forget);
    say(args.json ? JSON.stringify({ forgotten: count }) : `forgot ${String(count)}`);
  } else if (args.json) {
    say(JSON.stringify(learned.list, undefined, 2));
  } else if (learned.list.length === 0) {
    say('nothing learned');
  } else {
    const rows = learned.list.map(({ program, cgroup, cause, at, kernel }) => [
      program,
      shortName(cgroup),
      cause,
      at,
      kernel,
    ]);
    say(renderTable([['PROGRAM', 'CGROUP', 'CAUSE', 'SINCE', 'KERNEL'], ...rows]));
  }
}
