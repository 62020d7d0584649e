import assert from 'node:assert/strict';
import fc from 'fast-check';
import { formatProblem, parsePolicy } from '../../controller/policy/parse.js';
import { MAX_FILE_BYTES } from '../../controller/read-file.js';
import { defaultPolicy, policyJsonSchema } from '../../controller/policy/schema.js';
import { formatSize, parseSize } from '../../controller/policy/size.js';

/** The formatted problems of a text, or its warnings if it is valid. */
function problems(text: string): string[] {
  const result = parsePolicy(text, 'p');
  return (result.ok ? result.warnings : result.problems).map(formatProblem);
}

function valid(text: string) {
  const result = parsePolicy(text, 'p');
  assert.ok(result.ok, JSON.stringify(result));
  return result.policy;
}

const sizeHelp = 'not a usable size: write bytes or a size such as 256KiB, from 64KiB to 64MiB';
const portHelp = 'not a port: write one such as 5432 or a range such as 6000-6010, within 1-65535';
const listHelp = 'must be a list: write [first, second], or one entry a line after a dash';
const containerHelp =
  'is no container id: write 12 to 64 of its digits (0-9, a-f), or a glob such as 3f2a*; names of containers are not known here';
const podHelp =
  'is no uid of a pod: write metadata.uid (of a static pod, its annotation kubernetes.io/config.hash), or a glob such as 3f2a*';
const promoteAfterHelp = 'promoteAfter must be a number of receives from 1 to 65535: write for example 16';

