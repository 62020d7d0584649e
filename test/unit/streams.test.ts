import assert from 'node:assert/strict';

import {
  areSmall,
  GAIN,
  hasSlowed,
  isFaster,
  isSteady,
  measureAgainAfter,
  middle,
  retryAfter,
  streamBacklog,
  WINDOWS,
} from '../../controller/decisions/streams.js';

const KIB = 1024;
const MIB = 1024 * KIB;

describe('decisions about streams', () => {
  it('keep one that is clearly faster in most windows', () => {
    assert.ok(isFaster([100, 100, 100, 100], [120, 130, 125, 118]));
    assert.ok(isFaster([100, 100, 100, 100], [50, 130, 125, 118]), 'one window may be unlucky');
  });

  it('leave to TCP what is not clearly faster', () => {
    assert.ok(!isFaster([100, 100, 100, 100], [105, 108, 104, 109]), `less than ${String(GAIN)} times`);
    assert.ok(!isFaster([100, 100, 100, 100], [60, 70, 200, 200]), 'two windows below');
    assert.ok(!isFaster([100, 100, 100, 100], [80, 80, 80, 80]));
    assert.ok(!isFaster([100, 100, 100, 100], []));
  });

  it('measure only what talks all the time', () => {
    assert.ok(isSteady(Array<number>(WINDOWS).fill(1)));
    assert.ok(!isSteady([1, 1, 0, 1]));
    assert.ok(!isSteady([1, 1]));
  });

  it('tell small messages', () => {
    assert.ok(areSmall(64 * 1000, 1000));
    assert.ok(!areSmall(64 * KIB * 10, 10));
    assert.ok(!areSmall(0, 0), 'of none nothing is known');
  });

  it('measure again, less often each time, but for ever', () => {
    assert.deepEqual([0, 1, 2, 6, 1000].map(measureAgainAfter), [10_000, 20_000, 40_000, 600_000, 600_000]);
    assert.deepEqual([0, 1, 2, 10, 1000].map(retryAfter), [1000, 2000, 4000, 600_000, 600_000]);
    assert.ok(hasSlowed(80, 100));
    assert.ok(!hasSlowed(95, 100));
  });

  it('give a stream eight times the backlog, within limits, and never less than the policy', () => {
    assert.equal(streamBacklog(MIB), 8 * MIB);
    assert.equal(streamBacklog(16 * MIB), 64 * MIB);
    assert.equal(streamBacklog(64 * MIB), 64 * MIB);
    assert.equal(streamBacklog(64 * KIB), 512 * KIB);
  });

  it('take the middle of an even number between its two', () => {
    assert.equal(middle([4, 1, 3, 2]), 2.5);
    assert.equal(middle([3, 1, 2]), 2);
    assert.equal(middle([]), 0);
  });
});
