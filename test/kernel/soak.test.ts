/** A minute of the soak: `npm run soak` takes as long as one likes. */
import assert from 'node:assert/strict';

import { table } from '../soak/report.js';
import { soak } from '../soak/soak.js';
import { needsRoot } from './support/sandbox.js';

const SECONDS = 60;

describe('soak', function () {
  this.timeout(300_000);

  before(function () {
    needsRoot(this);
  });

  it('a minute of kills, signals, reloads, full tables and short memory: every byte, every end, nothing left', async () => {
    const seed = Number(process.env['SLIPSTREAM_SEED'] ?? Date.now() % 1_000_000);
    const report = await soak({ seconds: SECONDS, seed, say: () => undefined });
    const indented = table(report).replaceAll(/^/gm, '      ');
    console.log(`      seed ${seed}\n${indented}`);
    const { connections, datapath, kills, controller, failure } = report;
    assert.equal(failure, null, `npm run soak -- --minutes ${SECONDS / 60} --seed ${seed}`);
    assert.ok(connections.connections >= 1000, 'too few connections to prove anything');
    assert.ok(connections.early > 0, 'no connection lost its other end');
    assert.ok(connections.signals > 0, 'no signal was handled');
    assert.ok(datapath.promotions >= 300, `only ${datapath.promotions} promotions`);
    assert.ok(datapath.redirectedBytes > connections.bytes / 100, 'too little was redirected to prove anything');
    for (const [kind, count] of Object.entries(kills)) assert.ok(count > 0, `no kill of a ${kind}`);
    assert.ok(controller.adoptions > 0 && controller.downs > 2, 'the controller was left alone');
    // Whether an invalid one is among those that a controller lived to count is chance.
    assert.ok(datapath.policyReloads + datapath.policyReloadFailures > 0, 'the policy was left alone');
    assert.ok((datapath.unpaired['table_full'] ?? 0) > 0, 'the table was never full');
    assert.ok(report.floods > 0, 'the table of handshakes was never full');
  });
});
