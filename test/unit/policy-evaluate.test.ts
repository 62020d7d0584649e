import assert from 'node:assert/strict';
import fc from 'fast-check';
import {
  compilePolicy,
  decide,
  decidePair,
  excludedProgram,
  minimumPromoteAfter,
} from '../../controller/policy/evaluate.js';
import type { Decision, End } from '../../controller/policy/evaluate.js';
import { parsePolicy } from '../../controller/policy/parse.js';
import { actions, policySchema } from '../../controller/policy/schema.js';

/** Compiles a policy from its rules and other sections in YAML. */
function compile(rules: string, rest = '') {
  const result = parsePolicy(`version: 1\n${rest}\nrules:\n${rules || ' []'}\n`, 'p');
  assert.ok(result.ok, JSON.stringify(result));
  return compilePolicy(result.policy);
}

const at = (cgroup: string | undefined, ports: [number, number] = [40000, 80], program = 'app'): End => ({
  cgroup,
  ports,
  program,
});

const MiB = 1 << 20;
const builtIn: Decision = {
  action: 'accelerate',
  blockingReaders: false,
  promoteAfter: 16,
  backlog: MiB,
  streams: 'measure',
  rule: 'defaults',
};

describe('policy: one end', () => {
  const policy = compile(`
- { name: db, ports: [5432, 6000-6010], action: tcp }
- { name: pay, cgroup: [/pay, /shop-*], action: observe, backlog: 64KiB }
- { name: both, cgroup: /a, ports: [443], promoteAfter: 2 }
- { name: cache, programs: [redis-server, memcache*], blockingReaders: true }
- { name: late pay, cgroup: /pay/x, action: tcp }
`);
  const cases: [string, End, Partial<Decision>][] = [
    ['nothing matches', at('/b'), {}],
    ['a port', at('/b', [5432, 1]), { rule: 'db', action: 'tcp' }],
    ["the other end's port", at('/b', [1, 5432]), { rule: 'db', action: 'tcp' }],
    ['a range, first', at('/b', [6000, 1]), { rule: 'db', action: 'tcp' }],
    ['a range, last', at('/b', [1, 6010]), { rule: 'db', action: 'tcp' }],
    ['past a range', at('/b', [5999, 6011]), {}],
    ['a cgroup', at('/pay'), { rule: 'pay', action: 'observe', backlog: 65536 }],
    ['its subtree, first match wins', at('/pay/x'), { rule: 'pay', action: 'observe', backlog: 65536 }],
    ['a glob', at('/shop-1/x'), { rule: 'pay', action: 'observe', backlog: 65536 }],
    ['a longer name', at('/payments'), {}],
    ['one of two conditions', at('/a'), {}],
    ['the other of two conditions', at('/b', [1, 443]), {}],
    ['both conditions', at('/a/b', [1, 443]), { rule: 'both', promoteAfter: 2 }],
    ['a program', at('/b', [1, 2], 'redis-server'), { rule: 'cache', blockingReaders: true }],
    ['a program by glob', at('/b', [1, 2], 'memcached'), { rule: 'cache', blockingReaders: true }],
    ['order before specificity', at('/pay', [5432, 1], 'redis-server'), { rule: 'db', action: 'tcp' }],
  ];
  for (const [title, end, expected] of cases)
    it(title, () => {
      assert.deepEqual(decide(policy, end), { ...builtIn, ...expected });
    });

  it('takes what a rule leaves out from the defaults', () => {
    const observed = compile(
      '- { name: x, promoteAfter: 3 }',
      'defaults: { action: observe, blockingReaders: true, backlog: 2MiB }',
    );
    assert.deepEqual(decide(observed, at('/')), {
      action: 'observe',
      blockingReaders: true,
      promoteAfter: 3,
      backlog: 2 * MiB,
      streams: 'measure',
      rule: 'x',
    });
  });
});

