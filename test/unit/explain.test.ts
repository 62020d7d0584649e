import assert from 'node:assert/strict';

import { find, otherEnd } from '../../controller/explain/find.js';
import type { HostView } from '../../controller/explain/host.js';
import { judgePair, judgeUnpaired, type PairFacts, type UnpairedFacts } from '../../controller/explain/judge.js';
import {
  type HostSocket,
  parseConntrack,
  parseLocalAddresses,
  parseTcp,
  type SocketState,
} from '../../controller/explain/proc-net.js';
import { parseTarget } from '../../controller/explain/target.js';
import {
  decodeControl,
  type Direction,
  type End,
  type PairRecord,
  STATES,
} from '../../controller/datapath/pair-table.js';
import { compilePolicy, decidePair, excludedProgram } from '../../controller/policy/evaluate.js';
import { defaultPolicy } from '../../controller/policy/schema.js';

describe('explain', () => {
  describe('proc_net(5)', () => {
    const tcp = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1060 1 000000002c4dc2b4 100 0 0 10 0
   1: 0100007F:1F90 0200000A:A59A 01 00000000:00000000 00:00000000 00000000  1000        0 4711 1 00000000f0561ca6 20 4 30 10 -1
   2: 020200C0:A59A 507100CB:0050 06 00000000:00000000 03:000013F9 00000000     0        0 0 3 00000000f0561ca6
`;

    it('lists sockets of IPv4', () => {
      assert.deepEqual(parseTcp(tcp, 7), [
        socket('listen', '127.0.0.1:8080', '0.0.0.0:0', 1060),
        socket('established', '127.0.0.1:8080', '10.0.0.2:42394', 4711),
        socket('time-wait', '192.0.2.2:42394', '203.0.113.80:80', 0),
      ]);
    });

    it('lists sockets of IPv6, mapped addresses as IPv4', () => {
      const text = `header
   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 5 1
   1: 0000000000000000FFFF00000100007F:1F90 0000000000000000FFFF00000200000A:0050 08 0:0 00:0 0 0 0 6 1
`;
      assert.deepEqual(
        parseTcp(text, 7).map(({ state, local, remote }) => [state, local, remote]),
        [
          ['listen', { address: '::1', port: 8080 }, { address: '::', port: 0 }],
          ['close-wait', { address: '127.0.0.1', port: 8080 }, { address: '10.0.0.2', port: 80 }],
        ],
      );
    });

    it('knows translations from plain tracking', () => {
      const plain =
        'ipv4 2 tcp 6 431999 ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 src=10.0.0.2 dst=10.0.0.1 sport=2 dport=1 [ASSURED]';
      const nat =
        'ipv4 2 tcp 6 431999 ESTABLISHED src=10.0.0.1 dst=10.9.9.9 sport=1 dport=80 src=10.0.0.2 dst=10.0.0.254 sport=8080 dport=5 [ASSURED]';
      const udp = nat.replace('tcp', 'udp');
      assert.deepEqual(parseConntrack([plain, nat, udp, ''].join('\n')), [
        {
          original: { from: at('10.0.0.1:1'), to: at('10.9.9.9:80') },
          reply: { from: at('10.0.0.2:8080'), to: at('10.0.0.254:5') },
        },
      ]);
    });

    it('lists the addresses of a namespace', () => {
      const trie = `Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 10.0.0.0
        /24 link UNICAST
     |-- 10.0.0.7
        /32 host LOCAL
     |-- 10.0.0.255
        /32 link BROADCAST
`;
      assert.deepEqual(parseLocalAddresses(trie, '00000000000000000000000000000001 01 80 10 80       lo\n'), [
        '10.0.0.7',
        '::1',
      ]);
    });
  });

  describe('targets', () => {
    for (const [text, target] of [
      ['6379', { kind: 'number', number: 6379 }],
      ['port:6379', { kind: 'port', port: 6379 }],
      ['pid=6379', { kind: 'process', pid: 6379 }],
      ['70000', { kind: 'process', pid: 70_000 }],
      ['3.17', { kind: 'pair', slot: 3, generation: 17 }],
      ['10.0.0.1:80', { kind: 'address', address: at('10.0.0.1:80') }],
      ['[::1]:80', { kind: 'address', address: { address: '::1', port: 80 } }],
      ['[0:0::0001]:80', { kind: 'address', address: { address: '::1', port: 80 } }],
      ['[::ffff:10.0.0.1]:80', { kind: 'address', address: at('10.0.0.1:80') }],
    ] as const) {
      it(text, () => {
        assert.deepEqual(parseTarget(text), target);
      });
    }

    for (const text of [
      '',
      '0',
      '-1',
      'x',
      '65536:1',
      '10.0.0.1',
      '10.0.0.1:0',
      '10.0.0.256:1',
      '::1:80',
      '[10.0.0.1]:80',
      '9999999',
      'pid:0',
      'port:65536',
      '1.2.3',
    ]) {
      it(`not ${JSON.stringify(text)}`, () => {
        assert.throws(() => parseTarget(text), /is no target: give a port/);
      });
    }
  });

  describe('the other end', () => {
    const client = socket('established', '10.0.0.1:1000', '10.0.0.2:80');
    const server = socket('established', '10.0.0.2:80', '10.0.0.1:1000', 2, 8);

    it('has the addresses the other way round, in any namespace', () => {
      assert.deepEqual(otherEnd(client, host([client, server])), { other: server, whereabouts: 'here' });
    });

    it('of loopback is in the same namespace', () => {
      const near = socket('established', '127.0.0.1:1000', '127.0.0.1:80');
      const mirrored = socket('established', '127.0.0.1:80', '127.0.0.1:1000', 2);
      const elsewhere = { ...mirrored, netns: 8 };
      assert.equal(otherEnd(near, host([near, elsewhere])).whereabouts, 'hidden');
      assert.equal(otherEnd(near, host([near, elsewhere, mirrored])).other, mirrored);
    });

    it('is not guessed where two could be it', () => {
      const twin = { ...server, netns: 9 };
      assert.deepEqual(otherEnd(client, host([client, server, twin])), { other: undefined, whereabouts: 'ambiguous' });
    });

    it('is elsewhere unless its address is here', () => {
      assert.equal(otherEnd(client, host([client])).whereabouts, 'elsewhere');
      assert.equal(otherEnd(client, host([client], ['10.0.0.2'])).whereabouts, 'hidden');
    });

    it('is found behind two translations, from both ends', () => {
      const asked = socket('established', '10.0.0.1:1000', '10.9.9.9:80');
      const asking = socket('established', '10.0.0.2:8080', '10.0.1.254:6', 2, 8);
      const translations = [
        {
          original: { from: at('10.0.0.1:1000'), to: at('10.9.9.9:80') },
          reply: { from: at('10.8.8.8:81'), to: at('10.0.0.254:5') },
        },
        {
          original: { from: at('10.0.0.254:5'), to: at('10.8.8.8:81') },
          reply: { from: at('10.0.0.2:8080'), to: at('10.0.1.254:6') },
        },
      ];
      const view = { ...host([asked, asking]), translations };
      assert.equal(otherEnd(asked, view).other, asking);
      assert.equal(otherEnd(asking, view).other, asked);
    });
  });

  describe('what a target means', () => {
    const client = socket('established', '10.0.0.1:1000', '10.0.0.2:80', 1);
    const server = socket('established', '10.0.0.2:80', '10.0.0.1:1000', 2);
    const listener = socket('listen', '0.0.0.0:80', '0.0.0.0:0', 3);
    const closed = socket('time-wait', '10.0.0.2:80', '10.0.0.1:999', 0);
    const view = host([client, server, listener, { ...listener, inode: 4 }, closed]);

    it('is a connection once, though both ends match', () => {
      const found = find({ kind: 'port', port: 80 }, view, []);
      assert.deepEqual(found.connections, [{ socket: client, other: server, whereabouts: 'here' }]);
      assert.deepEqual([found.listeners.length, found.timeWait], [1, 1]);
    });

    it('is a pair where the table has it', () => {
      const pair = record({ ends: [end('10.0.0.1:1000', '10.0.0.2:80'), end('10.0.0.2:80', '10.0.0.1:1000')] });
      const found = find({ kind: 'port', port: 80 }, view, [pair]);
      assert.deepEqual([found.pairs, found.connections], [[pair], []]);
      const held = find({ kind: 'process', pid: 5 }, view, [pair], new Set([1]));
      assert.deepEqual([held.pairs, held.connections, held.listeners], [[pair], [], []]);
    });

    it('is a listener on every address, too', () => {
      const found = find({ kind: 'address', address: at('10.0.0.2:80') }, view, []);
      assert.equal(found.listeners.length, 1);
    });
  });

  describe('the verdict on a pair', () => {
    const verdict = (of: Partial<PairRecord>, more: Partial<PairFacts> = {}): unknown[] => {
      const { verdict, decidedBy, name } = judgePair(facts(record(of), more));
      return [verdict, decidedBy, name];
    };
    const observed = { control: control('observed') };
    const compiled = compilePolicy(defaultPolicy);

    it('is accelerated with both directions direct, and partly with one', () => {
      assert.deepEqual(verdict({}), ['accelerated', 'traffic', null]);
      const half = {
        directions: [direction({}), direction({ path: 'tcp', lastPass: 'backlog', passedMessages: 1 })],
      } as const;
      assert.deepEqual(verdict(half), ['partly', 'reader', 'backlog']);
    });

    it('says first what is wrong', () => {
      assert.deepEqual(verdict({ directions: [direction({ overtaken: true }), direction({})] })[0], 'broken');
      const stalled = judgePair(facts(record({ directions: [direction({ stalledNs: 5n }), direction({})] })));
      assert.equal(stalled.verdict, 'stalled');
      assert.match(stalled.because, /^server\(2\) takes nothing/, 'the reader of what the client sent');
    });

    for (const [reason, by] of [
      ['observe', 'policy'],
      ['blocking', 'reader'],
      ['accounting', 'reader'],
      ['ulp', 'socket'],
      ['memory', 'memory'],
      ['learned', 'program'],
      ['slot_busy', 'socket'],
    ]) {
      it(`is refused for ${String(reason)} by ${String(by)}`, () => {
        assert.deepEqual(verdict({ ...observed, refusal: reason ?? '' }).slice(0, 2), ['refused', by]);
      });
    }

    it('names the rule, unless the policy has changed since', () => {
      const decision = {
        ...decidePair(compiled, [
          { cgroup: '/', ports: [1, 2] },
          { cgroup: '/', ports: [1, 2] },
        ]),
        action: 'tcp',
        rule: 'quiet',
      } as const;
      assert.deepEqual(verdict({ ...observed, refusal: 'policy' }, { decision }), ['refused', 'policy', 'quiet']);
      const allowed = judgePair(
        facts(record({ ...observed, refusal: 'policy' }), { decision: { ...decision, action: 'accelerate' } }),
      );
      assert.equal(allowed.name, null);
      assert.match(allowed.because, /in force when it was judged/);
      assert.match(
        judgePair(facts(record({ ...observed, refusal: 'policy' }), { decision: undefined })).because,
        /^A rule of the policy says/,
      );
    });

    it('names the kernel finding and the program', () => {
      assert.deepEqual(verdict({ ...observed, refusal: 'kernel' }, { kernelRefusal: 'known_bug' }), [
        'refused',
        'kernel',
        'known_bug',
      ]);
      const excluded = [undefined, excludedProgram(compiled, 'nginx')] as const;
      const program = judgePair(facts(record({ ...observed, refusal: 'program' }), { excluded }));
      assert.deepEqual([program.name, program.decidedBy], ['nginx', 'program']);
      assert.match(program.change ?? '', /self-test 'fionread' of "doctor"/);
    });

    it('tells what it waits for', () => {
      const nothing = { receives: 0, receivedBytes: 0 };
      const silent = [end('10.0.0.1:1', '10.0.0.2:2', nothing), end('10.0.0.2:2', '10.0.0.1:1', nothing)] as const;
      assert.match(judgePair(facts(record({ ...observed, ends: silent }))).because, /Nothing was received/);
      const few = [
        end('10.0.0.1:1', '10.0.0.2:2', { receives: 10 }),
        end('10.0.0.2:2', '10.0.0.1:1', nothing),
      ] as const;
      const window = { turns: 10, receives: 10, bytes: 640 };
      assert.match(judgePair(facts(record({ ...observed, ends: few, window }))).because, /5 of 16 requests/);
      const many = [end('10.0.0.1:1', '10.0.0.2:2', { receives: 5000 }), few[1]] as const;
      assert.match(
        judgePair(facts(record({ ...observed, ends: many }))).because,
        /not request and response: 5000 receives/,
      );
      assert.deepEqual(verdict(observed, { controllerRunning: false }).slice(1), ['datapath', 'controller']);
      assert.deepEqual(verdict(observed, { paused: true }).slice(1), ['datapath', 'paused']);
      assert.deepEqual(verdict({ control: control('candidate') }, { controllerRunning: false })[1], 'datapath');
    });

    it('tells that a pair is on TCP to be measured, as long as it is', () => {
      const away = record({ ...observed, demotion: 'measured', retryNs: 2n ** 63n });
      const told = judgePair(facts(away, { measured: true }));
      assert.deepEqual([told.verdict, told.decidedBy, told.name], ['pending', 'datapath', 'measured']);
      assert.match(told.because, /"bench --port" measures it/);
      assert.equal(judgePair(facts(away)).verdict, 'refused', 'nobody measures it any more');
      const refused = record({ ...observed, demotion: 'measured', refusal: 'blocking', retryNs: 2n ** 63n });
      assert.equal(judgePair(facts(refused, { measured: true })).name, 'blocking');
    });

    it('tells how long a pair that was taken back cools down', () => {
      const cooling = record({ ...observed, demotion: 'stream', retryNs: 1_000_000_000_000n + 90_000_000_000n });
      const { verdict: name, because } = judgePair(facts(cooling, { nowNs: 1_000_000_000_000n }));
      assert.equal(name, 'refused');
      assert.match(because, /turned into a stream.* not tried again for 1m30s\.$/);
      assert.equal(judgePair(facts(cooling, { nowNs: 2_000_000_000_000n })).verdict, 'watched');
      assert.equal(judgePair(facts(record({ control: control('draining'), demotion: 'memory' }))).decidedBy, 'memory');
    });

    it('is a sentence for every state and reason', () => {
      for (const state of STATES) {
        for (const refusal of [
          'none',
          'policy',
          'program',
          'reader',
          'low_water_mark',
          'zerocopy',
          'busy',
          'not_established',
          'gone',
        ]) {
          for (const demotion of ['none', 'policy', 'program', 'reader', 'accounting', 'requested', 'measured']) {
            const { because, change } = judgePair(
              facts(record({ control: control(state), refusal, demotion, retryNs: 2n ** 63n })),
            );
            for (const text of [because, change ?? 'None.']) assert.match(text, /^\S[^\n]*\.$/);
            assert.doesNotMatch(because, /undefined|\[object/);
          }
        }
      }
    });
  });

  describe('the verdict on what is not paired', () => {
    const here: UnpairedFacts = {
      state: 'established',
      whereabouts: 'here',
      tracked: true,
      remote: '10.0.0.2:80',
      ends: [
        { name: 'curl(1)', cgroup: '/a/b', ageSeconds: 500 },
        { name: 'nginx(2)', cgroup: '/a', ageSeconds: 1000 },
      ],
      attached: '/a',
      loadedSeconds: 100,
      unpaired: {},
    };
    const verdict = (more: Partial<UnpairedFacts>): string => judgeUnpaired({ ...here, ...more }).verdict;

    it('goes by place, age and state', () => {
      assert.equal(verdict({}), 'older');
      assert.equal(verdict({ loadedSeconds: 700 }), 'missed');
      assert.equal(verdict({ whereabouts: 'elsewhere' }), 'remote');
      assert.equal(verdict({ whereabouts: 'hidden' }), 'hidden');
      assert.equal(verdict({ whereabouts: 'ambiguous' }), 'hidden');
      assert.equal(verdict({ attached: '/a/b' }), 'outside');
      assert.equal(verdict({ attached: '/a/b', whereabouts: 'elsewhere' }), 'remote');
      assert.equal(verdict({ attached: '/' }), 'older');
      assert.equal(verdict({ state: 'syn-sent' }), 'closing');
    });

    it('does not take a name for a place', () => {
      assert.equal(verdict({ attached: '/a', ends: [{ name: 'x(1)', cgroup: '/ab', ageSeconds: null }] }), 'outside');
    });

    it('says what can not be told', () => {
      assert.match(
        judgeUnpaired({ ...here, whereabouts: 'elsewhere', tracked: false }).because,
        /unless its address is translated/,
      );
      const counted = judgeUnpaired({ ...here, loadedSeconds: 700, unpaired: { table_full: 3, remote_client: 9 } });
      assert.match(counted.because, /not paired for: 3 table_full\.$/);
      assert.match(counted.change ?? '', /--max-pairs/);
    });
  });
});

function at(text: string): { address: string; port: number } {
  const [address = '', port] = text.split(':');
  return { address, port: Number(port) };
}

function socket(state: SocketState, local: string, remote: string, inode = 1, netns = 7): HostSocket {
  return { netns, state, local: at(local), remote: at(remote), inode };
}

function host(sockets: HostSocket[], addresses: string[] = []): HostView {
  return { sockets, translations: [], addresses: new Set(addresses), namespaces: 1, tracked: true };
}

function end(local: string, remote: string, more: Partial<End> = {}): End {
  return {
    ...at(local),
    remoteAddress: at(remote).address,
    remotePort: at(remote).port,
    family: 4,
    cgroupId: 1n,
    netns: 7,
    pid: 1,
    program: 'x',
    evidence: 1,
    receivedBytes: 64_000,
    receives: 1000,
    ...more,
  };
}

function direction(more: Partial<Direction>): Direction {
  return {
    path: 'direct',
    held: false,
    redirectedBytes: 0,
    redirectedMessages: 0,
    passedMessages: 0,
    switches: 0,
    lastPass: undefined,
    overtaken: false,
    stalledNs: 0n,
    ...more,
  };
}

function control(state: PairRecord['control']['state']): PairRecord['control'] {
  return decodeControl((1 << 8) | STATES.indexOf(state));
}

function record(more: Partial<PairRecord>): PairRecord {
  return {
    slot: 3,
    control: control('inserted'),
    closedSides: 0,
    createdNs: 0n,
    candidateNs: 0n,
    insertedNs: 0n,
    retryNs: 0n,
    promotions: 1,
    adopted: false,
    stream: false,
    promoteAfter: 0,
    window: { turns: 0, receives: 0, bytes: 0 },
    refusal: 'none',
    demotion: 'none',
    backlogLimit: 0,
    ends: [end('10.0.0.1:1000', '10.0.0.2:80'), end('10.0.0.2:80', '10.0.0.1:1000')],
    directions: [direction({}), direction({})],
    ...more,
  };
}

function facts(of: PairRecord, more: Partial<PairFacts> = {}): PairFacts {
  return {
    record: of,
    names: ['client(1)', 'server(2)'],
    evidence: [['without blocking'], ['blocking']],
    decision: undefined,
    excluded: [undefined, undefined],
    learned: [undefined, undefined],
    kernelRefusal: undefined,
    controllerRunning: true,
    paused: false,
    measured: false,
    turnsWanted: 16,
    nowNs: 1_000_000_000_000n,
    ...more,
  };
}
