import assert from 'node:assert/strict';
import fc from 'fast-check';
import {
  cgroupMatcher,
  cgroupProblem,
  glob,
  matchesAll,
  patternProblem,
  programMatcher,
  programProblem,
  sets,
} from '../../controller/policy/glob.js';

/** Pattern, what it matches, what it doesn't. */
const cgroups: [pattern: string, matching: string[], other: string[]][] = [
  ['/', ['/', '/a', '/a/b'], []],
  [
    '/system.slice/pay',
    ['/system.slice/pay', '/system.slice/pay/x'],
    ['/system.slice/payments.service', '/system.slice'],
  ],
  ['/a/', ['/a', '/a/b'], ['/', '/ab', '/b/a']],
  ['/user@1000.service', ['/user@1000.service/app.slice'], ['/user@100.service']],
  ['/kubepods.slice:cri-containerd:1', ['/kubepods.slice:cri-containerd:1/x'], ['/kubepods.slice']],
  ['/dev\\x2dsda', ['/dev\\x2dsda'], ['/dev-sda', '/devx2dsda']],
  ['/a.b', ['/a.b'], ['/axb']],
  ['/{a,b}(c)!+@$^|"', ['/{a,b}(c)!+@$^|"/d'], ['/a']],
  ['/*', ['/a', '/a/b', '/.a'], ['/']],
  ['/a*', ['/a', '/ab', '/ab/c'], ['/', '/ba']],
  ['/a/*', ['/a/b', '/a/b/c'], ['/a', '/b/a']],
  ['/a/*/c/', ['/a/b/c', '/a/b/c/d'], ['/a/c', '/a/b/d/c']],
  ['/**', ['/', '/a/b'], []],
  ['/**/pay', ['/pay', '/a/pay', '/a/b/pay/c'], ['/', '/a/payments', '/apay']],
  ['/a/**', ['/a', '/a/b/c'], ['/', '/ab']],
  ['/a/**/d', ['/a/d', '/a/b/c/d/e'], ['/a', '/d', '/a/b/c']],
  ['/a**b', ['/ab', '/axxb', '/axb/c'], ['/a/b']],
  ['/pod?.slice', ['/pod1.slice', '/podé.slice', '/pod😀.slice'], ['/pod.slice', '/pod12.slice', '/pod/.slice']],
  ['/[a-c]x', ['/ax', '/cx/y'], ['/dx', '/-x', '/x']],
  ['/[!a-c]x', ['/dx', '/!x'], ['/ax']],
  ['/[^a]x', ['/^x', '/bx'], ['/ax']],
  ['/[]]x', ['/]x'], ['/x']],
  ['/[*]', ['/*'], ['/a']],
  ['/[[]a?', ['/[ab'], ['/ab']],
  ['/dev\\x2d*', ['/dev\\x2dsda1.swap'], ['/dev-sda1.swap']],
  ['/[\\]x2d', ['/\\x2d'], ['/x2d']],
  ['/app-*(1)|{a,b}.scope', ['/app-9(1)|{a,b}.scope'], ['/app-1', '/app-1.scope']],
];

const programs: [pattern: string, matching: string[], other: string[]][] = [
  ['nginx', ['nginx'], ['nginx2', 'ngin', 'NGINX']],
  ['docker-proxy', ['docker-proxy'], ['docker']],
  ['systemd-socket-proxyd', ['systemd-socket-', 'systemd-socket-proxyd'], ['systemd-socket', 'systemd-journal']],
  ['exactly-fifteen', ['exactly-fifteen', 'exactly-fifteen-and-more'], ['exactly-fiftee']],
  ['ein-schöner-näme', ['ein-schöner-n\uFFFD', 'ein-schöner-näme'], ['ein-schöner-n']],
  ['java*', ['java', 'java/net', 'java-worker'], ['ajava']],
  ['*proxy', ['proxy', 'haproxy', 'a/proxy'], ['proxyd']],
  ['systemd-socket-pro*', ['systemd-socket-'], ['systemd-socket', 'systemd-socke']],
  ['w?rker-[0-9]', ['worker-1'], ['worker-x', 'worker-12']],
  ['a(b)+*', ['a(b)+c'], ['ab']],
];

function table(rows: typeof cgroups, compile: typeof cgroupMatcher, problem: typeof cgroupProblem): void {
  for (const [pattern, matching, other] of rows)
    it(pattern, () => {
      assert.equal(problem(pattern), undefined);
      const matches = compile(pattern);
      assert.deepEqual([...matching, ...other].filter(matches), matching);
    });
}