describe('policy: names in the path of the cgroup', () => {
  const id = '3f2a1b4c5d6e'.padEnd(64, '0');
  const other = 'd'.repeat(64);
  const uid = '1858680e-b044-4fd5-9dd4-f137e30e2180';
  const policy = compile(`
- { name: unit, unit: [redis, "web@*.service"] }
- { name: all, unit: docker-*.scope, container: 3f2a1b4c5d6e, cgroup: /system.slice, ports: [443] }
- { name: pod, pod: ${uid}, container: "3f*" }
- { name: container, container: [3f2a1b4c5d6e] }
`);
  const cases: [string, cgroup: string, rule: string, ports?: [number, number]][] = [
    ['a unit', '/system.slice/redis.service/sub', 'unit'],
    ['another unit', '/system.slice/redis-2.service', 'defaults'],
    ['one of several units', '/system.slice/web@1.service', 'unit'],
    ['all conditions', `/system.slice/docker-${id}.scope`, 'all', [443, 1]],
    ['all conditions but the cgroup', `/x.slice/docker-${id}.scope`, 'container', [443, 1]],
    ['all conditions but the unit', `/system.slice/libpod-${id}.scope`, 'container', [443, 1]],
    ['all conditions but the container', `/system.slice/docker-${other}.scope`, 'defaults', [443, 1]],
    ['all conditions but the port', `/system.slice/docker-${id}.scope`, 'container'],
    ['a container in a pod', `/kubepods/pod${uid}/${id}`, 'pod'],
    ['another container in that pod', `/kubepods/pod${uid}/${other}`, 'defaults'],
    ['a container in a container', `/docker/${id}/docker/${other}`, 'container'],
    ['no name at all', '/docker', 'defaults'],
  ];
  for (const [title, cgroup, rule, ports] of cases)
    it(title, () => {
      assert.equal(decide(policy, at(cgroup, ports)).rule, rule);
    });
});

describe('policy: an end of which something is unknown', () => {
  const unknown: [string, rules: string, End, Partial<Decision>][] = [
    ['no rule asks for it', '- { name: p, ports: [1], action: tcp }', at(undefined), {}],
    [
      'a stricter rule might apply',
      '- { name: c, cgroup: /c, action: observe }',
      at(undefined),
      { action: 'tcp', rule: 'c', unknown: 'cgroup' },
    ],
    ...['unit: u', `container: ${'a'.repeat(12)}`, 'pod: a*'].map((condition): (typeof unknown)[number] => [
      `a stricter rule might apply, with ${condition}`,
      `- { name: c, ${condition}, action: observe, backlog: 64KiB }`,
      at(undefined),
      { action: 'tcp', rule: 'c', backlog: 65536, unknown: 'cgroup' },
    ]),
    ['its other condition fails', '- { name: c, cgroup: /c, ports: [1], action: tcp }', at(undefined), {}],
    ['its program is another', '- { name: c, cgroup: /c, programs: [x], action: tcp }', at(undefined), {}],
    [
      'a rule before it decides',
      '- { name: p, ports: [80] }\n- { name: c, cgroup: /c, action: tcp }',
      at(undefined),
      { rule: 'p' },
    ],
    [
      'the rule is no stricter',
      '- { name: c, cgroup: /c, action: observe }\n- { name: o, action: tcp }',
      at(undefined),
      { rule: 'o', action: 'tcp' },
    ],
    [
      'the rule is stricter only in its settings',
      '- { name: c, cgroup: /c, promoteAfter: 99, backlog: 64KiB }',
      at(undefined),
      { promoteAfter: 99, backlog: 65536 },
    ],
    [
      'the rule is laxer in its settings',
      '- { name: c, cgroup: /c, promoteAfter: 1, backlog: 2MiB, blockingReaders: true }',
      at(undefined),
      {},
    ],
    [
      'no reader seen yet',
      '- { name: r, programs: [x], action: tcp }',
      at('/', [1, 2], ''),
      { action: 'tcp', rule: 'r', unknown: 'program' },
    ],
    [
      'both',
      '- { name: r, cgroup: /r, programs: [x], action: tcp }',
      { cgroup: undefined, ports: [1, 2] },
      { action: 'tcp', rule: 'r', unknown: 'cgroup' },
    ],
  ];
  for (const [title, rules, end, expected] of unknown)
    it(title, () => {
      assert.deepEqual(decide(compile(rules), end), { ...builtIn, ...expected });
    });
});

