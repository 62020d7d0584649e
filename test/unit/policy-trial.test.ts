/** `policy test`: the rule that decides, its place, and why those before it did not match. */
import assert from 'node:assert/strict';

import { parsePolicy } from '../../controller/policy/parse.js';
import { traceRules } from '../../controller/policy/trace.js';
import { type TrialEnd, type TrialResult, tryPolicy } from '../../controller/policy/trial.js';
import { renderTrial } from '../../controller/view/trial.js';

const TEXT = `version: 1
defaults: { action: observe }
rules:
  - { name: payments, unit: payments, ports: [5432, 6000-6010], action: tcp }
  - name: proxies
    programs: [envoy*, haproxy]
    action: accelerate
  - { name: shop, cgroup: /system.slice/shop*, action: accelerate, backlog: 256KiB, promoteAfter: 4 }
  - { name: ftp, ports: [20-21], action: accelerate }
exclude: { programs: [my-proxy] }
`;

function loaded(text = TEXT) {
  const result = parsePolicy(text, 'p.yaml');
  assert.ok(result.ok, JSON.stringify(result));
  return { file: 'p.yaml', hash: 'h', policy: result.policy, places: result.places };
}

const end = (cgroup: string | null, port: number | null, program: string | null, learned = false): TrialEnd => ({
  cgroup,
  port,
  program,
  learned,
});
const attempt = (one: TrialEnd, other?: TrialEnd): TrialResult =>
  tryPolicy(loaded(), other === undefined ? [one] : [one, other]);

