/** Promotion and demotion: facts in, verdict out. */
import assert from 'node:assert/strict';

import fc from 'fast-check';

import { coolDown, isStreaming, WINDOW_MINIMUM } from '../../controller/decisions/demotion.js';
import {
  type CandidateEnd,
  type CandidateFacts,
  hardEvidence,
  judgeCandidate,
  retryAfterInsertFailure,
  type Verdict,
} from '../../controller/decisions/promotion.js';
import { isEvidence, judgeWaiting } from '../../controller/decisions/stall.js';
import { type CompiledPolicy, compilePolicy } from '../../controller/policy/evaluate.js';
import { parsePolicy } from '../../controller/policy/parse.js';
import { builtInPrograms } from '../../controller/policy/programs.js';
import { objectLayout } from './support.js';

function policy(yaml: string): CompiledPolicy {
  const result = parsePolicy(`version: 1\n${yaml}`, 'test');
  assert(result.ok, JSON.stringify(result));
  return compilePolicy(result.policy);
}

const BITS = objectLayout().values('evidence');
const bit = (name: string): number => BITS[`EVIDENCE_${name}`] ?? assert.fail(name);
const HARD = ['WAITALL', 'OUT_OF_BAND', 'TRUNCATE', 'ERROR_QUEUE'];
const BLOCKING = bit('BLOCKING') | bit('NONBLOCKING');

interface Given {
  client?: Partial<CandidateEnd>;
  server?: Partial<CandidateEnd>;
  turnsShown?: number;
  kernelRefusal?: string;
  hazards?: CandidateFacts['hazards'];
  helperPorts?: CandidateFacts['helperPorts'];
}

function facts({ client, server, turnsShown = 16, kernelRefusal, hazards, helperPorts }: Given): CandidateFacts {
  const end = {
    cgroup: '/a',
    ports: [40000, 6379] as [number, number],
    program: 'redis',
    evidence: bit('NONBLOCKING'),
    learned: false,
  };
  return {
    ends: [
      { ...end, ...client },
      { ...end, ...server },
    ],
    turnsShown,
    kernelRefusal,
    hazards,
    helperPorts,
  };
}

