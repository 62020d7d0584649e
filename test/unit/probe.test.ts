/** The host's and the kernel's findings. */
import assert from 'node:assert/strict';

import { EXIT, UserError } from '../../controller/errors.js';
import { missingCapabilities, parseMounts, whyNotPromote, whyNotWake } from '../../controller/probe/host.js';
import {
  ADOPT_FEATURES,
  CAPTURE_FEATURES,
  type Feature,
  FEATURES,
  missingFeature,
  requireKernel,
} from '../../controller/probe/kernel.js';

describe('probe', () => {
  describe('mounts', () => {
    it('are read with and without optional fields', () => {
      const text = [
        '24 1 0:22 / /sys rw,nosuid shared:7 master:2 - sysfs sysfs rw',
        '30 24 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate',
        '31 24 0:27 /sub /mnt rw shared:1 - bpf bpf rw,mode=700',
        '',
      ].join('\n');
      assert.deepEqual(parseMounts(text), [
        { type: 'sysfs', root: '/', point: '/sys' },
        { type: 'cgroup2', root: '/', point: '/sys/fs/cgroup/unified' },
        { type: 'bpf', root: '/sub', point: '/mnt' },
      ]);
    });

    it('have their blanks and backslashes escaped', () => {
      const line = String.raw`1 2 0:1 /a\134b /mnt/with\040space\011tab\012line\134040 rw - tmpfs none rw`;
      assert.deepEqual(parseMounts(line), [{ type: 'tmpfs', root: '/a\\b', point: '/mnt/with space\ttab\nline\\040' }]);
    });

    it('may be none', () => {
      assert.deepEqual(parseMounts(''), []);
    });

    it('may have a dash for a name', () => {
      assert.deepEqual(parseMounts('1 2 0:1 / /- rw - tmpfs - rw'), [{ type: 'tmpfs', root: '/', point: '/-' }]);
    });
  });

  describe('capabilities', () => {
    const status = (mask: bigint): string =>
      `Name:\tnode\nCapPrm:\t0000000000000000\nCapEff:\t${mask.toString(16).padStart(16, '0')}\nCapBnd:\t00\n`;
    const cases: [string, bigint, string[]][] = [
      ['all', (1n << 41n) - 1n, []],
      ['CAP_SYS_ADMIN alone', 1n << 21n, []],
      ['the three that BPF has of its own', (1n << 12n) | (1n << 38n) | (1n << 39n), []],
      ['none', 0n, ['CAP_NET_ADMIN', 'CAP_PERFMON', 'CAP_BPF']],
      ['what a container has', 0xa80425fbn, ['CAP_NET_ADMIN', 'CAP_PERFMON', 'CAP_BPF']],
      ['CAP_NET_ADMIN alone', 1n << 12n, ['CAP_PERFMON', 'CAP_BPF']],
    ];
    for (const [what, mask, missing] of cases) {
      it(`${what}: ${missing.join(', ') || 'enough'}`, () => {
        assert.deepEqual(missingCapabilities(status(mask)), missing);
      });
    }

    it('are missing if the kernel does not tell', () => {
      assert.equal(missingCapabilities('').length, 3);
    });
  });

  describe('kernel features', () => {
    const feature = (name: string, present: boolean): Feature => ({ name, since: '9.9', present: () => present });
    const never: Feature = {
      name: 'later',
      since: '1.0',
      present: () => assert.fail('asked although an earlier one is missing'),
    };

    it('are all there', () => {
      requireKernel('6.1', [feature('a', true), feature('b', true)]);
      assert.equal(missingFeature([]), undefined);
    });

    it('are named when missing, the first one only', () => {
      assert.throws(
        () => {
          requireKernel('5.10.0-8', [feature('a', true), feature('b things', false), never]);
        },
        (error) => {
          assert(error instanceof UserError);
          assert.equal(error.exitCode, EXIT.unsupported);
          assert.equal(
            error.message,
            'kernel 5.10.0-8 lacks b things, which mainline has since 9.9: boot a kernel that has it; nothing was attached',
          );
          return true;
        },
      );
    });

    it('have names and releases that a person can use', () => {
      for (const { name, since } of [...FEATURES, ...ADOPT_FEATURES, ...CAPTURE_FEATURES]) {
        assert.match(since, /^\d\.\d+$/);
        assert.match(name, /^[^\n:]+$/);
      }
      assert.equal(new Set(FEATURES.map(({ name }) => name)).size, FEATURES.length);
    });
  });

  describe('promotion', () => {
    const host = 'pid:[4026531836]';
    const container = 'pid:[4026532198]';
    for (const [what, source, namespace, expected] of [
      ['socket storage', 'promote', host, undefined],
      ['socket storage from another PID namespace', 'promote', container, undefined],
      ['open files', 'promote_by_file', host, undefined],
      ['open files from another PID namespace', 'promote_by_file', container, /PID namespace/],
    ] as const) {
      it(`by ${what} ${expected === undefined ? 'meets all' : 'does not meet all'}`, () => {
        const reason = whyNotPromote(source, namespace);
        if (expected === undefined) assert.equal(reason, undefined);
        else assert.match(reason ?? '', expected);
      });
    }
  });

  describe('waking', () => {
    const capable = 'CapEff:\t000001ffffffffff\n';
    const host = 'pid:[4026531836]';
    for (const [what, status, yama, namespace, expected] of [
      ['all that is needed', capable, '1\n', host, undefined],
      ['no Yama', capable, null, host, undefined],
      ['no CAP_SYS_PTRACE', 'CapEff:\t000001fffff7ffff\n', '0\n', host, /CAP_SYS_PTRACE/],
      ['Yama that allows nobody', capable, '3\n', host, /ptrace_scope is 3/],
      ['another PID namespace', capable, '1\n', 'pid:[4026532198]', /PID namespace/],
    ] as const) {
      it(`knows ${what}`, () => {
        const reason = whyNotWake(status, yama, namespace);
        if (expected === undefined) assert.equal(reason, undefined);
        else assert.match(reason ?? '', expected);
      });
    }
  });
});