/** What stands in a file, and every line reported about it. */
const cases: Record<string, [text: string, ...reported: string[]][]> = {
  'the document': [
    ['', 'p:1:1: the policy is empty: write at least version: 1'],
    ['# only a comment\n', 'p:1:1: the policy is empty: write at least version: 1'],
    ['hello', 'p:1:1: the policy must be a mapping: write for example version: 1'],
    ['\n  - 1', 'p:2:3: the policy must be a mapping: write for example version: 1'],
    ['rules: []', 'p:1:1: the version is missing: add version: 1'],
    ['version: 2', "p:1:10: this build reads version 1: write version: 1, or use a build that reads this file's"],
    ['version: "1"', "p:1:10: this build reads version 1: write version: 1, or use a build that reads this file's"],
    [
      'version: 1\n---\nversion: 1',
      'p:2:1: the file holds more than one YAML document: keep one and remove the --- between them',
    ],
    [`#${'x'.repeat(MAX_FILE_BYTES)}`, 'p:1:1: the file is larger than 1 MiB: shorten it, for example with globs'],
    ['\uFEFFversion: 1\n'],
    ['---\nversion: 1\n...\n'],
  ],
  'YAML syntax': [
    ['version: 1\nrules:\n\t- name: x', 'p:3:1: tabs are not allowed as indentation: use spaces'],
    ['version: 1\r\n\tx: 1\r\n', 'p:2:1: tabs are not allowed as indentation: use spaces'],
    [
      'version: 1\ndefaults:\n  action: tcp\n backlog: 1MiB',
      'p:4:1: all mapping items must start at the same column: line it up with spaces, or close the bracket',
    ],
    ['version: 1\nname: "x', 'p:2:9: missing closing "quote: add what is missing'],
    ['version: 1\nname: "\\q"', 'p:2:8: invalid escape sequence \\q: use single quotes, or double the backslash'],
    ['version: 1\nname: @x', 'p:2:7: plain value cannot start with reserved character @: put the text in quotes'],
    [
      'version: 1\nname: a: b',
      'p:2:7: nested mappings are not allowed in compact mappings: start a new line, or put a text with a colon in quotes',
    ],
    [
      `version: 1\nrules: ${'['.repeat(100_000)}`,
      'p:2:71: the YAML is nested too deeply: a policy needs no more than four levels',
    ],
  ],
  'keys, tags and aliases': [
    ['version: 1\nversion: 1', "p:2:1: the key 'version' is here twice: remove one of them"],
    ['version: 1\n1: 2', 'p:2:1: a key must be a text: put it in quotes'],
    ['version: 1\n? [a]\n: 1', 'p:2:3: a key must be a text: put it in quotes'],
    ['version: 1\n"\\e[31m": 1', "p:2:1: unknown key '\uFFFD[31m': write version, defaults, rules or exclude"],
    ['version: 1\ndefaults: { <<: 3 }', 'p:2:13: only mappings can be merged: write <<: *anchor of a mapping'],
    ['version: 1\ndefaults: { <<: [[]] }', 'p:2:13: only mappings can be merged: write <<: *anchor of a mapping'],
    ['version: !!int 1', "p:1:16: the tag '!!int' has no meaning here: remove it"],
    [
      'version: 1\nexclude: { programs: [*proxy] }',
      "p:2:23: alias '*proxy' has no anchor before it: put it in quotes if it is text",
    ],
    ['version: 1\nrules: &a [*a]', "p:2:12: alias '*a' has no anchor before it: put it in quotes if it is text"],
    [
      `version: 1\nrules: [&a [${'x,'.repeat(5000)}],\n *a,\n *a, *a]`,
      'p:4:2: aliases stand for more than 10000 values: use fewer',
    ],
    [
      `version: 1\nrules:\n- &a [x, x]\n${'bcdefghijklmnop'.replace(/./g, (next) => `- &${next} [${`*${String.fromCharCode(next.charCodeAt(0) - 1)},`.repeat(9)}]\n`)}`,
      'p:7:16: aliases stand for more than 10000 values: use fewer',
    ],
  ],
  'unknown and missing keys': [
    ['version: 1\ndefaluts: {}', "p:2:1: unknown key 'defaluts': did you mean 'defaults'?"],
    [
      'vesion: 1',
      'p:1:1: the version is missing: add version: 1',
      "p:1:1: unknown key 'vesion': did you mean 'version'?",
    ],
    ['\uFEFFvesion: {}\nversion: 1', "p:1:1: unknown key 'vesion': did you mean 'version'?"],
    ['version: 1\n__proto__: {}', "p:2:1: unknown key '__proto__': write version, defaults, rules or exclude"],
    ['version: 1\nexclude: { program: [] }', "p:2:12: unknown key 'program': did you mean 'programs'?"],
    ['version: 1\ndefaults: { Backlog: 1MiB }', "p:2:13: unknown key 'Backlog': did you mean 'backlog'?"],
    [
      'version: 1\nrules:\n  - acton: tcp\n    portz: [1]',
      'p:3:5: a rule has no name: add one, such as name: web',
      "p:3:5: unknown key 'acton': did you mean 'action'?",
      "p:4:5: unknown key 'portz': did you mean 'ports'?",
    ],
    [
      'version: 1\nrules:\n- &b { name: b, ports: [1], acton: tcp }\n- { <<: *b, name: c, ports: [0] }',
      "p:3:29: unknown key 'acton': did you mean 'action'?",
      `p:4:30: ${portHelp}`,
    ],
  ],
  settings: [
    ['version: 1\ndefaults:\n', 'p:2:1: defaults must be a mapping: write for example defaults: { action: observe }'],
    ['version: 1\ndefaults: { action: acelerate }', "p:2:21: unknown action 'acelerate': did you mean 'accelerate'?"],
    ['version: 1\ndefaults: { action: drop }', "p:2:21: unknown action 'drop': write accelerate, observe or tcp"],
    ['version: 1\ndefaults: { action: [] }', 'p:2:21: the action must be a word: write accelerate, observe or tcp'],
    ['version: 1\ndefaults: { streams: mesure }', "p:2:22: unknown value 'mesure' of streams: did you mean 'measure'?"],
    ['version: 1\ndefaults: { streams: false }', 'p:2:22: streams must be a word: write measure or tcp'],
    [
      'version: 1\ndefaults: { blockingReaders: yes }',
      'p:2:30: blockingReaders must be true or false: write one of the two without quotes',
    ],
    ...['0', '65536', '1.5', '"16"', 'many', ''].map((value): [string, string] => [
      `version: 1\ndefaults:\n  promoteAfter: ${value}`,
      `p:3:${value === '' ? 3 : 17}: ${promoteAfterHelp}`,
    ]),
    ...['0', '65535', '1GiB', '1MB', '63KiB', '65MiB', '-1MiB', '1.5MiB', '[]', '.inf'].map(
      (value): [string, string] => [`version: 1\ndefaults:\n  backlog: ${value}`, `p:3:12: ${sizeHelp}`],
    ),
  ],
  rules: [
    ['version: 1\nrules: { name: x }', `p:2:8: rules ${listHelp}`],
    ['version: 1\nrules: [web]', 'p:2:9: a rule must be a mapping: write for example - name: web'],
    ['version: 1\nrules: [{ name: 1 }]', 'p:2:17: the name must be a text: put it in quotes'],
    [
      'version: 1\nrules: [{ name: "" }]',
      'p:2:17: the name must have 1 to 100 printable characters: shorten or fill it',
    ],
    [
      'version: 1\nrules: [{ name: defaults }]',
      "p:2:17: the name 'defaults' is taken by the defaults section: choose another",
    ],
    [
      'version: 1\nrules:\n  - { name: a, ports: [1] }\n  - { name: a }',
      "p:4:13: an earlier rule is already named 'a': give each rule its own name",
    ],
    ['version: 1\nrules: [{ name: a, ports: 80 }]', `p:2:27: ports ${listHelp}`],
    [
      'version: 1\nrules: [{ name: a, ports: [] }]',
      'p:2:27: ports is empty and would never match: add an entry or remove the key',
    ],
    ...['0', '65536', '1.5', '"80"', '5-1', '0-5', '6000-70000', 'http', '{}', '1-2-3'].map(
      (value): [string, string] => [`version: 1\nrules: [{ name: a, ports: [1, ${value}] }]`, `p:2:31: ${portHelp}`],
    ),
    [
      'version: 1\nrules: [{ name: a, cgroup: 3 }]',
      'p:2:28: cgroup must be a path or a list of paths: write for example /system.slice',
    ],
    [
      'version: 1\nrules: [{ name: a, cgroup: system.slice }]',
      "p:2:28: cgroup 'system.slice' must start with '/': write the path below the cgroup v2 root",
    ],
    [
      'version: 1\nrules:\n- name: a\n  cgroup:\n  - /a\n  - 3\n  - /sys/fs/cgroup/a\n  - /a//b\n  - /a/../b\n  - "/[a"\n  - "/[z-a]"\n  - "/[a/b]"',
      'p:6:5: a cgroup must be a text: write a path such as /system.slice',
      "p:7:5: cgroup '/sys/fs/cgroup/a' must be relative to the cgroup v2 root: drop /sys/fs/cgroup",
      "p:8:5: cgroup '/a//b' must not contain '//', '/.' or '/..': write the plain path",
      "p:9:5: cgroup '/a/../b' must not contain '//', '/.' or '/..': write the plain path",
      "p:10:5: cgroup '/[a' has a '[' without its ']': close it, or write [[] for a bracket",
      "p:11:5: cgroup '/[z-a]' has a range that runs backwards: write it upwards, as in [a-z]",
      "p:12:5: cgroup '/[a/b]' has a '/' inside brackets: sets stand for characters within a name",
    ],
    [
      'version: 1\nrules:\n- name: a\n  unit: 3\n  container: 123456789012\n  pod: { uid: 1 }',
      'p:4:9: unit must be a unit or a list of units: write for example redis.service',
      'p:5:14: container must be an id or a list of ids: put it in quotes',
      'p:6:8: pod must be a uid or a list of uids: put it in quotes',
    ],
    [
      'version: 1\nrules: [{ name: a, unit: [], container: [12], pod: [~] }]',
      'p:2:26: unit is empty and would never match: add an entry or remove the key',
      'p:2:42: a container must be a text: put its id in quotes',
      'p:2:53: a pod must be a text: put its uid in quotes',
    ],
    [
      'version: 1\nrules:\n- name: a\n  unit:\n  - ""\n  - /system.slice/a.service\n  - a b\n  - "é*"\n  - backup.timer\n  - getty@\n  - "@x"\n  - .service\n  - "[a"\n  - "[z-a]"',
      "p:5:5: unit '' is empty: write a unit such as redis.service",
      "p:6:5: unit '/system.slice/a.service' is a path: write the name of the unit alone, or use cgroup",
      "p:7:5: unit 'a b' is no name of a unit: write it as systemctl prints it",
      "p:8:5: unit 'é*' is no name of a unit: write it as systemctl prints it",
      "p:9:5: unit 'backup.timer' never has processes: name the unit that it starts, such as backup.service",
      "p:10:5: unit 'getty@' is a template: write getty@*.service for all its instances",
      "p:11:5: unit '@x' is no name of a unit: write it as systemctl prints it",
      "p:12:5: unit '.service' is no name of a unit: write it as systemctl prints it",
      "p:13:5: unit '[a' has a '[' without its ']': close it, or write [[] for a bracket",
      "p:14:5: unit '[z-a]' has a range that runs backwards: write it upwards, as in [a-z]",
    ],
    [
      `version: 1\nrules:\n- name: a\n  container: ["", redis, 3f2a1b4c5d6, 3F2A1B4C5D6E, "web*", "3f[", 3f2a1b4c5d6e, "3f*", "${'0'.repeat(65)}"]`,
      ...[
        "15: container ''",
        "19: container 'redis'",
        "26: container '3f2a1b4c5d6'",
        "39: container '3F2A1B4C5D6E'",
      ].map((start) => `p:4:${start} ${containerHelp}`),
      `p:4:53: container 'web*' ${containerHelp}`,
      "p:4:61: container '3f[' has a '[' without its ']': close it, or write [[] for a bracket",
      `p:4:89: container '${'0'.repeat(60)}…' ${containerHelp}`,
    ],
    [
      'version: 1\nrules: [{ name: a, pod: [web-7d4f, "web-*", 1858680e_b044_4fd5_9dd4_f137e30e2180, 1858680e-*, "1858680e"] }]',
      `p:2:26: pod 'web-7d4f' ${podHelp}`,
      `p:2:36: pod 'web-*' ${podHelp}`,
      `p:2:45: pod '1858680e_b044_4fd5_9dd4_f137e30e2180' ${podHelp}`,
      `p:2:95: pod '1858680e' ${podHelp}`,
    ],
    ['version: 1\nexclude: { programs: haproxy }', `p:2:22: programs ${listHelp}`],
    [
      'version: 1\nexclude:\n  programs: [1, /usr/sbin/haproxy, "", "*-with-a-long-tail"]',
      'p:3:14: a program must be a text: write the process name, in quotes if it looks like a number',
      "p:3:17: program '/usr/sbin/haproxy' is a path: write the process name alone, as in /proc/PID/comm",
      "p:3:36: program '' is empty: write a process name such as redis-server",
      "p:3:40: program '*-with-a-long-tail' needs more than the 15 bytes the kernel keeps of a name: shorten it",
    ],
  ],
  'units that look like those of containers': [
    [
      'version: 1\nrules:\n  - name: a\n    unit: docker-3f2a1b4c5d6e\n  - name: b\n    unit: [redis, 3f2a1b4c5d6e, docker-3f2a1b4c5d6e.scope]',
      "p:4:11: unit 'docker-3f2a1b4c5d6e' is read as docker-3f2a1b4c5d6e.service and never matches, as a container's unit is a scope with all 64 digits: write container: 3f2a1b4c5d6e",
      "p:6:19: unit '3f2a1b4c5d6e' is read as 3f2a1b4c5d6e.service and never matches, as a container's unit is a scope with all 64 digits: write container: 3f2a1b4c5d6e",
      "p:6:33: unit 'docker-3f2a1b4c5d6e.scope' never matches, as a container's unit is a scope with all 64 digits: write container: 3f2a1b4c5d6e",
    ],
    ...[`docker-${'3f2a'.repeat(16)}.scope`, 'docker-3f2a*', 'docker', 'backup-3f2a1b4c5d6e', 'docker-3f2a'].map(
      (unit): [string] => [`version: 1\nrules: [{ name: a, unit: ${unit} }]`],
    ),
  ],
  'rules that never match': [
    [
      'version: 1\nrules:\n  - { name: a, ports: [1] }\n  - { name: b, action: tcp }\n  - { name: c, ports: [2] }\n  - name: d',
      "p:5:5: rule 'c' never matches behind 'b', which has no condition: move it up",
      "p:6:5: rule 'd' never matches behind 'b', which has no condition: move it up",
    ],
    ['version: 1\nrules: [{ name: a, programs: [x] }, { name: b }]'],
    ...['unit: redis', 'container: 3f2a*', 'pod: "*"', 'cgroup: /a'].map((condition): [string] => [
      `version: 1\nrules: [{ name: a, ${condition} }, { name: b }]`,
    ]),
  ],
};