describe('policy: cgroup patterns', () => {
  table(cgroups, cgroupMatcher, cgroupProblem);

  const segment = fc
    .string({ unit: 'grapheme', minLength: 1, maxLength: 12 })
    .filter((name) => !/[*?[/\0]|^\.{1,2}$/.test(name));

  it('takes every character but * ? [ as itself, beside a wildcard too', () => {
    fc.assert(
      fc.property(segment, (name) => {
        for (const pattern of [`/${name}`, `/${name}*`, `/*/${name}`, `/**/${name}`])
          assert.equal(cgroupProblem(pattern), undefined);
        assert.ok(cgroupMatcher(`/${name}`)(`/${name}/x`));
        assert.ok(cgroupMatcher(`/${name}*`)(`/${name}x/y`));
        assert.ok(cgroupMatcher(`/**/${name}`)(`/x/y/${name}`));
        assert.ok(!cgroupMatcher(`/${name}`)(`/${name}x`));
        assert.ok(!cgroupMatcher(`/*/${name}`)(`/x/${name}y`));
      }),
    );
  });

  it('covers the subtree of whatever it matches', () => {
    const pattern = fc
      .array(fc.oneof(segment, fc.constantFrom('*', '**', 'a*', '?', '[a-m]*')), { minLength: 1, maxLength: 4 })
      .map((parts) => `/${parts.join('/')}`);
    fc.assert(
      fc.property(pattern, fc.array(fc.oneof(segment, fc.constant('a'))), segment, (text, path, below) => {
        const matches = cgroupMatcher(text);
        const cgroup = `/${path.join('/')}`;
        if (matches(cgroup)) assert.ok(matches(`${cgroup === '/' ? '' : cgroup}/${below}`));
      }),
    );
  });
});

describe('policy: program patterns', () => {
  table(programs, programMatcher, programProblem);

  it('compares names as the kernel cuts them', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: 'grapheme', minLength: 1 }).filter((name) => !/[*?[]|^\//.test(name)),
        (name) => {
          assert.ok(programMatcher(name)(name));
          assert.ok(programMatcher(name)(Buffer.from(name).subarray(0, 15).toString()));
        },
      ),
    );
  });
});

describe('policy: wildcards', () => {
  /** What a pattern means, as a regular expression. */
  function meaning(pattern: string): RegExp {
    const source = pattern.replace(
      new RegExp(`${sets.source}|\\*|[^]`, 'gu'),
      (token, not?: string, members?: string) => {
        if (members !== undefined) return `[${not ? '^' : ''}${members.replace(/[\\\][^]/g, '\\$&')}]`;
        if (token === '*') return '.*';
        return token === '?' ? '.' : token.replace(/[\\^$.|+(){}\]/]/, '\\$&');
      },
    );
    return new RegExp(`^${source}$`, 'su');
  }

  const few = fc.constantFrom('a', 'b', '-', '\\', '.', 'é', '😀', '\n', '\uD83D');
  const pattern = fc
    .array(fc.oneof({ weight: 3, arbitrary: fc.constantFrom('*', '?', '[ab]', '[!a]', '[]-]', '[a-é]') }, few), {
      maxLength: 8,
    })
    .map((parts) => parts.join(''));
  const text = fc.array(few, { maxLength: 10 }).map((characters) => characters.join(''));

  it('mean what the regular expression means', () => {
    let matching = 0;
    fc.assert(
      fc.property(pattern, text, (of, name) => {
        if (patternProblem(of) !== undefined) return;
        const expected = meaning(of).test(name);
        matching += Number(expected);
        assert.equal(glob(of)(name), expected, JSON.stringify([of, name]));
      }),
      { numRuns: 3000 },
    );
    assert.ok(matching > 100, 'most did not match');
  });

  it('mean the same for segments', () => {
    const path = fc.array(fc.constantFrom('a', 'b', 'ab'), { maxLength: 7 }).map((parts) => `/${parts.join('/')}`);
    const wild = fc
      .array(fc.constantFrom('a', 'b', '*', '**', '*b'), { minLength: 1, maxLength: 6 })
      .filter((parts) => parts.join('').includes('*'));
    fc.assert(
      fc.property(wild, path, (parts, cgroup) => {
        const source = parts.map((part) => (part === '**' ? '(/[^/]+)*' : `/${part.replace('*', '[^/]*')}`)).join('');
        const expected = new RegExp(`^${source}(/|$)`).test(cgroup === '/' ? '' : cgroup);
        assert.equal(cgroupMatcher(`/${parts.join('/')}`)(cgroup), expected, JSON.stringify([parts, cgroup]));
      }),
      { numRuns: 3000 },
    );
  });

  it('take no more steps than the pattern has parts times the text has characters', () => {
    let steps = 0;
    const isA = (character: string): boolean => {
      steps++;
      return character === 'a';
    };
    const parts = Array.from({ length: 200 }, () => ['any', isA] as const).flat();
    const characters = 'a'.repeat(4000).split('');
    assert.ok(!matchesAll([...parts, (character) => character === 'b'], characters));
    assert.ok(steps <= parts.length * characters.length, String(steps));
    assert.ok(matchesAll(parts, characters));
    // The same through the door.
    assert.ok(!glob(`${'*a'.repeat(200)}b`)('a'.repeat(4000)));
    assert.ok(!cgroupMatcher(`${'/**/a'.repeat(200)}/b`)('/a'.repeat(4000)));
  });
});
