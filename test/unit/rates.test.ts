/** Rates are differences between two readings of the table. */
import assert from 'node:assert/strict';

import type { Datapath } from '../../controller/datapath/datapath.js';
import { type Rate, RateMeter } from '../../controller/view/rates.js';
import { fakeTable, type FakeTable } from './support.js';

describe('rates', () => {
  let table: FakeTable;
  let now: number;
  let meter: RateMeter;

  beforeEach(() => {
    table = fakeTable(8);
    now = 0;
    meter = new RateMeter({ pairs: table.pairs } as unknown as Datapath, () => now);
  });

  /** As a call, so that what was read once is not taken for what it is next. */
  const total = (): Rate | undefined => meter.total;

  function set(slot: number, redirected: number, messages: number, received: number): void {
    const { records, field } = table;
    records.set(slot, field('direction[0].redirected_bytes'), redirected);
    records.set(slot, field('direction[0].redirected_messages'), messages);
    records.set(slot, field('reader[1].received_bytes'), received);
  }

  it('are unknown at first, and after a long pause', () => {
    table.put(1, 1, 'inserted');
    set(1, 1000, 10, 1000);
    assert.equal(total(), undefined);
    now = 1000;
    assert.deepEqual(total(), { redirectedBytes: 0, redirectedMessages: 0, tcpBytes: 0 });
    now = 20_000;
    set(1, 9000, 90, 9000);
    assert.equal(total(), undefined);
    assert.equal(meter.of(1, 1), undefined);
  });

  it('tell redirected bytes from those over TCP, of each pair and of all', () => {
    table.put(1, 1, 'inserted');
    table.put(2, 1, 'observed');
    assert.equal(total(), undefined);
    now = 2000;
    set(1, 4000, 40, 5000);
    set(2, 0, 0, 600);
    assert.deepEqual(meter.of(1, 1), { redirectedBytes: 2000, redirectedMessages: 20, tcpBytes: 500 });
    assert.deepEqual(meter.of(2, 1), { redirectedBytes: 0, redirectedMessages: 0, tcpBytes: 300 });
    assert.deepEqual(total(), { redirectedBytes: 2000, redirectedMessages: 20, tcpBytes: 800 });
    assert.deepEqual(meter.busiest(), [1, 2]);
  });

  it('are read once for all who ask within a second', () => {
    table.put(1, 1, 'inserted');
    assert.equal(total(), undefined);
    now = 1000;
    set(1, 1000, 1, 1000);
    assert.equal(total()?.redirectedBytes, 1000);
    now = 1500;
    set(1, 9000, 9, 9000);
    assert.equal(total()?.redirectedBytes, 1000);
  });

  it('are never below nothing, and not those of an earlier pair', () => {
    table.put(1, 1, 'inserted');
    set(1, 9000, 90, 9000);
    assert.equal(total(), undefined);
    now = 1000;
    set(1, 9500, 95, 9100); // 400 bytes wait
    assert.deepEqual(meter.of(1, 1), { redirectedBytes: 500, redirectedMessages: 5, tcpBytes: 0 });
    now = 2000;
    table.put(1, 2, 'inserted');
    set(1, 70, 7, 70);
    assert.equal(meter.of(1, 1), undefined);
    assert.deepEqual(meter.of(1, 2), { redirectedBytes: 70, redirectedMessages: 7, tcpBytes: 0 });
    table.put(1, 2, 'closed');
    now = 3000;
    assert.deepEqual(meter.busiest(), []);
  });
});
