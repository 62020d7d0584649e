/** Which kernel a name stands for, and which bugs of the table it has. */
import assert from 'node:assert/strict';

import { bugFindings } from '../../controller/probe/gate.js';
import { compareLevels, type KernelNames, parseKernel, parseLevel } from '../../controller/probe/kernel-version.js';
import { KNOWN_BUGS, type KnownBug, knownBugs, presence, remedyRelease } from '../../controller/probe/known-bugs.js';

const SMP = '#1 SMP PREEMPT_DYNAMIC Tue Jan  7 10:00:00 UTC 2025';

const ids = (bugs: readonly KnownBug[]): string[] => bugs.map(({ id }) => id);

describe('known bugs', () => {
  describe('kernel names', () => {
    /** uname -r, uname -v, /proc/version_signature; what they stand for: level, exact?, vendor. */
    const cases: [string, string, string | undefined, string, boolean, string?][] = [
      ['6.18.44-fc-v445', '#1 SMP PREEMPT_DYNAMIC @0', undefined, '6.18.44', true],
      ['6.12.34', SMP, undefined, '6.12.34', true],
      ['6.19.0', SMP, undefined, '6.19.0', true],
      ['6.15.3-arch1-1', '#1 SMP PREEMPT_DYNAMIC Thu, 19 Jun 2025', undefined, '6.15.3', true],
      ['6.14.9-300.fc42.x86_64', SMP, undefined, '6.14.9', true],
      ['7.1.9', SMP, undefined, '7.1.9', true],
      ['7.2.0-rc3', SMP, undefined, '7.2.-1', true],
      ['7.2-rc3', SMP, undefined, '7.2.-1', true],
      ['6.6.35+', SMP, undefined, '6.6.35', false],
      ['6.12.25+rpt-rpi-v8', SMP, undefined, '6.12.25', false],
      ['6.1.0-38-amd64', '#1 SMP PREEMPT_DYNAMIC Debian 6.1.147-1 (2025-08-02)', undefined, '6.1.147', true],
      [
        '6.12.38+deb12-amd64',
        '#1 SMP PREEMPT_DYNAMIC Debian 6.12.38-1~bpo12+1 (2025-07-22)',
        undefined,
        '6.12.38',
        true,
      ],
      ['7.2-rc1-amd64', '#1 SMP PREEMPT_DYNAMIC Debian 7.2~rc1-1~exp1 (2026-07-01)', undefined, '7.2.-1', true],
      ['6.8.0-60-generic', '#63-Ubuntu SMP', 'Ubuntu 6.8.0-60.63-generic 6.8.12', '6.8.12', false, 'Ubuntu'],
      ['6.8.0-1030-azure', '#35-Ubuntu SMP', 'Ubuntu 6.8.0-1030.35-azure 6.8.12', '6.8.12', false, 'Ubuntu'],
      ['6.8.0-60-generic', '#63-Ubuntu SMP', undefined, '6.8.0', false, 'Ubuntu'],
      ['6.12.0-55.9.1.el10_0.x86_64', SMP, undefined, '6.12.0', false, 'Red Hat or a rebuild of it'],
      ['5.14.0-570.el9.x86_64', SMP, undefined, '5.14.0', false, 'Red Hat or a rebuild of it'],
      ['6.12.0-100.28.2.el9uek.x86_64', SMP, undefined, '6.12.0', false, 'Oracle'],
      ['6.1.141-155.222.amzn2023.x86_64', SMP, undefined, '6.1.141', false, 'Amazon'],
      ['6.4.0-150600.23.42-default', SMP, undefined, '6.4.0', false, 'SUSE'],
      ['6.8.12-11-pve', SMP, undefined, '6.8.12', false, 'Proxmox'],
      ['6.6.87.2-microsoft-standard-WSL2', SMP, undefined, '6.6.87', false, 'Microsoft'],
      ['6.6.0-28-somebody', SMP, undefined, '6.6.0', false],
    ];
    for (const [release, build, signature, level, exact, vendor] of cases) {
      it(`${release}${signature === undefined ? '' : ` (${signature})`}: ${exact ? '' : 'at least '}${level}`, () => {
        const kernel = parseKernel({ release, build, signature });
        assert.deepEqual([kernel.base?.join('.'), kernel.exact, kernel.vendor], [level, exact, vendor]);
      });
    }

    it('may tell nothing', () => {
      for (const release of ['', 'custom', '6', 'v6.12.1', '-6.1.1']) {
        const kernel = parseKernel({ release, build: '' });
        assert.deepEqual([kernel.base, kernel.exact], [undefined, false], release);
      }
      assert.equal(parseKernel({ release: '6.8.0-60-generic', build: '', signature: 'garbage' }).exact, false);
    });

    it('are put in order, candidates before their release', () => {
      const levels = ['6.6.152', '6.12.5', '6.12.104', '7.2-rc1', '7.2', '7.2.1', '7.10'].map(parseLevel);
      for (let i = 1; i < levels.length; i++) {
        assert.ok(compareLevels(levels[i - 1] ?? [0, 0, 0], levels[i] ?? [0, 0, 0]) < 0, String(i));
      }
      assert.equal(compareLevels([6, 1, 2], [6, 1, 2]), 0);
    });
  });

  describe('table', () => {
    it('has ranges that a release can lie in, in order, without overlap', () => {
      for (const { id, affected } of KNOWN_BUGS) {
        let last = parseLevel('0.0.0');
        for (const [from, before] of affected) {
          assert.ok(compareLevels(parseLevel(from), last) >= 0, `${id}: ${from}`);
          assert.ok(compareLevels(parseLevel(before), parseLevel(from)) > 0, `${id}: ${before}`);
          last = parseLevel(before);
        }
      }
      assert.equal(new Set(ids(KNOWN_BUGS)).size, KNOWN_BUGS.length);
    });

    it('says in one sentence what goes wrong, and what it needs', () => {
      for (const { id, summary, needs } of KNOWN_BUGS) {
        assert.match(summary, /^[a-z][^\n]*[^.]\.$/i, id);
        assert.match(needs, /^[a-z][^\n]*[^.]$/i, id);
      }
    });
  });

  const stable = (release: string): KernelNames => ({ release, build: SMP });
  const ubuntu = (base: string): KernelNames => ({
    release: '6.8.0-60-generic',
    build: '#63-Ubuntu SMP',
    signature: `Ubuntu 6.8.0-60.63-generic ${base}`,
  });

  describe('of a kernel', () => {
    /** Forbidding, doubtful and warned bugs. */
    const cases: [string, KernelNames, string[], string[], string[]][] = [
      ['6.18.44 lacks only what is avoided', stable('6.18.44-fc-v445'), [], [], []],
      ['6.6.34 is one short', stable('6.6.34'), ['CVE-2024-39500'], [], ['CVE-2024-56633']],
      ['6.6.35 has the fix', stable('6.6.35'), [], [], ['CVE-2024-56633']],
      ['6.6.66 has both', stable('6.6.66'), [], [], []],
      ['6.4.12, a series that ended', stable('6.4.12'), ['CVE-2024-39500'], [], ['CVE-2024-56633']],
      ['6.9.5', stable('6.9.5'), ['CVE-2024-39500'], [], ['CVE-2024-56633']],
      ['6.9.6', stable('6.9.6'), [], [], ['CVE-2024-56633']],
      ['6.12.4', stable('6.12.4'), [], [], ['CVE-2024-56633']],
      ['6.12.5', stable('6.12.5'), [], [], []],
      ['7.2', stable('7.2.0'), [], [], []],
      ['Ubuntu on 6.8.12 may have its fixes', ubuntu('6.8.12'), [], ['CVE-2024-39500'], ['CVE-2024-56633']],
      ['Ubuntu on 6.11.0', ubuntu('6.11.0'), [], [], ['CVE-2024-56633']],
      ['Red Hat on 6.12.0', stable('6.12.0-55.el10.x86_64'), [], [], ['CVE-2024-56633']],
    ];
    for (const [what, names, forbidding, doubtful, warned] of cases) {
      it(what, () => {
        const report = knownBugs(parseKernel(names));
        assert.deepEqual(
          [ids(report.forbidding), ids(report.doubtful), ids(report.warned)],
          [forbidding, doubtful, warned],
        );
      });
    }

    it('without a release may have any', () => {
      const kernel = parseKernel({ release: 'custom', build: '' });
      assert.equal(knownBugs(kernel).bugs.length, KNOWN_BUGS.length);
      assert.deepEqual(ids(knownBugs(kernel).doubtful), ['CVE-2024-39500']);
    });

    it('on the development kernel: two, both avoided', () => {
      const { bugs } = knownBugs(parseKernel(stable('6.18.44-fc-v445')));
      assert.deepEqual(
        bugs.map(({ id, consequence }) => [id, consequence]),
        [
          ['CVE-2026-74589', 'avoided'],
          ['CVE-2026-74714', 'avoided'],
        ],
      );
      assert.deepEqual(knownBugs(parseKernel(stable('6.18.45'))).bugs, []);
    });

    it('at the edges of a range', () => {
      const bug: KnownBug = { id: 'x', summary: '', needs: '', consequence: 'warn', affected: [['6.2', '6.6.10']] };
      const of = (release: string): string => presence(bug, parseKernel(stable(release)));
      assert.deepEqual(['6.1.200', '6.2-rc8', '6.2.0', '6.6.9', '6.6.10', '6.7.0', '6.6.9+', '6.6.10+'].map(of), [
        'absent',
        'absent',
        'present',
        'present',
        'absent',
        'absent',
        'unknown',
        'absent',
      ]);
    });
  });

  describe('findings', () => {
    const find = (names: KernelNames, accepted = false): string[] =>
      bugFindings(parseKernel(names), knownBugs(parseKernel(names)), accepted).map(
        ({ id, status }) => `${id} ${status}`,
      );

    it('forbid, doubt or pass', () => {
      assert.deepEqual(find(stable('6.18.44')), ['known_bug ok']);
      assert.deepEqual(find(stable('6.6.20')), ['known_bug failed']);
      assert.deepEqual(find(ubuntu('6.8.12')), ['known_bug unknown']);
      assert.deepEqual(find(stable('custom')), ['known_bug unknown']);
    });

    it('may be accepted, which says something only where there is a bug', () => {
      assert.deepEqual(find(stable('6.6.20'), true), ['known_bug ok', 'accepted_bug failed']);
      assert.deepEqual(find(stable('6.18.44'), true), ['known_bug ok']);
      assert.deepEqual(find(ubuntu('6.8.12'), true), ['known_bug unknown']);
    });

    it('name the release to take', () => {
      const remedy = (release: string): string => {
        const kernel = parseKernel(stable(release));
        return remedyRelease(knownBugs(kernel).forbidding, kernel);
      };
      assert.equal(remedy('6.6.20'), '6.6.35');
      assert.equal(remedy('6.8.1'), '6.9.6');
    });
  });
});
