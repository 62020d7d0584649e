/** The policies in docs: valid, without a warning, and each says what the text beside it says. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import { compilePolicy, decidePair, type End } from '../../controller/policy/evaluate.js';
import { loadPolicy } from '../../controller/policy/load.js';
import { parsePolicy } from '../../controller/policy/parse.js';
import { policyJsonSchema } from '../../controller/policy/schema.js';
import { ROOT } from './support.js';

const EXAMPLES = join(ROOT, 'docs', 'examples');
const end = (cgroup: string, port: number, program = 'x'): End => ({ cgroup, ports: [port, 40_000], program });
const unit = (name: string): string => `/system.slice/${name}.service`;
const pod = (uid: string): string =>
  `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${uid.replaceAll('-', '_')}.slice/cri-containerd-${'ab'.repeat(32)}.scope`;

const TRIAL = ['1858680e-b044-4fd5-9dd4-f137e30e2180', '12fdc709-5f1e-4a36-9d6c-0c5a7f3f1f10'] as const;

/** What each says of some pairs. */
const SAYS: Record<string, [End, End, string][]> = {
  'database-host.yaml': [
    [end(unit('app@1'), 6432), end(unit('pgbouncer'), 6432), 'accelerate: postgresql'],
    [
      end(unit('pgbouncer'), 5432),
      end('/system.slice/system-postgresql.slice/postgresql@15-main.service', 5432),
      'accelerate: postgresql',
    ],
    [end(unit('app@1'), 6379), end(unit('redis-server'), 6379), 'accelerate: the cache'],
    [end(unit('app@1'), 6379), end(unit('redis-server'), 6379, 'pg_dump'), 'tcp: backups and replication'],
    [end(unit('ledger'), 5432), end(unit('pgbouncer'), 5432), 'tcp: the ledger is captured'],
    [end(unit('cron'), 5432), end(unit('pgbouncer'), 5432), 'observe: defaults'],
    [end(`/user.slice/a${unit('app@1')}`, 6379), end(unit('redis-server'), 6379), 'observe: defaults'],
  ],
  'proxy-host.yaml': [
    [end(unit('envoy'), 8001), end(unit('service-a'), 8001), 'accelerate: the proxy to its upstreams'],
    [end(unit('service-a'), 9000), end(unit('auth'), 9000), 'accelerate: the services'],
    [end(unit('envoy'), 8001), end(unit('uploads'), 8001), 'tcp: uploads'],
    [end(unit('envoy'), 443), end(unit('service-a'), 443), 'observe: defaults'],
  ],
  'kubernetes-node.yaml': [
    [end(pod(TRIAL[0]), 80), end(pod(TRIAL[1]), 80), 'accelerate: a trial'],
    [end(pod(TRIAL[0]), 80), end(pod('00000000-b044-4fd5-9dd4-f137e30e2180'), 80), 'observe: every other pod'],
    [end(pod(TRIAL[0]), 80), end(unit('kubelet'), 80), "tcp: not the node's own services"],
    [end(pod(TRIAL[0]), 80), end(unit('sshd'), 80), 'tcp: defaults'],
  ],
};

describe('the example policies', () => {
  it('are all tried', () => {
    assert.deepEqual(readdirSync(EXAMPLES).sort(), Object.keys(SAYS).sort());
  });

  for (const [file, pairs] of Object.entries(SAYS)) {
    it(`${file} is valid, and decides as it says`, () => {
      const result = loadPolicy(join(EXAMPLES, file));
      assert.ok(result.ok, JSON.stringify(result));
      assert.deepEqual(result.warnings, []);
      const compiled = compilePolicy(result.policy);
      for (const [one, other, wanted] of pairs) {
        const { action, rule } = decidePair(compiled, [one, other]);
        assert.equal(`${action}: ${rule}`, wanted, JSON.stringify([one, other]));
      }
    });
  }
});

describe('docs/policy.md', () => {
  const page = readFileSync(join(ROOT, 'docs', 'policy.md'), 'utf8');

  it('has examples that are valid', () => {
    const blocks = [...page.matchAll(/```yaml\n([^]*?)```/g)].map(([, text = '']) => text);
    assert.ok(blocks.length >= 4);
    for (const text of blocks) {
      const result = parsePolicy(text.startsWith('version:') ? text : `version: 1\n${text}`, 'docs/policy.md');
      assert.ok(result.ok, JSON.stringify(result));
    }
  });

  it('has every key of the format, and links every example', () => {
    const schema = policyJsonSchema() as {
      properties: { defaults: object; rules: { items: object }; exclude: object };
    };
    const keys = (of: object): string[] => Object.keys((of as { properties: object }).properties);
    const { defaults, rules, exclude } = schema.properties;
    for (const key of [...keys(schema), ...keys(defaults), ...keys(rules.items), ...keys(exclude)]) {
      assert.match(page, new RegExp(`\`${key}\``), key);
    }
    for (const file of Object.keys(SAYS)) assert.ok(page.includes(`(examples/${file})`), file);
  });
});
