/** `policy suggest` and `policy init`: what is put together, the files they write, and the estimate. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { BENCHMARKED, savedPerMessage } from '../../controller/decisions/gain.js';
import { judgeOutlook, type Outlook, withoutObserve } from '../../controller/decisions/outlook.js';
import type { CandidateEnd } from '../../controller/decisions/promotion.js';
import type { PairRecord, State } from '../../controller/datapath/pair-table.js';
import type { HostView } from '../../controller/explain/host.js';
import { localConnections } from '../../controller/explain/local.js';
import type { HostSocket } from '../../controller/explain/proc-net.js';
import { compilePolicy, decidePair } from '../../controller/policy/evaluate.js';
import { type InventoryConnection, inventoryPolicy, takeInventory } from '../../controller/policy/inventory.js';
import { parsePolicy } from '../../controller/policy/parse.js';
import type { Policy } from '../../controller/policy/schema.js';
import {
  groupTraffic,
  suggestPolicy,
  type TrafficGroup,
  type WatchedPair,
} from '../../controller/policy/suggestion.js';
import { writePolicy, writtenDefaults, writtenRule } from '../../controller/policy/write.js';
import { renderSuggestion } from '../../controller/view/suggestion.js';
import { objectLayout, ROOT } from './support.js';

function policy(text: string): Policy {
  const result = parsePolicy(`version: 1\n${text}`, 'p');
  assert.ok(result.ok, JSON.stringify(result));
  return result.policy;
}

const OBSERVE = 'defaults: { action: observe }\n';
const WEB = '/system.slice/web.service';
const CACHE = '/system.slice/cache.service';

interface Wanted extends Partial<Omit<WatchedPair, 'client' | 'server'>> {
  client?: Partial<WatchedPair['client']>;
  server?: Partial<WatchedPair['server']>;
}

function watched(outlook: Outlook, more: Wanted = {}): WatchedPair {
  const { client, server, ...rest } = more;
  return {
    client: { cgroup: WEB, program: 'web', port: 40_000, remotePort: 6379, netns: 1, ...client },
    server: { cgroup: CACHE, program: 'redis-server', port: 6379, remotePort: 40_000, netns: 1, ...server },
    outlook,
    reason: null,
    messages: 1000,
    bytes: 64_000,
    turns: 10,
    receives: 10,
    ...rest,
  };
}

/** What a suggested policy says of a group's two ends. */
function answer(
  text: string,
  { client, server, port, dialled }: TrafficGroup,
  programs = [client.programs[0], server.programs[0]],
): string {
  const result = parsePolicy(text, 'suggested');
  assert.ok(result.ok, JSON.stringify(result));
  return decidePair(compilePolicy(result.policy), [
    { cgroup: client.cgroup ?? undefined, ports: [dialled, 40_000], program: programs[0] },
    { cgroup: server.cgroup ?? undefined, ports: [port, 40_000], program: programs[1] },
  ]).action;
}