describe('policy: a pair', () => {
  const policy = compile(`
- { name: tcp, cgroup: /tcp, action: tcp, promoteAfter: 4 }
- { name: observe, cgroup: /observe, action: observe, backlog: 64KiB }
- { name: first, cgroup: /first, promoteAfter: 2, blockingReaders: true }
- { name: second, cgroup: /second, promoteAfter: 3, backlog: 8MiB, blockingReaders: true }
`);
  const cases: [string, string | undefined, string | undefined, Partial<Decision>][] = [
    ['the defaults twice', '/', '/', {}],
    ['tcp over observe', '/observe', '/tcp', { action: 'tcp', rule: 'tcp', backlog: 65536 }],
    ['observe over accelerate', '/first', '/observe', { action: 'observe', rule: 'observe', backlog: 65536 }],
    ['the earlier of equals', '/second', '/first', { rule: 'first', promoteAfter: 3, blockingReaders: true }],
    ['a rule before the defaults', '/', '/second', { rule: 'second' }],
    ['a known reason before an unknown one', undefined, '/tcp', { action: 'tcp', rule: 'tcp', backlog: 65536 }],
    ['one end unknown', '/first', undefined, { action: 'tcp', rule: 'tcp', unknown: 'cgroup', backlog: 65536 }],
  ];
  for (const [title, one, other, expected] of cases)
    it(title, () => {
      assert.deepEqual(decidePair(policy, [at(one), at(other)]), { ...builtIn, ...expected });
    });
});

describe('policy: excluded programs', () => {
  const policy = compile('', 'exclude: { programs: [my-very-long-program, worker-*, nginx] }');
  const cases: [string, ...([string, string, string | undefined] | [])][] = [
    ['haproxy', 'haproxy', 'built-in', 'splice'],
    ['docker-proxy', 'docker-proxy', 'built-in', 'splice'],
    ['systemd-socket-', 'systemd-socket-proxyd', 'built-in', 'splice'],
    ['nginx', 'nginx', 'policy', undefined],
    ['my-very-long-pr', 'my-very-long-program', 'policy', undefined],
    ['worker-7', 'worker-*', 'policy', undefined],
    ['redis-server'],
    [''],
  ];
  for (const [program, ...expected] of cases)
    it(program || 'an unknown program', () => {
      const found = excludedProgram(policy, program);
      assert.deepEqual(found ? [found.program, found.source, found.hazard] : [], expected);
      if (found) assert.match(found.reason, /^[^.].*\.$/);
    });

  it('names the hazard of nginx, and lets it be on kernels that do not have it', () => {
    const policy = compile('', 'exclude: { programs: [redis] }');
    assert.equal(excludedProgram(policy, 'nginx')?.hazard, 'fionread');
    const present = new Set(['splice'] as const);
    assert.equal(excludedProgram(policy, 'nginx', present), undefined);
    assert.equal(excludedProgram(policy, 'haproxy', present)?.hazard, 'splice');
    assert.equal(excludedProgram(policy, 'haproxy', new Set()), undefined);
    assert.equal(excludedProgram(policy, 'redis', new Set())?.source, 'policy');
  });
});

describe('policy: the kernel threshold', () => {
  const cases: [string, string, number][] = [
    ['', '', 16],
    ['- { name: a, promoteAfter: 5 }\n- { name: b, promoteAfter: 50 }', '', 5],
    ['- { name: a, promoteAfter: 5, action: tcp }', '', 16],
    ['- { name: a, promoteAfter: 50, action: accelerate }', 'defaults: { action: tcp }', 50],
    ['', 'defaults: { action: tcp, promoteAfter: 7 }', 7],
  ];
  for (const [rules, rest, expected] of cases)
    it(`${rules} ${rest} → ${expected}`, () => {
      assert.equal(minimumPromoteAfter(compile(rules, rest)), expected);
    });
});

describe('policy: remembered cgroups', () => {
  it('keeps the most recently used 4096', () => {
    const { rulesOfCgroup } = compile('- { name: a, cgroup: "/a*" }');
    const first = rulesOfCgroup('/a');
    assert.deepEqual([...first], ['a']);
    const fill = (count: number, prefix: string): void => {
      for (let index = 0; index < count; index++)
        assert.equal(rulesOfCgroup(`/${prefix}${index}`).size, prefix === 'a' ? 1 : 0);
    };
    fill(4095, 'a');
    assert.equal(rulesOfCgroup('/a'), first);
    fill(4095, 'b');
    assert.equal(rulesOfCgroup('/a'), first);
    fill(4096, 'c');
    assert.notEqual(rulesOfCgroup('/a'), first);
    assert.deepEqual(rulesOfCgroup('/a'), first);
  });
});

