/** The daemon's log: what the journal reads, and no flood. */
import assert from 'node:assert/strict';
import { fstatSync, openSync, closeSync } from 'node:fs';

import { Activity, type Decisions } from '../../controller/daemon/activity.js';
import { isJournal, type LogOptions, makeDaemonLog } from '../../controller/daemon/log.js';

interface Line {
  level: number;
  msg: string;
  reason?: string;
  pair?: string;
  count?: number;
  suppressed?: number;
}

describe('the log', () => {
  let written: string[];
  const make = (options: Partial<LogOptions> = {}): ReturnType<typeof makeDaemonLog> =>
    makeDaemonLog({
      level: 'debug',
      journal: false,
      burst: 5,
      window: 50,
      destination: { write: (line) => written.push(line) },
      ...options,
    });
  const lines = (): Line[] => written.map((line) => JSON.parse(line.replace(/^<\d>/, '')) as Line);

  beforeEach(() => {
    written = [];
  });

  it('puts the priority of sd-daemon(3) before each line for the journal', () => {
    const log = make({ journal: true });
    log.debug('a');
    log.info('b');
    log.warn('c');
    log.error('d');
    log.fatal('e');
    assert.deepEqual(
      written.map((line) => line.slice(0, 4)),
      ['<7>{', '<6>{', '<4>{', '<3>{', '<2>{'],
    );
    assert.ok(written.every((line) => line.endsWith('}\n')));
  });

  it('puts nothing before lines for others', () => {
    make().error('a');
    assert.equal(written[0]?.[0], '{');
  });

  it('knows the journal by $JOURNAL_STREAM', () => {
    const descriptor = openSync('/dev/null', 'w');
    const { dev, ino } = fstatSync(descriptor, { bigint: true });
    assert.equal(isJournal(descriptor, `${dev}:${ino}`), true);
    assert.equal(isJournal(descriptor, `${dev}:${ino + 1n}`), false);
    assert.equal(isJournal(descriptor, undefined), false);
    closeSync(descriptor);
    assert.equal(isJournal(descriptor, `${dev}:${ino}`), false);
  });

  it('says the first of ten thousand, and how many there were', async () => {
    const log = make();
    for (let pair = 0; pair < 10_000; pair++) {
      log.debug({ pair: `${pair}.1`, reason: pair % 2 === 0 ? 'blocking' : 'program' }, 'refused');
      log.debug({ pair: `${pair}.1` }, 'promoted');
    }
    log.warn('something else');
    assert.equal(written.length, 3 * 5 + 1);
    assert.ok(
      lines()
        .slice(0, -1)
        .every(({ pair }) => /^\d+\.1$/.test(pair ?? '')),
      'pairs can be followed',
    );
    const before = written.length;
    await new Promise((resolve) => setTimeout(resolve, 200));
    assert.deepEqual(
      lines()
        .slice(before)
        .map(({ level, msg, reason, count, suppressed }) => [level, msg, reason, count, suppressed]),
      [
        [20, 'refused: 5000 times', 'blocking', 5000, 4995],
        [20, 'promoted: 10000 times', undefined, 10_000, 9995],
        [20, 'refused: 5000 times', 'program', 5000, 4995],
      ],
    );
    log.debug({ pair: '1.2' }, 'promoted');
    assert.equal(lines().at(-1)?.pair, '1.2', 'a new window begins');
  });

  it('does not remember every sentence that there may be', async () => {
    const log = make();
    for (let n = 0; n < 5000; n++) log.info(`sentence ${n}`);
    assert.ok(written.length <= 200 + 5, String(written.length));
    await new Promise((resolve) => setTimeout(resolve, 200));
    assert.deepEqual([lines().at(-1)?.msg, lines().at(-1)?.count], ['other lines: 4800 times', 4800]);
  });

  it('does not count what is not to be logged', async () => {
    const log = make({ level: 'info' });
    for (let n = 0; n < 100; n++) log.debug('quiet');
    await new Promise((resolve) => setTimeout(resolve, 100));
    assert.deepEqual(written, []);
  });

  it('sums up what the controller decided, when there is something', () => {
    const counters: { -readonly [K in keyof Decisions]: Decisions[K] } = {
      promotions: 7,
      demotions: { stream: 1 },
      refusals: { blocking: 2, program: 5 },
    };
    const activity = new Activity(make(), counters, 1_000_000);
    activity.close();
    assert.deepEqual(written, []);
    counters.promotions += 10_000;
    counters.refusals = { blocking: 12, program: 5 };
    activity.close();
    activity.close();
    const [line, more] = lines() as (Line & Decisions)[];
    assert.deepEqual(
      [line?.msg, line?.promotions, line?.demotions, line?.refusals],
      ['activity', 10_000, {}, { blocking: 10 }],
    );
    assert.equal(more, undefined);
  });
});