describe('the outlook of a pair', () => {
  const bits = objectLayout().values('evidence');
  const end = (more: Partial<CandidateEnd> = {}): CandidateEnd => ({
    cgroup: '/x',
    ports: [6379, 40_000],
    program: 'web',
    evidence: bits['EVIDENCE_NONBLOCKING'] ?? 0,
    learned: false,
    ...more,
  });

  function outlook(
    record: { state?: State; refusal?: string; demotion?: string; receives?: number },
    ends: [CandidateEnd, CandidateEnd] = [end(), end()],
    text = OBSERVE,
  ): string {
    const { state = 'observed', refusal = 'none', demotion = 'none', receives = 1000 } = record;
    const one = { receives: receives / 2 };
    const judged = judgeOutlook(
      { control: { state }, refusal, demotion, promotions: 0, ends: [one, one] } as unknown as PairRecord,
      { ends, kernelRefusal: undefined },
      withoutObserve(policy(text)),
      bits,
      16,
    );
    return judged.reason ?? judged.outlook;
  }

  it('has shown request and response: it would be accelerated, unless something else speaks against it', () => {
    assert.equal(outlook({ refusal: 'observe' }), 'would');
    const blocking = end({ evidence: bits['EVIDENCE_BLOCKING'] ?? 0 });
    assert.equal(outlook({ refusal: 'observe' }, [end(), blocking]), 'blocking');
    assert.equal(outlook({ refusal: 'observe' }, [end({ program: 'haproxy' }), end()]), 'program');
    assert.equal(outlook({ refusal: 'observe' }, [end({ learned: true }), end()]), 'learned');
    assert.equal(outlook({ refusal: 'observe' }, [end({ ports: [21, 40_000] }), end()]), 'helper');
  });

  it('what the policy leaves on TCP stays there', () => {
    assert.equal(
      outlook({ refusal: 'policy' }, undefined, `${OBSERVE}rules: [{ name: t, cgroup: /x, action: tcp }]`),
      'policy',
    );
    assert.equal(
      outlook({ refusal: 'policy' }, undefined, `${OBSERVE}rules: [{ name: o, cgroup: /x, action: observe }]`),
      'would',
    );
  });

  it('tells streams from connections that are young, and both from what is promoted', () => {
    assert.equal(outlook({ receives: 129 }), 'stream');
    assert.equal(outlook({ receives: 128 }), 'young');
    assert.equal(outlook({ demotion: 'stream' }), 'stream');
    assert.equal(outlook({ state: 'inserted' }), 'accelerated');
  });

  it('what the attempt to promote has found stands', () => {
    assert.equal(outlook({ refusal: 'zerocopy' }), 'zerocopy');
    assert.equal(outlook({ refusal: 'accounting' }), 'accounting');
  });
});

