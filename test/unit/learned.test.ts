/** The list of learned programs and its file. */
import assert from 'node:assert/strict';
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { UserError } from '../../controller/errors.js';
import { LEARNED_LIMIT, type LearnedProgram, LearnedPrograms } from '../../controller/policy/learned.js';

function entry(program: string, cgroup = '/a'): LearnedProgram {
  return { program, cgroup, cause: 'stalled', at: '2026-01-01T00:00:00.000Z', kernel: '6.18.44' };
}

describe('learned programs', () => {
  let dir: string;
  let state: string;

  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'slipstream-learned-'));
    state = join(dir, 'state');
  });

  afterEach(() => {
    rmSync(dir, { recursive: true });
  });

  it('makes nothing before something is learned', () => {
    const learned = new LearnedPrograms(state);
    assert.equal(learned.list.length, 0);
    assert.equal(learned.forget(), 0);
    assert.ok(!existsSync(state));
  });

  it('is read again by the next one, for its owner only', () => {
    assert.equal(new LearnedPrograms(state).add(entry('sponge')), true);
    const next = new LearnedPrograms(state);
    assert.deepEqual(next.list, [entry('sponge')]);
    assert.equal(next.add(entry('sponge')), false);
    assert.deepEqual(readdirSync(state), ['learned.json']);
    assert.equal(statSync(join(state, 'learned.json')).mode & 0o777, 0o600);
    assert.equal(statSync(state).mode & 0o777, 0o700);
  });

  it('knows a program in its cgroup and in no other', () => {
    const learned = new LearnedPrograms(undefined);
    learned.add(entry('sponge', '/a'));
    assert.deepEqual(
      [
        learned.has('sponge', '/a'),
        learned.has('sponge', '/b'),
        learned.has('spong', '/a'),
        learned.has('sponge', undefined),
      ],
      [true, false, false, false],
    );
  });

  it('takes up what another process has forgotten', () => {
    const daemon = new LearnedPrograms(state);
    daemon.add(entry('one'));
    daemon.add(entry('two'));
    assert.equal(daemon.refresh(), false, 'its own change is no news');
    assert.equal(new LearnedPrograms(state).forget('one'), 1);
    utimesSync(join(state, 'learned.json'), new Date(), new Date(Date.now() + 5000));
    assert.equal(daemon.refresh(), true);
    assert.deepEqual(daemon.list, [entry('two')]);
    assert.equal(new LearnedPrograms(state).forget(), 1);
  });

  it('is empty again when the file is removed', () => {
    const learned = new LearnedPrograms(state);
    learned.add(entry('one'));
    rmSync(join(state, 'learned.json'));
    assert.equal(learned.refresh(), true);
    assert.equal(learned.list.length, 0);
  });

  it('keeps the newest of too many', () => {
    const learned = new LearnedPrograms(undefined);
    for (let n = 0; n <= LEARNED_LIMIT; n++) learned.add(entry(`p${String(n)}`));
    assert.equal(learned.list.length, LEARNED_LIMIT);
    assert.ok(!learned.has('p0', '/a') && learned.has(`p${String(LEARNED_LIMIT)}`, '/a'));
  });

  for (const [what, text] of [
    ['no JSON', '{'],
    ['another version', '{"version": 2, "programs": []}'],
    ['an entry without a cgroup', '{"version": 1, "programs": [{"program": "x"}]}'],
  ] as const) {
    it(`refuses ${what} in one sentence and leaves the file alone`, () => {
      new LearnedPrograms(state).add(entry('one'));
      const file = join(state, 'learned.json');
      writeFileSync(file, text);
      assert.throws(
        () => new LearnedPrograms(state),
        (error: unknown) => error instanceof UserError && error.message.includes(file) && !error.message.includes('\n'),
      );
      assert.equal(readFileSync(file, 'utf8'), text);
    });
  }

  it('complains of a file that went bad once, and remembers what it knew', () => {
    const learned = new LearnedPrograms(state);
    learned.add(entry('one'));
    writeFileSync(join(state, 'learned.json'), '{');
    utimesSync(join(state, 'learned.json'), new Date(), new Date(Date.now() + 5000));
    assert.throws(() => learned.refresh(), UserError);
    assert.equal(learned.refresh(), false);
    assert.ok(learned.has('one', '/a'));
  });
});
