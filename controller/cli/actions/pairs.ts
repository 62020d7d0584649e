import { setTimeout } from 'node:timers/promises';

import { filterPairs, type PairFilter, sortPairs } from '../../view/pair-list.js';
import { pairRows, renderPairs } from '../../view/pairs.js';
import { withDatapath } from '../../view/reader.js';
import type { PairsArguments } from '../commands/pairs.js';
import { say } from '../options.js';
import { objectFile } from '../package-info.js';

const WATCH_INTERVAL = 1000;

export async function runPairs(args: PairsArguments): Promise<void> {
  const filter: PairFilter = { cgroup: args.cgroup, port: args.port };
  const print = (): void => {
    const all = withDatapath(args['pin-dir'], objectFile(), ({ datapath, cgroups }) =>
      pairRows(datapath, cgroups, args.state),
    );
    const found = filterPairs(all, filter);
    const rows = args.sort === undefined ? found : sortPairs(found, args.sort);
    if (args.json) say(JSON.stringify(rows, undefined, args.watch ? 0 : 2));
    else if (rows.length > 0 || !args['no-header'])
      say(renderPairs(rows, { columns: args.columns, header: !args['no-header'] }));
  };
  const stop = new AbortController();
  const end = (): void => {
    stop.abort();
  };
  // Standard output fails when nobody reads it any more.
  if (args.watch) {
    process.once('SIGINT', end).once('SIGTERM', end);
    process.stdout.once('error', end);
  }
  do print();
  while (args.watch && (await pause(WATCH_INTERVAL, stop.signal)));
}

/** False if it was cut short. */
function pause(ms: number, signal: AbortSignal): Promise<boolean> {
  return setTimeout(ms, true, { signal }).catch(() => false);
}
