/** The dashboard in a real browser, under a real daemon with real traffic. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

import type { AxeResults, RunOptions } from 'axe-core';
import type { Browser, BrowserContextOptions, Page } from 'playwright-core';

import { Daemon } from '../kernel/support/daemon.js';
import { Connection } from '../kernel/support/endpoint.js';
import { needsRoot, Sandbox } from '../kernel/support/sandbox.js';
import { needsBrowser, startBrowser } from './browser.js';

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const DESKTOP = { width: 1280, height: 900 };
const CONTAINER = '3f2a1b4c5d6e7081'.repeat(4);
const PHONE = { width: 360, height: 740 };

/** A page and what went wrong on it. */
interface Visit {
  page: Page;
  problems: string[];
  requests: string[];
}

describe('the dashboard', function () {
  this.timeout(60_000);
  let sandbox: Sandbox;
  let daemon: Daemon;
  let browser: Browser;
  let direct: Connection;
  let blocking: Connection;
  let policy: string;

  before(async function () {
    needsRoot(this);
    needsBrowser(this);
    sandbox = new Sandbox('dashboard');
    policy = join(sandbox.dir, 'policy.yaml');
    writeFileSync(policy, 'version: 1\n');
    daemon = await Daemon.start(sandbox, ['--policy', policy]);
    browser = await startBrowser(sandbox);
    direct = await Connection.open(sandbox);
    while ((await daemon.metric('slipstream_redirected_messages_total')) === 0) await direct.pingPong(20, 1000);
    blocking = await Connection.open(sandbox, {
      blocking: true,
      client: { cgroup: sandbox.makeCgroup('shop.service') },
      server: { cgroup: sandbox.makeCgroup(`docker-${CONTAINER}.scope`) },
    });
    await blocking.pingPong(200, 100);
    while ((await daemon.metric('slipstream_refusals_total', 'reason="blocking"')) === 0)
      await blocking.pingPong(20, 100);
  });

  after(async () => {
    await sandbox.dispose();
  });

  async function visit(options: BrowserContextOptions = {}): Promise<Visit> {
    const context = await browser.newContext({ viewport: DESKTOP, ...options });
    const page = await context.newPage();
    const problems: string[] = [];
    const requests: string[] = [];
    page.on('console', (message) => {
      if (['error', 'warning'].includes(message.type())) problems.push(message.text());
    });
    page.on('pageerror', (error) => problems.push(String(error)));
    page.on('request', (request) => requests.push(request.url()));
    await page.goto(new URL('/', daemon.metricsUrl).href);
    await page.locator('#connection[data-state=good]').waitFor();
    return { page, problems, requests };
  }

  /** Keeps both connections busy until `done`. */
  async function talkUntil<T>(done: Promise<T>): Promise<T> {
    const state = { over: false };
    const ended = done.finally(() => {
      state.over = true;
    });
    ended.catch(() => undefined);
    while (!state.over) {
      await direct.pingPong(20, 1000);
      await blocking.pingPong(5, 100);
    }
    return ended;
  }

  const text = async (page: Page, selector: string): Promise<string> =>
    (await page.locator(selector).innerText()).trim();

  /** Resolves when the text of an element is as wanted. */
  async function shows(page: Page, selector: string, wanted: RegExp): Promise<void> {
    await page.waitForFunction(
      ([of, source]) => new RegExp(source).test(document.querySelector<HTMLElement>(of)?.innerText ?? ''),
      [selector, wanted.source] as const,
    );
  }

  it('shows what moves, what is promoted and what is not, from this server alone and without an error', async () => {
    const { page, problems, requests } = await visit();
    await talkUntil(shows(page, '#redirected', /^[1-9][\d.]* [KM]iB\/s$/));
    await talkUntil(shows(page, '#tcp', /^[1-9][\d.]* (Ki)?B\/s$/));
    assert.equal(await text(page, '#promoted'), '1');
    assert.equal(await text(page, '#promoted-of'), 'of 2 with both ends here');
    assert.match(await text(page, '#saved'), /^≈ [\d.]+ (µs|ms|s)$/);
    assert.match(await text(page, '#saved-total'), /since loading$/);
    assert.match(await text(page, '#states'), /inserted\s+1\s+promoted/);
    assert.match(await text(page, '#refusals'), /blocking\s+1\s+an end blocks in recv/);
    assert.match(await text(page, '#passes'), /fence\s+\d+\s+the first message after promotion/);
    assert.match(await text(page, '#gate'), /^Promotion is allowed: \d+ of \d+ checks are in order$/);
    assert.match(await text(page, '#controller'), /Policy\s+\S+policy\.yaml, 0 rules, [0-9a-f]{12}/);
    const rows = page.locator('#top tbody tr');
    assert.equal(await rows.count(), 2);
    const first = await rows.first().innerText();
    assert.ok(first.includes(`127.0.0.1:${direct.port}`) && first.includes('direct'), first);
    const last = await rows.last().innerText();
    assert.ok(last.includes(`127.0.0.1:${blocking.port}`) && last.includes('TCP') && last.includes('blocking'), last);
    // As people know it; the whole path when it is pointed at.
    assert.deepEqual(await rows.last().locator('.cgroup').allInnerTexts(), ['shop.service', 'docker:3f2a1b4c5d6e']);
    assert.deepEqual(
      await rows
        .last()
        .locator('.cgroup')
        .evaluateAll((spans) => spans.map((span) => span.getAttribute('title'))),
      [`${sandbox.cgroupPath}/shop.service`, `${sandbox.cgroupPath}/docker-${CONTAINER}.scope`],
    );
    assert.deepEqual(await rows.first().locator('.cgroup').allInnerTexts(), [sandbox.cgroupPath, sandbox.cgroupPath]);
    assert.match(
      (await page.locator('#chart').getAttribute('aria-label')) ?? '',
      /^Throughput: .* redirected, .* over TCP$/,
    );
    assert.ok((await page.locator('#chart canvas').count()) === 1);
    assert.deepEqual(problems, []);
    const { origin } = new URL(daemon.metricsUrl);
    assert.deepEqual(
      requests.filter((url) => !url.startsWith(`${origin}/`)),
      [],
    );
    assert.ok(requests.length > 8);
    await page.context().close();
  });

  it('estimates with the figure that a person gives, and keeps it', async () => {
    const { page } = await visit();
    const total = await daemon.metric('slipstream_redirected_messages_total');
    await page.fill('#per-message', '1000');
    await page.keyboard.press('Tab');
    const wanted =
      total >= 60_000 ? `${Math.floor(total / 60_000)} min` : `${(total / 1000).toFixed(total >= 10_000 ? 1 : 2)} s`;
    await shows(page, '#saved-total', new RegExp(`^each second, ≈ ${wanted.replace('.', '[.]')}.* since loading$`));
    await page.fill('#per-message', '0');
    await page.keyboard.press('Tab');
    await shows(page, '#saved-total', /^each second, ≈ 0 s since loading$/);
    await page.reload();
    await shows(page, '#saved-total', /^each second, ≈ 0 s since loading$/);
    await page.context().close();
  });

  for (const colorScheme of ['light', 'dark'] as const) {
    for (const [name, viewport] of [
      ['desktop', DESKTOP],
      ['phone', PHONE],
    ] as const) {
      it(`is accessible and fits: ${name}, ${colorScheme}`, async () => {
        const { page, problems } = await visit({ viewport, colorScheme, reducedMotion: 'reduce' });
        await talkUntil(shows(page, '#redirected', /[1-9]/));
        const results = await page.evaluate<AxeResults, { source: string; options: RunOptions }>(
          async ({ source, options }) => {
            // As a debugger does, past the content security policy.
            (0, eval)(source);
            return (window as unknown as { axe: { run: (options: RunOptions) => Promise<AxeResults> } }).axe.run(
              options,
            );
          },
          {
            source: AXE,
            options: { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] },
          },
        );
        assert.deepEqual(
          results.violations.map(({ id, nodes }) => [id, nodes.map(({ html }) => html)]),
          [],
        );
        assert.ok(
          results.passes.some(({ id }) => id === 'color-contrast'),
          'contrast was looked at',
        );
        const tooWide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
        assert.equal(tooWide, 0, 'the page scrolls sideways');
        const cut = await page.evaluate(() =>
          [...document.querySelectorAll<HTMLElement>('.value, .sub, h2, .pill, .button')]
            .filter((element) => element.scrollWidth > element.clientWidth + 1 && element.clientWidth > 0)
            .map((element) => element.innerText),
        );
        assert.deepEqual(cut, []);
        assert.deepEqual(problems, []);
        const directory = process.env['SLIPSTREAM_SCREENSHOTS'];
        if (directory !== undefined) {
          await page.screenshot({ path: join(directory, `${name}-${colorScheme}.png`), fullPage: true });
        }
        await page.context().close();
      });
    }
  }

  it('can be used with the keyboard, and keeps the theme', async () => {
    const { page } = await visit({ colorScheme: 'light' });
    const background = (): Promise<string> =>
      page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
    const light = await background();
    await page.keyboard.press('Tab');
    assert.equal(await page.evaluate(() => document.activeElement?.className), 'skip');
    await page.keyboard.press('Tab');
    assert.equal(await page.evaluate(() => document.activeElement?.id), 'theme');
    await page.keyboard.press('Enter'); // light
    assert.equal(await background(), light);
    await page.keyboard.press('Space'); // dark
    const dark = await background();
    assert.notEqual(dark, light);
    await page.reload();
    assert.equal(await background(), dark);
    assert.equal(await text(page, '#theme'), 'Theme: dark');
    await page.click('#theme');
    assert.equal(await background(), light);
    await page.context().close();
  });

  it('does not ask while nobody looks', async () => {
    const { page, requests } = await visit();
    await page.evaluate(() => {
      Object.defineProperty(document, 'hidden', { configurable: true, value: true });
      document.dispatchEvent(new Event('visibilitychange'));
    });
    // What was under way has its answer.
    await page.waitForLoadState('networkidle');
    const before = requests.length;
    // Ten requests from elsewhere pass in the meantime: the time is that of three polls at least.
    await page.waitForTimeout(3500);
    assert.equal(requests.length, before);
    await page.evaluate(() => {
      Object.defineProperty(document, 'hidden', { configurable: true, value: false });
      document.dispatchEvent(new Event('visibilitychange'));
    });
    await page.waitForRequest(/api\/status/);
    await page.context().close();
  });

  it('says when a policy was not reloaded, and when the controller is gone and back', async () => {
    const { page } = await visit();
    writeFileSync(policy, 'version: 1\ndefaults: { action: <img src=x> }\n');
    await shows(page, '#controller', /Last reload\s+failed .* ago, the old one stays in force: .*policy\.yaml:2:/);
    assert.equal(await page.locator('#controller img').count(), 0);
    const { port } = new URL(daemon.metricsUrl);
    const alert = page.locator('#alert');
    assert.ok(await alert.isHidden());
    writeFileSync(policy, 'version: 1\n');
    assert.equal(await daemon.stop(), 0);
    await alert.waitFor();
    assert.match(await alert.innerText(), /^The controller is not reachable, trying again in \d+ s/);
    assert.equal(await text(page, '#connection'), 'Controller not reachable');
    daemon = await Daemon.start(sandbox, ['--metrics', `127.0.0.1:${port}`, '--policy', policy], {});
    await page.locator('#connection[data-state=good]').waitFor();
    assert.ok(await alert.isHidden());
    await page.context().close();
  });
});
