/**
 * What an operator does in the first hour, on a machine that has redis and nothing else: install, observe, apply what is
 * suggested, look at it, ask why, capture it, upgrade it under load, remove it.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import type { Browser } from 'playwright-core';

import { attachedPrograms } from '../../addon/index.js';
import type { PairRow } from '../../controller/view/pairs.js';
import { needsBrowser, startBrowser } from '../browser/browser.js';
import { type Machine, whyNoMachines } from '../kernel/support/machine.js';
import { needsRoot, Sandbox, skip } from '../kernel/support/sandbox.js';
import { Traffic } from '../kernel/support/traffic.js';
import { DebianMachine, PIN_DIR, POLICY, UNIT } from './debian.js';

/** How long the traffic is observed, seconds. */
const OBSERVE = 60;
const SHOP = 'shop.service';
const REDIS = 'redis-server.service';

describe('from a clean machine to an accelerated one and back', function () {
  this.timeout(300_000);
  this.bail(true);
  let sandbox: Sandbox;
  let debian: DebianMachine;
  let machine: Machine;

  before(async function () {
    needsRoot(this);
    needsBrowser(this);
    const reason = whyNoMachines();
    if (reason !== undefined) skip(this, reason);
    if (spawnSync('tshark', ['--version']).status !== 0) skip(this, 'tshark does not run');
    sandbox = new Sandbox('clean');
    debian = await DebianMachine.boot(sandbox, ['redis']);
    ({ machine } = debian);
    await machine.must('ip', 'link', 'set', 'lo', 'up').catch(() => undefined);
  });

  after(() => sandbox.dispose());

  const slipstream = (...args: string[]): Promise<string> => machine.must('slipstream-bpf', ...args);

  /** Requests a second that the shop makes, as it writes them down; it runs until it is stopped. */
  async function startShop(): Promise<void> {
    await machine.must('redis-cli', 'ping');
    await machine.must(
      ...['systemd-run', `--unit=${SHOP}`, '--collect', 'redis-benchmark', '-l', '-q'],
      ...['-c', '20', '-n', '100000', '-t', 'get,set', '-d', '200'],
    );
  }

  it('redis runs, and a shop that uses it', async () => {
    await machine.must('systemctl', 'start', REDIS);
    await startShop();
  });

  it('the package is installed, and observes', async () => {
    await debian.install();
    assert.equal(await debian.show('ActiveState'), 'active');
    assert.match(readFileSync(machine.path(POLICY), 'utf8'), /action: observe/);
    // Connections from before are not found; new ones are.
    await machine.must('systemctl', 'stop', SHOP);
    await startShop();
    await debian.until('what could be accelerated', () => {
      return (debian.status().datapath?.refusals['observe'] ?? 0) >= 20;
    });
  });

  it('a minute shows what would be gained, and a policy for it is written', async () => {
    const report = await slipstream(
      ...['policy', 'suggest', '--seconds', String(OBSERVE), '--output', '/root/suggested.yaml'],
    );
    assert.match(report, /shop/);
    assert.match(report, /redis-server/);
    assert.equal(debian.status().datapath?.redirectedMessages, 0, 'it touched something');
    const suggested = readFileSync(machine.path('/root/suggested.yaml'), 'utf8');
    assert.match(suggested, /action: accelerate/);
    await slipstream('policy', 'check', '/root/suggested.yaml');
    const decided = await slipstream(
      'policy',
      'test',
      '/root/suggested.yaml',
      ...['--cgroup', `unit:${REDIS}`, '--program', 'redis-server', '--port', '6379'],
      ...['--peer-cgroup', `unit:${SHOP}`, '--peer-program', 'redis-benchmark'],
    );
    assert.match(decided, /accelerate/);
  });

  it('applied, it accelerates the shop, which notices nothing', async () => {
    const before = debian.status().datapath?.pairs;
    assert.ok(before);
    await machine.must('cp', '/root/suggested.yaml', POLICY);
    await machine.must('systemctl', 'reload', UNIT);
    await debian.until('promoted pairs', () => (debian.status().datapath?.pairs.inserted ?? 0) >= 20);
    await debian.redirected(10_000);
    assert.equal((await machine.must('systemctl', 'is-active', SHOP)).trim(), 'active');
  });

  it('the dashboard shows it', async () => {
    let browser: Browser | undefined;
    try {
      browser = await startBrowser(sandbox, machine.netns);
      const page = await (await browser.newContext({ viewport: { width: 1280, height: 900 } })).newPage();
      await page.goto('http://127.0.0.1:9468/');
      await page.getByText(REDIS.replace('.service', '')).first().waitFor();
      await page.getByText('inserted').first().waitFor();
      const text = await page.locator('body').innerText();
      assert.match(text, /shop/);
      await page.screenshot({ path: join(sandbox.dir, 'dashboard.png') });
    } finally {
      await browser?.close();
    }
  });

  it('explain says why', async () => {
    const told = await slipstream('explain', '6379');
    assert.match(told, /accelerated|promoted/);
    assert.match(told, /redis-server/);
    const rows = JSON.parse(await slipstream('pairs', '--port', '6379', '--state', 'inserted', '--json')) as PairRow[];
    assert.ok(rows.length >= 20);
    for (const { server, client } of rows) assert.deepEqual([client.unit, server.unit], [SHOP, REDIS]);
  });

  it('a capture shows what tcpdump no longer sees', async () => {
    const seconds = ['timeout', '--preserve-status', '--signal=INT', '3'];
    await machine.must(...seconds, 'slipstream-bpf', 'capture', '--port', '6379', '-w', '/root/redis.pcapng');
    const file = join(sandbox.dir, 'redis.pcapng');
    execFileSync('cp', [machine.path('/root/redis.pcapng'), file]);
    const commands = execFileSync(
      'tshark',
      ['-r', file, '-d', 'tcp.port==6379,resp', '-T', 'fields', '-e', 'resp.bulk_string.value', '-Y', 'resp'],
      { encoding: 'utf8', maxBuffer: 2 ** 28, stdio: ['ignore', 'pipe', 'ignore'] },
    );
    // GET or SET, as the bytes are shown.
    assert.match(commands, /GET|SET|474554|534554/);
  });

  it('an upgrade under load loses not a byte', async () => {
    const traffic = new Traffic(sandbox, { cgroup: sandbox.makeCgroup('load'), netns: machine.netns });
    await traffic.moved(2 ** 20);
    const before = await debian.show('MainPID');
    await debian.install(debian.laterPackage('99.1'));
    assert.notEqual(await debian.show('MainPID'), before);
    await debian.redirected(10_000);
    await traffic.moved(2 ** 20);
    await traffic.finish();
    assert.equal((await machine.must('systemctl', 'is-active', SHOP)).trim(), 'active');
    assert.equal((await machine.must('redis-cli', 'ping')).trim(), 'PONG');
  });

  it('removed, nothing is left, and the shop goes on', async () => {
    await machine.must('apt-get', 'purge', '--yes', 'slipstream-bpf');
    assert.deepEqual(attachedPrograms(sandbox.cgroup, 'sock_ops'), []);
    assert.ok(!existsSync(machine.path(PIN_DIR)), 'pins are left');
    assert.deepEqual(
      readdirSync(sandbox.cgroup).filter((name) => name.includes('slipstream')),
      [],
    );
    const served = async (): Promise<number> =>
      Number(/total_commands_processed:(\d+)/.exec(await machine.must('redis-cli', 'info', 'stats'))?.[1]);
    const before = await served();
    await debian.until('the shop goes on', async () => (await served()) > before + 1000);
    await debian.assertNothingLeft();
    assert.equal((await machine.must('systemctl', 'is-active', SHOP)).trim(), 'active');
    const journal = await machine.must('journalctl', '--no-pager', '--output=cat', `--unit=${SHOP}`);
    assert.deepEqual(
      journal.split('\n').filter((line) => /error|reset|closed|refused/i.test(line)),
      [],
    );
    await machine.must('systemctl', 'stop', SHOP, REDIS);
  });
});