describe('the suggested policy', () => {
  const groups = groupTraffic(
    [
      watched('would'),
      watched('would', { client: { port: 40_001 }, messages: 3000 }),
      watched('refused', { reason: 'blocking', client: { program: 'cron-job' }, messages: 10, turns: 1 }),
      watched('stream', { client: { cgroup: '/backup' }, turns: 0, receives: 100 }),
    ],
    2,
    undefined,
  );

  it('puts pairs together by who talks to whom', () => {
    const [first, second, ...none] = groups;
    assert.deepEqual(none, []);
    assert.deepEqual([first?.pairs, first?.outlooks.would, first?.reasons], [3, 2, { blocking: 1 }]);
    assert.deepEqual([first?.would.messagesPerSecond, first?.messagesPerSecond], [2000, 2005]);
    assert.deepEqual(first?.client.programs, ['cron-job', 'web']);
    assert.deepEqual(first.would.clientPrograms, ['web']);
    assert.equal(first.turnShare, 0.7);
    assert.deepEqual([second?.client.cgroup, second?.outlooks.stream, second?.turnShare], ['/backup', 1, 0]);
  });

  it('accelerates exactly what would be', () => {
    const { text, rules, also, left } = suggestPolicy(policy(OBSERVE), groups, ['from a test']);
    assert.deepEqual([rules, also, left], [2, [], []]);
    const [first, second] = groups;
    assert.ok(first && second);
    assert.equal(answer(text, first, ['web', 'redis-server']), 'accelerate');
    assert.equal(answer(text, first, ['cron-job', 'redis-server']), 'observe');
    assert.equal(answer(text, second), 'observe');
    assert.match(text, /^# from a test\n/);
    assert.match(text, /\n {2}# web\.service to cache\.service:6379\n {2}- name: web\.service port 6379\n/);
  });

  it('keeps the policy in force, and what is tcp in it', () => {
    const inForce = policy(`defaults: { action: observe, promoteAfter: 4 }
rules:
  - { name: never, unit: [web, other], ports: [1-5, 7], action: tcp, blockingReaders: true, backlog: 256KiB }
  - { name: look, cgroup: /system.slice, action: observe }
exclude: { programs: [my-proxy] }
`);
    const { text } = suggestPolicy(inForce, groups, []);
    const result = parsePolicy(text, 'p');
    assert.ok(result.ok);
    const kept = (of: Policy): Policy => ({
      ...of,
      rules: of.rules.filter(({ name }) => name === 'never' || name === 'look'),
    });
    assert.deepEqual(JSON.parse(JSON.stringify(kept(result.policy))), JSON.parse(JSON.stringify(inForce)));
    assert.deepEqual(
      result.policy.rules.map(({ name }) => name),
      ['never', 'web.service port 6379', 'cache.service port 6379', 'look'],
      'in front of the rule that said observe, behind those that say tcp',
    );
    const [group] = groups;
    assert.ok(group);
    assert.equal(answer(text, group, ['web', 'redis-server']), 'accelerate');
    assert.equal(answer(text, { ...group, dialled: 5 }, ['web', 'redis-server']), 'tcp');
  });

  it('says what the rules stand for besides, as a rule is about one end', () => {
    const crossed = groupTraffic(
      [
        watched('would', { client: { cgroup: '/a' }, server: { cgroup: '/b' } }),
        watched('would', { client: { cgroup: '/c' }, server: { cgroup: '/d' } }),
        watched('young', { client: { cgroup: '/a' }, server: { cgroup: '/d' } }),
      ],
      1,
      undefined,
    );
    const { also } = suggestPolicy(policy(OBSERVE), crossed, []);
    assert.deepEqual(
      also.map(({ client, server }) => [client.cgroup, server.cgroup]),
      [['/a', '/d']],
    );
  });

  it('has rules for inner cgroups first, for translated ports, and for any name', () => {
    const odd = '/odd[1]*?\\x2d "q": #';
    const found = groupTraffic(
      [
        watched('would', {
          client: { cgroup: '/top', remotePort: 80 },
          server: { cgroup: `/top${odd}`, program: '/a b[c]*' },
        }),
        watched('would', { client: { cgroup: null } }),
      ],
      1,
      undefined,
    );
    const { text, left } = suggestPolicy(policy(OBSERVE), found, []);
    const translated = found.find(({ dialled }) => dialled === 80);
    assert.ok(translated);
    assert.equal(translated.port, 6379);
    assert.equal(answer(text, translated), 'accelerate');
    assert.equal(answer(text, { ...translated, server: { ...translated.server, cgroup: '/top/odd1' } }), 'observe');
    assert.ok(text.indexOf('odd') < text.indexOf('name: /top port 80'));
    assert.deepEqual(
      left.map(({ client }) => client.cgroup),
      [null],
    );
  });

  it('is nothing new where everything is accelerated', () => {
    const done = groupTraffic([watched('accelerated')], 1, undefined);
    assert.equal(suggestPolicy(policy(''), done, []).rules, 0);
  });

  it('reads back whatever it writes', () => {
    const all = policy(`defaults: { action: tcp, blockingReaders: true, promoteAfter: 9, backlog: 65536 }
rules:
  - { name: "a: #b", cgroup: [/x, /y*], unit: u, container: "*", pod: "*", ports: [1, 2-3], programs: ["p q"], action: observe, promoteAfter: 3, backlog: 1 MiB, blockingReaders: false }
  - { name: c }
`);
    const text = writePolicy({
      comment: ['two', '', 'parts \u001b[31m'],
      defaults: writtenDefaults(all.defaults),
      rules: all.rules.map((rule) => ({ comment: ['x'], rule: writtenRule(rule) })),
    });
    const back = parsePolicy(text, 'p');
    assert.ok(back.ok);
    assert.deepEqual(JSON.parse(JSON.stringify(back.policy)), JSON.parse(JSON.stringify(all)));
    assert.ok(!text.includes('\u001b'));
  });
});

describe('the estimate', () => {
  const MEASURED = [
    { size: 64, tcp: 20, direct: 10 },
    { size: 16_384, tcp: 40, direct: 10 },
    { size: 1024, tcp: 20, direct: 22 },
  ];

  it('is half of what a round trip of the nearest size saves, and never less than nothing', () => {
    assert.equal(savedPerMessage(MEASURED, 50), 5);
    assert.equal(savedPerMessage(MEASURED, 1e6), 15);
    assert.equal(savedPerMessage(MEASURED, 1000), 0);
    assert.equal(savedPerMessage([], 64), 0);
  });

  it('is told as one, with what it is made from', () => {
    const facts = {
      seconds: 2,
      loadedSeconds: 60,
      controllerRunning: false,
      unseen: 3,
      rules: 2,
      also: [],
      left: [],
      output: null,
    };
    const stated = renderSuggestion({
      ...facts,
      measured: null,
      groups: groupTraffic([watched('would')], 2, undefined),
    });
    assert.match(
      stated,
      /\nestimate: of the CPU time that 500 messages\/s cost .*, 3 to 54 % over loopback is saved, as docs\/benchmarks\.md measured/,
    );
    assert.match(stated, /note: no controller runs/);
    assert.match(stated, /note: 3 connections came and went/);
    const here = renderSuggestion({
      ...facts,
      measured: MEASURED,
      groups: groupTraffic([watched('would')], 2, MEASURED),
    });
    assert.match(here, /\nestimate: 2\.5 ms\/s of CPU time saved a second, for 500 messages\/s; measured here/);
    const nothing = renderSuggestion({ ...facts, measured: null, groups: [] });
    assert.match(nothing, /^no connection has both ends here at present\n/);
    assert.doesNotMatch(nothing, /estimate/);
  });

  it('states the range that docs/benchmarks.md has', () => {
    const page = readFileSync(join(ROOT, 'docs', 'benchmarks.md'), 'utf8');
    const section = (title: string): string => page.split(/^## /m).find((text) => text.startsWith(`${title}\n`)) ?? '';
    for (const [text, stated] of [
      [section('Loopback'), BENCHMARKED.loopback],
      [section('Between network namespaces'), BENCHMARKED.namespaces],
    ] as const) {
      const saved = [...text.matchAll(/^\| ping-pong \d+ \w+ \|.*\| ([\d.]+) \|$/gm)].map(([, cpu]) => 1 - Number(cpu));
      assert.ok(saved.length > 0);
      assert.deepEqual(
        [Math.max(0, Math.min(...saved)), Math.max(...saved)].map((part) => part.toFixed(2)),
        [stated.least, stated.most].map((part) => part.toFixed(2)),
        'controller/decisions/gain.ts: write what the page has now',
      );
    }
  });
});

describe('the inventory of a host', () => {
  const socket = (
    netns: number,
    local: [string, number],
    remote: [string, number],
    state: HostSocket['state'] = 'established',
  ): HostSocket => ({
    netns,
    state,
    local: { address: local[0], port: local[1] },
    remote: { address: remote[0], port: remote[1] },
    inode: local[1],
  });
  const view = (sockets: HostSocket[], translations: HostView['translations'] = []): HostView => ({
    sockets,
    translations,
    addresses: new Set(),
    namespaces: 1,
    tracked: translations.length > 0,
  });
  const ports = (host: HostView): number[][] =>
    localConnections(host).map((ends) => ends.map(({ local }) => local.port));

  it('finds both ends of a connection once, the server by its listener', () => {
    const client = socket(1, ['127.0.0.1', 80], ['127.0.0.1', 9000]);
    const server = socket(1, ['127.0.0.1', 9000], ['127.0.0.1', 80]);
    const listener = socket(1, ['0.0.0.0', 9000], ['0.0.0.0', 0], 'listen');
    assert.deepEqual(ports(view([client, server, listener])), [[80, 9000]]);
    assert.deepEqual(ports(view([server, client, listener])), [[80, 9000]]);
    assert.deepEqual(ports(view([client, server])), [[9000, 80]], 'without a listener the lower port is the server');
  });

  it('leaves out other hosts, other loopbacks and what is over', () => {
    const out = socket(1, ['10.0.0.1', 40_000], ['10.0.0.9', 80]);
    const one = socket(1, ['127.0.0.1', 40_000], ['127.0.0.1', 80]);
    const other = socket(2, ['127.0.0.1', 80], ['127.0.0.1', 40_000]);
    const gone = socket(1, ['127.0.0.1', 81], ['127.0.0.1', 40_001], 'time-wait');
    assert.deepEqual(ports(view([out, one, other, gone])), []);
  });

  it('follows translated addresses', () => {
    const client = socket(1, ['10.0.0.1', 40_000], ['10.0.0.5', 8080]);
    const server = socket(2, ['172.17.0.2', 80], ['10.0.0.1', 40_000]);
    const flow = (from: [string, number], to: [string, number]) => ({
      from: { address: from[0], port: from[1] },
      to: { address: to[0], port: to[1] },
    });
    const translation = {
      original: flow(['10.0.0.1', 40_000], ['10.0.0.5', 8080]),
      reply: flow(['172.17.0.2', 80], ['10.0.0.1', 40_000]),
    };
    assert.deepEqual(ports(view([client, server], [translation])), [[40_000, 80]]);
  });

  const DOCKER = `/system.slice/docker-${'3f2a'.repeat(16)}.scope`;
  const connection = (
    client: [string | null, string],
    server: [string, string, number],
    seen: InventoryConnection['seen'] = null,
  ): InventoryConnection => ({
    client: { cgroup: client[0], program: client[1], port: 40_000 },
    server: { cgroup: server[0], program: server[1], port: server[2] },
    seen,
  });

  it('becomes a policy with a rule for each cgroup, inner ones first, that policy check accepts', () => {
    const workloads = takeInventory([
      connection([WEB, 'web'], [CACHE, 'redis-server', 6379], { outlook: 'would', reason: null }),
      connection([WEB, 'web'], [CACHE, 'redis-server', 6379], { outlook: 'refused', reason: 'blocking' }),
      connection(['/', 'make'], [DOCKER, 'haproxy', 80]),
      connection([null, '?'], [CACHE, 'redis-server', 6380]),
    ]);
    assert.deepEqual(
      workloads.map(({ cgroup, connections, ports: served }) => [cgroup, connections, served]),
      [
        [CACHE, 3, [6379, 6380]],
        [WEB, 2, []],
        [DOCKER, 1, [80]],
        ['/', 1, []],
      ],
    );
    for (const action of ['observe', 'accelerate'] as const) {
      const text = inventoryPolicy(workloads, action, ['head'], true);
      const result = parsePolicy(text, 'p');
      assert.ok(result.ok, text);
      assert.deepEqual(result.warnings, []);
      assert.equal(result.policy.defaults.action, 'observe');
      assert.deepEqual(
        result.policy.rules.map((rule) => [rule.name, rule.cgroup?.[0], rule.action, rule.programs]),
        [
          ['cache.service', CACHE, action, undefined],
          ['web.service', WEB, action, undefined],
          ['docker:3f2a3f2a3f2a', DOCKER, action, undefined],
          ['no cgroup of their own', '/', action, ['make']],
        ],
      );
      assert.match(
        text,
        /# Unit cache\.service\. Runs redis-server: 3 local connections, with web\.service\. Serves ports 6379, 6380\.\n/,
      );
      assert.match(text, /# Observed: 1 would be accelerated, 1 refused \(blocking\)\.\n/);
      assert.match(text, /# Container 3f2a3f2a3f2a \(docker\)\. Runs haproxy: 1 local connection/);
      assert.match(text, /# Stays on TCP whatever is said here: haproxy moves payload with splice/);
      assert.match(text, /# Observed: none of them, they are older than the datapath\.\n/);
    }
    assert.doesNotMatch(inventoryPolicy(workloads, 'observe', [], false), /Observed/);
  });

  it('of nothing is a valid policy, too', () => {
    assert.ok(parsePolicy(inventoryPolicy([], 'observe', [], false), 'p').ok);
  });
});
