/** Writes build/man/slipstream-bpf.8: npm run man. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { describedCommands, PROGRAM } from './commands.js';
import { manualPage } from './manual.js';
import { PACKAGE_ROOT, VERSION } from './package-info.js';

// Packages are built to be reproducible (reproducible-builds.org).
const seconds = process.env['SOURCE_DATE_EPOCH'];
const date = (seconds === undefined ? new Date() : new Date(Number(seconds) * 1000)).toISOString().slice(0, 10);
const dir = join(PACKAGE_ROOT, 'build', 'man');
mkdirSync(dir, { recursive: true });
writeFileSync(
  join(dir, `${PROGRAM}.8`),
  manualPage({ program: PROGRAM, version: VERSION, date, commands: describedCommands() }),
);
