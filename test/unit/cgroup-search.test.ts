/** Finding cgroups by looking through all of them: how often, and when one is gone for good. */
import assert from 'node:assert/strict';

import type { CgroupList } from '../../addon/index.js';
import { CgroupSearch } from '../../controller/datapath/cgroup-search.js';

describe('a search for cgroups', () => {
  let there: Map<bigint, string>;
  let searches: number;
  let time: number;
  const milliseconds = 100;
  const list = (): CgroupList => ({
    ids: BigUint64Array.from(there.keys()),
    paths: [...there.values()],
    milliseconds,
  });

  beforeEach(() => {
    there = new Map([
      [1n, '/'],
      [2n, '/a'],
    ]);
    searches = 0;
    time = 0;
  });

  describe('in this thread', () => {
    let search: CgroupSearch;

    beforeEach(() => {
      const now = (): CgroupList => {
        searches++;
        return list();
      };
      search = new CgroupSearch({ now }, () => time);
    });

    it('finds all at once', () => {
      assert.deepEqual([search.path(2n), search.path(1n), searches], ['/a', '/', 1]);
      assert.equal(search.isGone(2n), false);
    });

    it('is not made again within 20 times its own time, however many are gone', () => {
      for (let id = 100n; id < 140n; id++) assert.equal(search.path(id), undefined);
      assert.equal(searches, 1);
      assert.deepEqual(
        [search.isGone(100n), search.isGone(101n)],
        [true, false],
        'only the first was asked for before',
      );
      time = 20 * milliseconds;
      assert.equal(search.path(101n), undefined);
      assert.equal(searches, 2);
      time *= 10;
      for (let id = 100n; id < 140n; id++) {
        assert.equal(search.path(id), undefined);
        assert.equal(search.isGone(id), true);
      }
      assert.equal(searches, 2, 'what is gone is not looked for');
    });

    it('is made for a new one as soon as it may, or at once where asked to', () => {
      search.path(2n);
      there.set(3n, '/b');
      assert.deepEqual([search.path(3n), search.isGone(3n)], [undefined, false]);
      assert.equal(search.path(3n, true), '/b');
      there.set(4n, '/c');
      assert.equal(search.path(4n), undefined);
      time = 20 * milliseconds;
      assert.equal(search.path(4n), '/c');
      assert.equal(searches, 3);
    });

    it('knows that one is gone which it has seen', () => {
      search.path(2n);
      there.delete(2n);
      time = 20 * milliseconds;
      search.path(3n);
      assert.deepEqual([search.path(2n), search.isGone(2n), searches], [undefined, true, 2]);
      search.remove(1n);
      assert.deepEqual([search.path(1n), search.isGone(1n)], [undefined, true]);
    });

    it('does not look for what has no id', () => {
      assert.deepEqual([search.path(0n), search.isGone(0n), searches], [undefined, true, 0]);
    });

    it('that fails says so, and takes nothing for gone', () => {
      let broken = true;
      search = new CgroupSearch(
        {
          now: () => {
            if (broken) throw new Error('EMFILE');
            return list();
          },
        },
        () => time,
      );
      assert.throws(() => search.path(5n), /EMFILE/);
      assert.deepEqual([search.path(5n), search.isGone(5n)], [undefined, false]);
      broken = false;
      time = 1000;
      assert.equal(search.path(2n), '/a');
      assert.equal(search.isGone(5n), true);
    });
  });

  describe('in another thread', () => {
    let search: CgroupSearch;
    /** Ends the search that is under way. */
    let end: ((result: CgroupList | Error) => void) | undefined;
    let begun: () => void;
    let errors: unknown[];
    let found: () => void;

    const nextSearch = (): Promise<void> => new Promise((resolve) => (begun = resolve));
    const nextFound = (): Promise<void> => new Promise((resolve) => (found = resolve));

    beforeEach(() => {
      errors = [];
      search = new CgroupSearch(
        {
          later: () => {
            searches++;
            begun();
            return new Promise((resolve, reject) => {
              end = (result) => {
                if (result instanceof Error) reject(result);
                else resolve(result);
              };
            });
          },
          onFound: () => {
            found();
          },
          onError: (error) => {
            errors.push(error);
            found();
          },
        },
        () => time,
      );
    });

    it('leaves ids pending until it ends, and says when it has', async () => {
      const begin = nextSearch();
      assert.deepEqual([search.path(2n), search.path(9n), search.isGone(9n)], [undefined, undefined, false]);
      await begin;
      const done = nextFound();
      end?.(list());
      await done;
      assert.deepEqual([search.path(2n), search.isGone(9n), searches], ['/a', true, 1]);
    });

    it('proves nothing about what was asked for after it began, and is followed by one that does', async () => {
      const begin = nextSearch();
      search.path(2n);
      await begin;
      // Made after the search has passed its place.
      const before = list();
      there.set(3n, '/b');
      assert.equal(search.path(3n), undefined);
      search.path(9n);
      time = 1e6;
      const done = nextFound();
      const again = nextSearch();
      end?.({ ...before, milliseconds: 0 });
      await done;
      assert.deepEqual([search.isGone(3n), search.isGone(9n)], [false, false]);
      await again;
      const doneAgain = nextFound();
      end?.(list());
      await doneAgain;
      assert.deepEqual([search.path(3n), search.isGone(9n), searches], ['/b', true, 2]);
    });

    it('that fails is told, and takes nothing for gone', async () => {
      const begin = nextSearch();
      search.path(9n);
      await begin;
      const done = nextFound();
      end?.(new Error('EMFILE'));
      await done;
      assert.match(String(errors), /EMFILE/);
      assert.equal(search.isGone(9n), false);
    });
  });
});
