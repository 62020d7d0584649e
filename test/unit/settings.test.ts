/** The records that the controller writes. */
import assert from 'node:assert/strict';

import { ControllerCounters, DEFAULT_TUNING, Settings } from '../../controller/datapath/settings.js';
import { objectLayout } from './support.js';

describe('settings', () => {
  function make(): { settings: Settings; word: (path: string, value?: number) => number } {
    const layout = objectLayout();
    const memory = new ArrayBuffer(layout.size('settings'));
    const word = (path: string, value?: number): number => {
      const { offset } = layout.field('settings', path);
      const view = new DataView(memory);
      if (value !== undefined) view.setUint32(offset, value, true);
      return view.getUint32(offset, true);
    };
    return { settings: new Settings(layout, memory), word };
  }

  it('keep what they were given', () => {
    const { settings, word } = make();
    settings.abiVersion = 3;
    settings.maxPairs = 1024;
    settings.attachedCgroup = 2n ** 60n;
    settings.loadedNs = 5n;
    settings.version = '1.2.3';
    settings.paused = true;
    settings.tune({ ...DEFAULT_TUNING, promoteAfter: 2 });
    assert.deepEqual(
      [settings.abiVersion, settings.maxPairs, settings.attachedCgroup, settings.loadedNs, settings.version],
      [3, 1024, 2n ** 60n, 5n, '1.2.3'],
    );
    assert.deepEqual([settings.paused, settings.leave, settings.promoteAfter], [true, false, 2]);
    assert.deepEqual([word('run_messages'), word('run_bytes'), word('message_limit')], [16, 1 << 20, 1 << 16]);
  });

  it('number the runs of the iterator, never 0', () => {
    const { settings, word } = make();
    assert.deepEqual([settings.nextPass(), settings.nextPass()], [1, 2]);
    word('pass', 0xffffffff);
    assert.deepEqual([settings.nextPass(), word('pass')], [1, 1]);
  });

  it('count decisions by reason', () => {
    const layout = objectLayout();
    const counters = new ControllerCounters(layout, new ArrayBuffer(layout.size('controller_counters')));
    counters.promoted();
    counters.refused('policy');
    counters.refused('policy');
    counters.demoted('stream');
    counters.policyReloaded(true);
    counters.policyReloaded(false);
    assert.equal(counters.promotions, 1);
    assert.deepEqual([counters.refusals['policy'], counters.refusals['program']], [2, 0]);
    assert.deepEqual([counters.demotions['stream'], counters.demotions['reader']], [1, 0]);
    assert.deepEqual(counters.reloads, { success: 1, failure: 1 });
    assert(!('none' in counters.refusals) && !('none' in counters.demotions));
  });
});