describe('decisions', () => {
  describe('promotion', () => {
    const approve = {
      kind: 'approve',
      backlog: 1 << 20,
      streams: 'measure',
      forbidden: hardEvidence(BITS) | bit('BLOCKING'),
      rule: 'defaults',
    } as const;
    const refuse = (reason: string, retry: 'never' | 'policy'): Verdict => ({ kind: 'refuse', reason, retry });
    const tcpRule = 'rules: [{ name: t, cgroup: /b, action: tcp }, { name: o, ports: [5432], action: observe }]';
    const late = 'rules: [{ name: late, cgroup: /b, promoteAfter: 100, backlog: 64KiB }]';
    const optIn = 'defaults: { blockingReaders: true }';
    const control = (rule: string): string => `rules: [{ name: control, action: accelerate, ${rule} }]`;
    const excluded = 'exclude: { programs: [redis] }';
    const builtIn = builtInPrograms[0]?.program ?? '';

    const cases: [string, Given, string, Verdict][] = [
      ['approves non-blocking readers', {}, '', approve],
      ['approves before the first receive of an end', { client: { evidence: 0 } }, '', approve],
      [
        'refuses a reader that peeks',
        { server: { evidence: bit('PEEK') | bit('NONBLOCKING') } },
        '',
        refuse('reader', 'never'),
      ],
      [
        'gives the limits of the rule',
        { server: { cgroup: '/b' }, turnsShown: 100 },
        late,
        { ...approve, backlog: 65536, rule: 'late' },
      ],
      ['waits for the turns of the rule', { server: { cgroup: '/b' } }, late, { kind: 'wait', turns: 100 }],
      ['waits one turn short', { turnsShown: 15 }, '', { kind: 'wait', turns: 16 }],
      ['refuses by policy, for the server', { server: { cgroup: '/b' } }, tcpRule, refuse('policy', 'policy')],
      ['refuses by policy, for the client', { client: { cgroup: '/b/c' } }, tcpRule, refuse('policy', 'policy')],
      ['only observes', { client: { ports: [1, 5432] } }, tcpRule, refuse('observe', 'policy')],
      [
        'takes the stricter of both',
        { client: { ports: [1, 5432] }, server: { cgroup: '/b' } },
        tcpRule,
        refuse('policy', 'policy'),
      ],
      [
        'is careful about a cgroup that is gone',
        { client: { cgroup: undefined } },
        tcpRule,
        refuse('policy', 'policy'),
      ],
      ['refuses for the kernel', { kernelRefusal: 'order' }, '', refuse('kernel', 'never')],
      [
        'names the policy before the kernel',
        { kernelRefusal: 'order', server: { cgroup: '/b' } },
        tcpRule,
        refuse('policy', 'policy'),
      ],
      ['refuses an excluded program', {}, excluded, refuse('program', 'policy')],
      ['refuses a program of the built-in list', { client: { program: builtIn } }, '', refuse('program', 'policy')],
      [
        'takes such a program where the kernel does not have its hazard',
        { client: { program: builtIn }, hazards: new Set() },
        '',
        approve,
      ],
      ['refuses blocking readers', { client: { evidence: BLOCKING } }, '', refuse('blocking', 'policy')],
      [
        'takes blocking readers if asked to',
        { client: { evidence: BLOCKING } },
        optIn,
        { ...approve, forbidden: hardEvidence(BITS) | bit('BLOCKING_MANY') },
      ],
      [
        'never takes several blocking threads',
        { server: { evidence: BLOCKING | bit('BLOCKING_MANY') } },
        optIn,
        refuse('blocking', 'never'),
      ],
      [
        'looks at the reader before the turns',
        { client: { evidence: BLOCKING }, turnsShown: 0 },
        '',
        refuse('blocking', 'policy'),
      ],
      [
        'refuses two clients of one handshake, for good',
        { client: { evidence: bit('FORGED'), ports: [40000, 21] } },
        '',
        refuse('forged', 'never'),
      ],
      [
        'refuses the port of a helper, as the client sees it',
        { client: { ports: [40000, 21] } },
        '',
        refuse('helper', 'policy'),
      ],
      [
        'refuses the port of a helper, as the server sees it',
        { server: { ports: [6667, 40000] } },
        '',
        refuse('helper', 'policy'),
      ],
      [
        'refuses it when a rule is for other ports',
        { server: { ports: [21, 40000] } },
        control('ports: [20]'),
        refuse('helper', 'policy'),
      ],
      [
        'refuses it when a rule has it in a range',
        { server: { ports: [21, 40000] } },
        control('ports: [20-22]'),
        refuse('helper', 'policy'),
      ],
      [
        'refuses it when a rule names no port',
        { server: { ports: [21, 40000] } },
        control('cgroup: /a'),
        refuse('helper', 'policy'),
      ],
      [
        'refuses it when an earlier rule decides',
        { server: { ports: [21, 40000] } },
        'rules: [{ name: first, cgroup: /a, action: accelerate }, { name: control, ports: [21], action: accelerate }]',
        refuse('helper', 'policy'),
      ],
      [
        'takes it when the rule names it',
        { client: { ports: [40000, 21] }, server: { ports: [21, 40000] } },
        control('ports: [21]'),
        { ...approve, rule: 'control' },
      ],
      [
        'takes it when the rule names it as the one end sees it',
        { client: { ports: [40000, 2121] }, server: { ports: [21, 40000] } },
        control('ports: [21]'),
        { ...approve, rule: 'control' },
      ],
      [
        'refuses another of them at the other end',
        { client: { ports: [40000, 6667] }, server: { ports: [21, 40000] } },
        control('ports: [21]'),
        refuse('helper', 'policy'),
      ],
      [
        'refuses a port that a module was given',
        { client: { ports: [40000, 2121] }, helperPorts: new Set([2121]) },
        '',
        refuse('helper', 'policy'),
      ],
      [
        'names the policy before the helper',
        { server: { cgroup: '/b', ports: [21, 40000] } },
        tcpRule,
        refuse('policy', 'policy'),
      ],
      ['learned programs', { server: { learned: true } }, '', refuse('learned', 'policy')],
      ['learned programs at the other end', { client: { learned: true } }, optIn, refuse('learned', 'policy')],
      ...HARD.flatMap((name): [string, Given, string, Verdict][] => [
        [`never takes ${name} of the client`, { client: { evidence: bit(name) } }, optIn, refuse('reader', 'never')],
        [
          `never takes ${name} of the server`,
          { server: { evidence: bit(name) | BLOCKING } },
          '',
          refuse('reader', 'never'),
        ],
      ]),
    ];
    for (const [what, given, yaml, verdict] of cases) {
      it(what, () => {
        assert.deepEqual(judgeCandidate(facts(given), policy(yaml), BITS), verdict);
      });
    }

    const anyEnd = fc.record({
      cgroup: fc.constantFrom('/a', '/b', '/b/c', undefined),
      ports: fc.tuple(fc.integer({ min: 1, max: 65535 }), fc.constantFrom(21, 5432, 6379)),
      program: fc.constantFrom('', 'redis', 'nginx', builtIn),
      evidence: fc.nat(0xff),
      learned: fc.boolean(),
    });
    const anyFacts = fc.record({
      ends: fc.tuple(anyEnd, anyEnd),
      turnsShown: fc.nat(200),
      kernelRefusal: fc.constantFrom(undefined, 'order'),
    });
    const anyPolicy = fc.constantFrom(...['', tcpRule, late, optIn, excluded].map(policy));

    it('never approves what it forbids', () => {
      fc.assert(
        fc.property(anyFacts, anyPolicy, (given, compiled) => {
          const verdict = judgeCandidate(given, compiled, BITS);
          if (verdict.kind !== 'approve') return;
          assert.equal((given.ends[0].evidence | given.ends[1].evidence) & verdict.forbidden, 0);
          assert.ok(!given.ends.some(({ learned }) => learned), 'a learned program is never approved');
          assert.equal(hardEvidence(BITS) & ~verdict.forbidden, 0, 'hard evidence is always forbidden');
          assert.equal(given.kernelRefusal, undefined);
        }),
      );
    });

    it('does not depend on which end opened the connection', () => {
      fc.assert(
        fc.property(anyFacts, anyPolicy, (given, compiled) => {
          const [client, server] = given.ends;
          assert.deepEqual(
            judgeCandidate({ ...given, ends: [server, client] }, compiled, BITS),
            judgeCandidate(given, compiled, BITS),
          );
        }),
      );
    });

    it('never turns to approval because of more evidence', () => {
      fc.assert(
        fc.property(anyFacts, anyPolicy, fc.nat(0xff), (given, compiled, more) => {
          const [client, server] = given.ends;
          const seen = { ...given, ends: [{ ...client, evidence: client.evidence | more }, server] as const };
          if (judgeCandidate(seen, compiled, BITS).kind === 'approve') {
            assert.equal(judgeCandidate(given, compiled, BITS).kind, 'approve');
          }
        }),
      );
    });

    it('names only reasons that the kernel side knows', () => {
      const known = objectLayout().labels('refusal_reason');
      fc.assert(
        fc.property(anyFacts, anyPolicy, (given, compiled) => {
          const verdict = judgeCandidate(given, compiled, BITS);
          if (verdict.kind === 'refuse') assert(known.includes(verdict.reason), verdict.reason);
        }),
      );
    });
  });

  describe('retry after a failed insertion', () => {
    for (const reason of ['accounting', 'slot_busy', 'memory', 'gone']) {
      it(`${reason} may pass`, () => {
        assert.deepEqual(
          [0, 1, 2, 9, 10, 1000].map((failures) => retryAfterInsertFailure(reason, failures)),
          [100, 200, 400, 51_200, 60_000, 60_000].map((afterMs) => ({ afterMs })),
        );
      });
    }

    it('every other reason stays', () => {
      const passing = ['accounting', 'slot_busy', 'busy', 'memory', 'gone'];
      for (const reason of [...objectLayout().labels('refusal_reason'), 'unknown']) {
        if (!passing.includes(reason)) assert.equal(retryAfterInsertFailure(reason, 0), 'never', reason);
      }
      for (const reason of passing) assert(objectLayout().labels('refusal_reason').includes(reason), reason);
    });
  });

  describe('demotion', () => {
    const cases: [number, number, boolean][] = [
      [0, 0, false],
      [0, WINDOW_MINIMUM - 1, false],
      [0, WINDOW_MINIMUM, true],
      [WINDOW_MINIMUM, 0, false],
      [32, 32, false],
      [100, 200, false],
      [100, 201, true],
      [10, 53, false],
      [10, 54, true],
    ];
    for (const [redirected, passed, streaming] of cases) {
      it(`${redirected} redirected and ${passed} passed is ${streaming ? 'a' : 'no'} stream`, () => {
        assert.equal(isStreaming({ redirected, passed }), streaming);
      });
    }

    it('more redirected messages never make a stream', () => {
      fc.assert(
        fc.property(fc.nat(10_000), fc.nat(10_000), fc.nat(1000), (redirected, passed, more) => {
          if (redirected + passed >= WINDOW_MINIMUM && !isStreaming({ redirected, passed })) {
            assert(!isStreaming({ redirected: redirected + more, passed }));
          }
        }),
      );
    });

    it('rests for longer each time, from a second to ten minutes', () => {
      assert.deepEqual([0, 1, 2, 3, 10, 11, 1e9].map(coolDown), [1000, 1000, 2000, 4000, 512_000, 600_000, 600_000]);
      fc.assert(
        fc.property(fc.nat(100), (promotions) => {
          assert(coolDown(promotions) <= coolDown(promotions + 1));
        }),
      );
    });
  });

  describe('stall', () => {
    it('a reader has stalled when it took nothing for the whole time', () => {
      const first = judgeWaiting(undefined, 100, 1000, 500);
      assert.deepEqual(first, { consumed: 100, since: 1000, stalled: false });
      assert.deepEqual(judgeWaiting(first, 100, 1499, 500), { consumed: 100, since: 1000, stalled: false });
      assert.deepEqual(judgeWaiting(first, 100, 1500, 500), { consumed: 100, since: 1000, stalled: true });
    });

    it('a byte taken starts the time again', () => {
      const before = { consumed: 100, since: 0, stalled: true };
      assert.deepEqual(judgeWaiting(before, 101, 9000, 500), { consumed: 101, since: 9000, stalled: false });
    });

    it('a process that somebody stopped is no evidence against its program', () => {
      assert.deepEqual(['T', 't', 'S', 'R', 'D', undefined].map(isEvidence), [false, false, true, true, true, true]);
    });
  });
});