describe('policy: laws', () => {
  const settings = {
    action: fc.constantFrom(...actions),
    blockingReaders: fc.boolean(),
    promoteAfter: fc.integer({ min: 1, max: 100 }),
    backlog: fc.constantFrom('64KiB', '1MiB', 65536, '64MiB'),
  };
  const some = <T>(values: readonly T[]) => fc.uniqueArray(fc.constantFrom(...values), { minLength: 1, maxLength: 2 });
  const id = 'a'.repeat(64);
  const cgroups = ['/', '/a', '/a/b', '/b', '/b/c/d', '/a/u.service', `/b/docker-${id}.scope`, `/docker/${id}/u.slice`];
  const anyPolicy = fc
    .record(
      {
        version: fc.constant(1),
        defaults: fc.record(settings, { requiredKeys: [] }),
        rules: fc
          .array(
            fc.record(
              {
                ...settings,
                cgroup: some(['/a', '/a/*', '/**/b', '/b/', '/b/**/d', '/']),
                unit: some(['u', 'u.slice', '*.scope']),
                container: some(['a'.repeat(12), 'b*']),
                pod: some(['*']),
                ports: some([1, 2, '2-4']),
                programs: some(['x', 'y*']),
              },
              { requiredKeys: [] },
            ),
            { maxLength: 6 },
          )
          .map((rules) => rules.map((rule, index) => ({ ...rule, name: `rule ${index}` }))),
      },
      { requiredKeys: ['version'] },
    )
    .map((input) => compilePolicy(policySchema.parse(input)));
  const anyEnd: fc.Arbitrary<End> = fc.record({
    cgroup: fc.constantFrom(undefined, ...cgroups),
    ports: fc.tuple(fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 5 })),
    program: fc.constantFrom(undefined, '', 'x', 'yz', 'z'),
  });

  const strictness = ({ action }: Decision): number => actions.indexOf(action);
  const atLeastAsStrict = (a: Decision, b: Decision): boolean =>
    strictness(a) >= strictness(b) &&
    (!a.blockingReaders || b.blockingReaders) &&
    a.promoteAfter >= b.promoteAfter &&
    a.backlog <= b.backlog;

  it('a pair is symmetric, and neither laxer nor stricter than its ends ask for', () => {
    fc.assert(
      fc.property(anyPolicy, anyEnd, anyEnd, (policy, one, other) => {
        const pair = decidePair(policy, [one, other]);
        const ends = [decide(policy, one), decide(policy, other)] as const;
        assert.deepEqual(decidePair(policy, [other, one]), pair);
        assert.deepEqual(decidePair(policy, [one, one]), ends[0]);
        assert.ok(ends.every((end) => atLeastAsStrict(pair, end)));
        assert.ok(ends.some((end) => end.action === pair.action && end.rule === pair.rule));
        assert.ok(ends.some((end) => end.backlog === pair.backlog));
        assert.ok(ends.some((end) => end.promoteAfter === pair.promoteAfter));
        assert.equal(
          pair.blockingReaders,
          ends.every((end) => end.blockingReaders),
        );
      }),
      { numRuns: 1000 },
    );
  });

  it('what is unknown never gives a laxer answer than knowing it', () => {
    fc.assert(
      fc.property(anyPolicy, anyEnd, fc.constantFrom(...cgroups), (policy, end, cgroup) => {
        for (const program of ['x', 'yz', 'z'])
          assert.ok(
            atLeastAsStrict(
              decide(policy, { ...end, cgroup: undefined, program: '' }),
              decide(policy, { ...end, cgroup, program }),
            ),
          );
      }),
      { numRuns: 1000 },
    );
  });

  it('the threshold for the kernel is never above what a pair needs', () => {
    fc.assert(
      fc.property(anyPolicy, anyEnd, anyEnd, (policy, one, other) => {
        const pair = decidePair(policy, [one, other]);
        assert.ok(pair.action === 'tcp' || minimumPromoteAfter(policy) <= pair.promoteAfter);
      }),
    );
  });
});
