import { INITIAL } from '../../top/frame.js';
import { takeSample } from '../../top/sample.js';
import { top } from '../../top/top.js';
import { withDatapath } from '../../view/reader.js';
import { isHeld } from '../../view/status.js';
import type { TopArguments } from '../commands/top.js';
import { objectFile, VERSION } from '../package-info.js';

export async function runTop(args: TopArguments): Promise<void> {
  const pinDir = args['pin-dir'];
  const options = {
    version: VERSION,
    interval: 1000 * args.interval,
    iterations: args.iterations,
    state: { ...INITIAL, sort: args.sort, filter: args.filter ?? '' },
    screen: !args.plain,
  };
  await top(options, () =>
    withDatapath(pinDir, objectFile(), ({ datapath, cgroups }) => takeSample(datapath, cgroups, isHeld(pinDir))),
  );
}
