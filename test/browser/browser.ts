/** A real browser: Debian's Chromium, driven by playwright-core, in a profile of its own that asks the network for nothing. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';

import { type Browser, chromium } from 'playwright-core';

import type { Sandbox } from '../kernel/support/sandbox.js';
import { skip } from '../kernel/support/sandbox.js';

const PROGRAM = '/usr/bin/chromium';

export function needsBrowser(context: Mocha.Context): void {
  if (!existsSync(PROGRAM)) skip(context, `${PROGRAM} is missing: the distribution does not offer it`);
}

/** Ends with the sandbox. */
export async function startBrowser(sandbox: Sandbox): Promise<Browser> {
  const browser = await chromium.launch({
    executablePath: PROGRAM,
    env: { ...process.env, HOME: join(sandbox.dir), XDG_CONFIG_HOME: sandbox.dir, XDG_CACHE_HOME: sandbox.dir },
    args: [
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
  sandbox.undo(() => browser.close());
  return browser;
}