describe('policy: parse', () => {
  for (const [title, table] of Object.entries(cases))
    describe(title, () => {
      for (const [text, ...reported] of table)
        it(JSON.stringify(text.length > 90 ? `${text.slice(0, 90)}…` : text), () => {
          assert.deepEqual(problems(text), reported);
        });
    });

  it('reads a complete policy', () => {
    const text = `
version: 1
defaults: { action: observe, blockingReaders: true, promoteAfter: 4, backlog: 256 KiB, streams: tcp }
rules:
  - name: payments stay on TCP
    cgroup: /system.slice/payments.service
    ports: [5432, 6000-6010]
    action: tcp
  - name: web
    cgroup: [/web, '/dev\\x2d*']
    unit: redis
    container: [3f2a1b4c5d6e, '0*']
    pod: 1858680e-b044-4fd5-9dd4-f137e30e2180
    programs: [redis-server]
    blockingReaders: false
    promoteAfter: 0x20
    backlog: 65536
    streams: measure
exclude:
  programs: [haproxy]
`;
    assert.deepEqual(valid(text), {
      version: 1,
      defaults: { action: 'observe', blockingReaders: true, promoteAfter: 4, backlog: 256 << 10, streams: 'tcp' },
      rules: [
        {
          name: 'payments stay on TCP',
          cgroup: ['/system.slice/payments.service'],
          ports: [
            [5432, 5432],
            [6000, 6010],
          ],
          action: 'tcp',
        },
        {
          name: 'web',
          cgroup: ['/web', '/dev\\x2d*'],
          unit: ['redis'],
          container: ['3f2a1b4c5d6e', '0*'],
          pod: ['1858680e-b044-4fd5-9dd4-f137e30e2180'],
          programs: ['redis-server'],
          blockingReaders: false,
          promoteAfter: 32,
          backlog: 65536,
          streams: 'measure',
        },
      ],
      exclude: { programs: ['haproxy'] },
    });
  });

  it('fills in the defaults', () => {
    assert.deepEqual(valid('version: 1'), defaultPolicy);
    assert.deepEqual(defaultPolicy, {
      version: 1,
      defaults: {
        action: 'accelerate',
        blockingReaders: false,
        promoteAfter: 16,
        backlog: 1 << 20,
        streams: 'measure',
      },
      rules: [],
      exclude: { programs: [] },
    });
  });

  it('follows aliases and merges', () => {
    const { rules } = valid(
      'version: 1\nrules:\n- &a { name: a, ports: &p [1], action: tcp }\n- { <<: *a, name: b }\n- { name: c, ports: *p, <<: [{ promoteAfter: 2 }, { promoteAfter: 3 }] }',
    );
    const ports = [[1, 1]];
    assert.deepEqual(rules, [
      { name: 'a', ports, action: 'tcp' },
      { name: 'b', ports, action: 'tcp' },
      { name: 'c', ports, promoteAfter: 2 },
    ]);
  });

  const anyText = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.uint8Array().map((bytes) => Buffer.from(bytes).toString()),
    fc.string({
      unit: fc.constantFrom(
        ...[
          'version: 1',
          'rules',
          'defaults',
          'name',
          'cgroup',
          'ports',
          'exclude',
          'programs',
          'action',
          '<<',
          'x',
          '1',
        ],
        ...[
          ':',
          ': ',
          '\n',
          '\n  ',
          '- ',
          '? ',
          '[',
          ']',
          '{',
          '}',
          ', ',
          '&a ',
          '*a ',
          '!!set ',
          '!x',
          '"',
          "'",
          '\\',
          '\t',
        ],
        ...[
          '|',
          '>',
          '%YAML 1.1\n',
          '---\n',
          '...\n',
          '#',
          '/a',
          '~',
          '\0',
          '\x1b',
          '__proto__',
          '\uD800',
          '\uFEFF',
          '\r\n',
        ],
      ),
      maxLength: 60,
    }),
  );

  it('never throws, and every problem is one printable sentence with a place in the text', () => {
    fc.assert(
      fc.property(anyText, (text) => {
        const result = parsePolicy(text, 'p');
        if (result.ok) return;
        assert.ok(result.problems.length > 0);
        const lines = text.split('\n');
        for (const { line, column, message } of result.problems) {
          assert.ok(line >= 1 && line <= lines.length, `line ${line}`);
          assert.ok(column >= 1 && column <= lines[line - 1]!.length + 1, `column ${column} of line ${line}`);
          assert.match(message, /^[^\p{C}\n]+: [^\p{C}\n]+$/u);
        }
      }),
      { numRuns: 3000 },
    );
  });

  it('reads back every size it formats', () => {
    for (const [bytes, text] of [
      [0, '0MiB'],
      [1, '1B'],
      [1024, '1KiB'],
      [1536, '1536B'],
      [1 << 20, '1MiB'],
      [(1 << 20) + 1024, '1025KiB'],
    ] as const)
      assert.equal(formatSize(bytes), text);
    fc.assert(
      fc.property(
        fc.oneof(
          fc.nat(999_999_999),
          fc.nat(4096).map((kib) => kib << 10),
        ),
        (bytes) => {
          assert.equal(parseSize(formatSize(bytes)), bytes);
        },
      ),
    );
    for (const text of ['', '1 GiB', 'KiB', '-1', '1e3', ' 1', '1  KiB', '1kib'])
      assert.equal(parseSize(text), undefined);
  });

  it('describes the file as written in JSON Schema', () => {
    const schema = JSON.parse(JSON.stringify(policyJsonSchema())) as {
      required: string[];
      additionalProperties: boolean;
      properties: {
        defaults: { properties: { backlog: { anyOf: { type: string; pattern?: string; minimum?: number }[] } } };
        rules: { items: { required: string[]; additionalProperties: boolean; properties: Record<string, unknown> } };
      };
    };
    assert.deepEqual(schema.required, ['version']);
    assert.equal(schema.additionalProperties, false);
    const [bytes, size] = schema.properties.defaults.properties.backlog.anyOf;
    assert.equal(bytes?.type, 'integer');
    assert.equal(bytes.minimum, 65536);
    assert.match('256KiB', new RegExp(size!.pattern!));
    const rule = schema.properties.rules.items;
    assert.deepEqual(rule.required, ['name']);
    assert.equal(rule.additionalProperties, false);
    assert.deepEqual(Object.keys(rule.properties).sort(), [
      'action',
      'backlog',
      'blockingReaders',
      'cgroup',
      'container',
      'name',
      'pod',
      'ports',
      'programs',
      'promoteAfter',
      'streams',
      'unit',
    ]);
  });
});
