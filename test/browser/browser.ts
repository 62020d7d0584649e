/** A real browser: Debian's Chromium, driven by playwright-core, in a profile of its own that asks the network for nothing. */
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { type Browser, chromium } from 'playwright-core';

import type { Sandbox } from '../kernel/support/sandbox.js';
import { skip } from '../kernel/support/sandbox.js';

const PROGRAM = '/usr/bin/chromium';

export function needsBrowser(context: Mocha.Context): void {
  if (!existsSync(PROGRAM)) skip(context, `${PROGRAM} is missing: the distribution does not offer it`);
}

/** Ends with the sandbox. @param netns network namespace by name; default: this process's */
export async function startBrowser(sandbox: Sandbox, netns?: string): Promise<Browser> {
  const inside = join(sandbox.dir, 'browser');
  if (netns !== undefined) {
    writeFileSync(inside, `#!/bin/sh\nexec nsenter --net=/run/netns/${netns} ${PROGRAM} "$@"\n`, { mode: 0o755 });
  }
  const browser = await chromium.launch({
    executablePath: netns === undefined ? PROGRAM : inside,
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