describe('policy test', () => {
  it('names the rule, its place and its settings', () => {
    const { ends, outcome, reason, pair } = attempt(end('/system.slice/shop1.service', 80, 'web'));
    const [{ rule, line, column, action, backlog, promoteAfter, blockingReaders } = assert.fail()] = ends;
    assert.deepEqual([rule, line, column, action], ['shop', 8, 5, 'accelerate']);
    assert.deepEqual([backlog, promoteAfter, blockingReaders], [262_144, 4, false]);
    assert.deepEqual([outcome, reason, pair], ['accelerate', null, null]);
  });

  it('says why each rule before it did not match, condition by condition', () => {
    const [{ passedOver } = assert.fail()] = attempt(end('/system.slice/shop1.service', 80, 'web')).ends;
    assert.deepEqual(passedOver, [
      {
        rule: 'payments',
        line: 4,
        column: 5,
        state: 'fails',
        because: "unit payments: '/system.slice/shop1.service' is not in it; ports 5432, 6000-6010: the port is 80",
      },
      {
        rule: 'proxies',
        line: 5,
        column: 5,
        state: 'fails',
        because: "programs envoy*, haproxy: the program is 'web'",
      },
    ]);
  });

  it('only names the conditions that fail', () => {
    const [{ passedOver } = assert.fail()] = attempt(end('/system.slice/payments.service', 80, 'web')).ends;
    assert.equal(passedOver[0]?.because, 'ports 5432, 6000-6010: the port is 80');
  });

  it('defaults have their place, or none', () => {
    const [{ rule, line, column } = assert.fail()] = attempt(end('/x', 80, 'web')).ends;
    assert.deepEqual([rule, line, column], ['defaults', 2, 1]);
    const [bare] = tryPolicy(loaded('version: 1\n'), [end('/x', 80, 'web')]).ends;
    assert.deepEqual([bare?.rule, bare?.line, bare?.column], ['defaults', null, null]);
  });

  it('what is not given is not known: a stricter rule that may apply decides', () => {
    const result = attempt(end(null, 5432, 'web'));
    const [{ rule, unknown, action, passedOver } = assert.fail()] = result.ends;
    assert.deepEqual([rule, unknown, action, result.outcome], ['payments', 'cgroup', 'tcp', 'tcp']);
    assert.equal(passedOver[0]?.state, 'unknown');
    assert.match(passedOver[0].because, /the cgroup is not known/);
    assert.match(result.because, /'payments' says tcp, and may apply: the cgroup of an end is not known/);
    const [{ passedOver: others } = assert.fail()] = attempt(end('/x', null, null)).ends;
    assert.deepEqual(
      others.map(({ state, because }) => [state, because]),
      [
        ['fails', "unit payments: '/x' is not in it; ports 5432, 6000-6010: no port is given"],
        ['unknown', 'programs envoy*, haproxy: no program is given'],
        ['fails', "cgroup /system.slice/shop*: '/x' is not in it"],
        ['fails', 'ports 20-21: no port is given'],
      ],
    );
  });

  it('a pair gets the stricter answer of its two ends, in every setting', () => {
    const shop = end('/system.slice/shop1.service', 5432, 'web');
    const { pair, outcome, reason, because } = attempt(shop, end('/system.slice/payments.service', 5432, 'postgres'));
    assert.deepEqual(
      [pair?.rule, pair?.line, pair?.action, pair?.backlog, pair?.promoteAfter],
      ['payments', 4, 'tcp', 262_144, 16],
    );
    assert.deepEqual([outcome, reason], ['tcp', 'policy']);
    assert.match(because, /the rule 'payments' says tcp/);
    assert.equal(attempt(shop, end('/x', 5432, 'y')).outcome, 'observe');
  });

  it('programs that are never accelerated, by the built-in list and by the policy', () => {
    const builtIn = attempt(end('/x', 80, 'haproxy'));
    assert.deepEqual([builtIn.ends[0]?.action, builtIn.outcome, builtIn.reason], ['accelerate', 'tcp', 'program']);
    assert.equal(builtIn.ends[0]?.excluded?.hazard, 'splice');
    assert.match(builtIn.because, /^haproxy moves payload with splice.*on a kernel with this hazard/);
    const own = attempt(end('/system.slice/shop', 80, 'my-proxy'));
    assert.deepEqual([own.outcome, own.reason, own.ends[0]?.excluded?.source], ['tcp', 'program', 'policy']);
  });

  it('learned programs and ports of conntrack helpers', () => {
    assert.equal(attempt(end('/system.slice/shop', 80, 'web', true)).reason, 'learned');
    const ftp = attempt(end('/x', 21, 'ftpd'));
    assert.deepEqual([ftp.reason, ftp.ends[0]?.helperPort, ftp.ends[0]?.action], ['helper', 21, 'accelerate']);
  });

  it('is told to a person with file, line and column', () => {
    const text = renderTrial(
      attempt(end('/system.slice/shop1.service', 80, 'web'), end('/system.slice/payments.service', 80, 'x')),
    );
    assert.match(text, /^end: shop1\.service \(\/system\.slice\/shop1\.service\), port 80, web\n/);
    assert.match(text, /\n {2}decides +p\.yaml:8:5: rule 'shop'\n/);
    assert.match(text, /\n {2}before it +p\.yaml:4:5: 'payments' does not match: unit payments/);
    assert.match(text, /\n\npeer: payments\.service/);
    assert.match(text, /\nboth ends: observe, by p\.yaml:2:1: the defaults; promoteAfter 16, backlog 256KiB/);
    assert.match(text, /\noutcome: observe: the defaults say observe/);
    assert.match(renderTrial(attempt(end('/x', 80, 'y'))), /note: this is one end/);
  });

  it('traces every condition that a rule has', () => {
    const { policy } = loaded(
      'version: 1\nrules: [{ name: r, cgroup: /a, unit: b, container: "*", pod: "*", ports: [1], programs: [c] }]',
    );
    const [{ conditions, state } = assert.fail()] = traceRules(policy, { cgroup: '/a/b.service', ports: [1, 2] });
    assert.equal(state, 'fails');
    assert.deepEqual(
      conditions.map((one) => [one.condition, one.state]),
      [
        ['cgroup', 'holds'],
        ['unit', 'holds'],
        ['container', 'fails'],
        ['pod', 'fails'],
        ['ports', 'holds'],
        ['programs', 'unknown'],
      ],
    );
  });
});
