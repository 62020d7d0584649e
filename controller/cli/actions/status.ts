import { readStatus, renderStatus } from '../../view/status.js';
import { say } from '../options.js';
import { objectFile, VERSION } from '../package-info.js';

export function runStatus(args: { 'pin-dir': string; json: boolean }): void {
  const status = readStatus(args['pin-dir'], objectFile(), VERSION);
  say(args.json ? JSON.stringify(status, undefined, 2) : renderStatus(status));
}
