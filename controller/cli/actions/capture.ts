import { capture } from '../../capture/capture.js';
import { EXIT, UserError } from '../../errors.js';
import { type CaptureArguments, MOST } from '../commands/capture.js';
import { captureObjectFile, objectFile, VERSION } from '../package-info.js';

export async function runCapture(args: CaptureArguments): Promise<void> {
  if (args.write === undefined) throw new UserError('-w is missing: give it a file, or - for a pipe', EXIT.usage);
  const options = {
    pinDir: args['pin-dir'],
    output: args.write,
    pair: args.pair,
    port: args.port,
    cgroup: args.cgroup,
    snaplen: args.snaplen ?? MOST,
    count: args.count ?? Infinity,
    duration: args.duration,
  };
  const stop = new AbortController();
  const end = (): void => {
    stop.abort();
  };
  // Once: a second signal ends a process whose output nobody takes.
  process.once('SIGINT', end).once('SIGTERM', end);
  await capture(options, {
    objectFile: objectFile(),
    captureObjectFile: captureObjectFile(),
    version: VERSION,
    say: (line) => {
      process.stderr.write(`${line}\n`);
    },
    stop: stop.signal,
  });
}
