/** Invariants 1 and 4 at work: order and integrity while paths change and sockets come and go. */
import assert from 'node:assert/strict';

import { SIDES } from '../../controller/datapath/pair-table.js';
import { needsRoot, program, Sandbox } from './support/sandbox.js';
import { Stack } from './support/stack.js';

interface Done {
  bytes: number;
  messages: number;
  eofs: number;
  opened: number;
  mismatches: number;
  seconds: number;
}

const GIB = 2 ** 30;

describe('integrity', function () {
  this.timeout(600_000);
  let sandbox: Sandbox;

  before(function () {
    needsRoot(this);
  });

  beforeEach(() => {
    sandbox = new Sandbox('integrity');
  });

  afterEach(() => sandbox.dispose());

  const cases = [
    {
      name: '200 pairs, 4 GiB, sizes from 1 B to 1 MiB',
      args: ['--connections', '200', '--bytes', '4G'],
      atLeast: 4 * GIB,
    },
    {
      name: '50 pairs that close and reconnect, slow readers and small buffers',
      args: ['--connections', '50', '--bytes', '512M', '--reconnect', '--slow-readers', '20', '--buffers', '32K'],
      atLeast: GIB / 2,
    },
  ];
  for (const { name, args, atLeast } of cases) {
    it(`${name}: every byte and every end of stream arrives`, async () => {
      const stack = new Stack(sandbox, { maxPairs: 4096 });
      const seed = process.env['SLIPSTREAM_SEED'] ?? String(Date.now() % 1_000_000);
      const traffic = sandbox.spawn(program('traffic'), [...args, '--seed', seed]);
      const random = generator(Number(seed));
      let removals = 0;
      let holds = 0;
      // Nothing to wait for here: the disturbance is the test.
      const disturbance = setInterval(() => {
        const inserted = stack.records('inserted');
        for (let n = 0; n < 5 && inserted.length > 0; n++) {
          const record = inserted[Math.floor(random() * inserted.length)]!;
          if (random() < 0.4) {
            if (stack.controller.demote(record.slot, record.control, 'requested', 0n)) removals++;
          } else {
            const side = SIDES[random() < 0.5 ? 0 : 1];
            stack.datapath.pairs.hold(record.slot, side, !record.directions[side].held);
            holds++;
          }
        }
      }, 20);
      let switches = 0;
      const seen = new Map<string, number>();
      const counting = setInterval(() => {
        for (const { slot, control, directions } of stack.records()) {
          seen.set(`${String(slot)}.${String(control.generation)}`, directions[0].switches + directions[1].switches);
        }
      }, 100);
      let done: Done;
      try {
        done = await traffic.event<Done>('done');
        assert.equal(await traffic.exited(), 0, traffic.lines.slice(-3).join('\n'));
      } catch (error) {
        throw new Error(`seed ${seed}: ${traffic.lines.slice(-6).join('\n')}`, { cause: error });
      } finally {
        clearInterval(disturbance);
        clearInterval(counting);
      }
      for (const count of seen.values()) switches += count;
      const redirected = stack.redirected();
      const { promotions } = stack.datapath.controllerCounters;
      console.log(
        `      seed ${seed}: ${String(done.bytes)} bytes in ${done.seconds.toFixed(1)} s, ${String(redirected.bytes)} redirected, ` +
          `${String(switches)} switches, ${String(holds)} forced, ${String(removals)} removals, ${String(promotions)} insertions`,
      );
      assert.equal(done.mismatches, 0);
      assert.ok(done.bytes >= atLeast);
      assert.equal(done.eofs, done.opened, 'every stream ends with EOF');
      assert.ok(redirected.bytes > atLeast / 50, 'too little was redirected to prove anything');
      assert.ok(switches >= 200, `only ${String(switches)} path switches`);
      assert.ok(removals >= 50, `only ${String(removals)} forced removals`);
      assert.ok(promotions >= removals / 2, `only ${String(promotions)} insertions`);
    });
  }
});

/** mulberry32: a run is repeated by its seed. */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
