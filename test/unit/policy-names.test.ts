/** Paths as systemd, container engines and the kubelet make them. */
import assert from 'node:assert/strict';

import fc from 'fast-check';

import { containerMatcher, podMatcher, unitMatcher } from '../../controller/policy/name-patterns.js';
import { type Engine, innermost, namesOf, type Qos } from '../../controller/policy/names.js';
import { shortName } from '../../controller/view/short-name.js';

const A = '3f2a1b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708';
const B = 'd6701ec289c56e4391acb11d07474b3139466857a305490575508a8b7a9fcf22';
const UID = '1858680e-b044-4fd5-9dd4-f137e30e2180';
const ESCAPED = UID.replaceAll('-', '_');
/** Of a static pod. */
const HASH = '7fdcc4b4b2bd3a3ba3b7dba3ef3a2cbc';

interface Expected {
  short: string;
  unit?: string;
  slice?: string;
  container?: [id: string, engine: Engine | null];
  pod?: [uid: string, qos: Qos | null];
}

const KIND = '/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice';

const cases: Record<string, [path: string, expected: Expected][]> = {
  systemd: [
    ['/', { short: '/' }],
    ['/init.scope', { short: 'init.scope', unit: 'init.scope' }],
    ['/system.slice', { short: '/system.slice', slice: 'system.slice' }],
    ['/system.slice/redis.service', { short: 'redis.service', unit: 'redis.service', slice: 'system.slice' }],
    [
      '/system.slice/system-postgresql.slice/postgresql@15-main.service',
      {
        short: 'postgresql@15-main.service',
        unit: 'postgresql@15-main.service',
        slice: 'system-postgresql.slice',
      },
    ],
    [
      '/system.slice/system-getty.slice/getty@tty1.service/sub/group',
      { short: 'getty@tty1.service', unit: 'getty@tty1.service', slice: 'system-getty.slice' },
    ],
    [
      '/system.slice/dev-disk-by\\x2duuid-0a1b.swap',
      { short: 'dev-disk-by\\x2duuid-0a1b.swap', unit: 'dev-disk-by\\x2duuid-0a1b.swap', slice: 'system.slice' },
    ],
    ['/system.slice/_cpu.service', { short: 'cpu.service', unit: 'cpu.service', slice: 'system.slice' }],
    ['/system.slice/echo.socket', { short: 'echo.socket', unit: 'echo.socket', slice: 'system.slice' }],
    [
      '/user.slice/user-1000.slice/session-3.scope',
      { short: 'session-3.scope', unit: 'session-3.scope', slice: 'user-1000.slice' },
    ],
    [
      '/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Terminal.slice/vte-spawn-8f1c.scope',
      { short: 'vte-spawn-8f1c.scope', unit: 'vte-spawn-8f1c.scope', slice: 'app-org.gnome.Terminal.slice' },
    ],
    [
      '/user.slice/user-1000.slice/user@1000.service/init.scope',
      { short: 'init.scope', unit: 'init.scope', slice: 'user-1000.slice' },
    ],
    [
      '/machine.slice/systemd-nspawn@web.service/payload/system.slice/nginx.service',
      { short: 'nginx.service', unit: 'nginx.service', slice: 'system.slice' },
    ],
  ],
  Docker: [
    [
      `/system.slice/docker-${A}.scope`,
      { short: 'docker:3f2a1b4c5d6e', unit: `docker-${A}.scope`, slice: 'system.slice', container: [A, 'docker'] },
    ],
    [`/docker/${A}`, { short: 'docker:3f2a1b4c5d6e', container: [A, 'docker'] }],
    [`/docker/${A}/init`, { short: 'docker:3f2a1b4c5d6e', container: [A, 'docker'] }],
    // --cgroup-parent
    [`/batch/${A}`, { short: 'container:3f2a1b4c5d6e', container: [A, null] }],
    [
      `/ecstasks.slice/ecstasks-7a1.slice/docker-${A}.scope`,
      {
        short: 'docker:3f2a1b4c5d6e',
        unit: `docker-${A}.scope`,
        slice: 'ecstasks-7a1.slice',
        container: [A, 'docker'],
      },
    ],
    [
      `/user.slice/user-1000.slice/user@1000.service/user.slice/docker-${A}.scope`,
      {
        short: 'user@1000.service/docker:3f2a1b4c5d6e',
        unit: `docker-${A}.scope`,
        slice: 'user.slice',
        container: [A, 'docker'],
      },
    ],
    // In Docker, and with systemd inside.
    [`/docker/${A}/docker/${B}`, { short: 'docker:d6701ec289c5', container: [B, 'docker'] }],
    [
      `/system.slice/docker-${A}.scope/docker/${B}`,
      { short: 'docker:d6701ec289c5', unit: `docker-${A}.scope`, slice: 'system.slice', container: [B, 'docker'] },
    ],
    [
      `/system.slice/docker-${A}.scope/system.slice/kubelet.service`,
      {
        short: 'docker:3f2a1b4c5d6e/kubelet.service',
        unit: 'kubelet.service',
        slice: 'system.slice',
        container: [A, 'docker'],
      },
    ],
  ],
  'Kubernetes, systemd driver': [
    [
      `/kubepods.slice/kubepods-pod${ESCAPED}.slice/cri-containerd-${A}.scope`,
      {
        short: 'pod:1858680e/3f2a1b4c5d6e',
        unit: `cri-containerd-${A}.scope`,
        slice: `kubepods-pod${ESCAPED}.slice`,
        container: [A, 'containerd'],
        pod: [UID, 'guaranteed'],
      },
    ],
    [
      `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${ESCAPED}.slice/crio-${A}.scope/container`,
      {
        short: 'pod:1858680e/3f2a1b4c5d6e',
        unit: `crio-${A}.scope`,
        slice: `kubepods-burstable-pod${ESCAPED}.slice`,
        container: [A, 'cri-o'],
        pod: [UID, 'burstable'],
      },
    ],
    [
      `/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod${ESCAPED}.slice/docker-${A}.scope`,
      {
        short: 'pod:1858680e/3f2a1b4c5d6e',
        unit: `docker-${A}.scope`,
        slice: `kubepods-besteffort-pod${ESCAPED}.slice`,
        container: [A, 'docker'],
        pod: [UID, 'besteffort'],
      },
    ],
    [
      `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${HASH}.slice/cri-containerd-${A}.scope`,
      {
        short: 'pod:7fdcc4b4/3f2a1b4c5d6e',
        unit: `cri-containerd-${A}.scope`,
        slice: `kubepods-burstable-pod${HASH}.slice`,
        container: [A, 'containerd'],
        pod: [HASH, 'burstable'],
      },
    ],
    // conmon is in the pod, but in no container.
    [
      `/kubepods.slice/kubepods-pod${ESCAPED}.slice/crio-conmon-${A}.scope`,
      {
        short: `pod:1858680e/crio-conmon-${A}.scope`,
        unit: `crio-conmon-${A}.scope`,
        slice: `kubepods-pod${ESCAPED}.slice`,
        pod: [UID, 'guaranteed'],
      },
    ],
    // kind
    [
      `/system.slice/docker-${B}.scope${KIND}/kubelet-kubepods-besteffort-pod${ESCAPED}.slice/cri-containerd-${A}.scope`,
      {
        short: 'pod:1858680e/3f2a1b4c5d6e',
        unit: `cri-containerd-${A}.scope`,
        slice: `kubelet-kubepods-besteffort-pod${ESCAPED}.slice`,
        container: [A, 'containerd'],
        pod: [UID, 'besteffort'],
      },
    ],
    // minikube
    [
      `/docker/${B}/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod${ESCAPED}.slice/crio-${A}.scope`,
      {
        short: 'pod:1858680e/3f2a1b4c5d6e',
        unit: `crio-${A}.scope`,
        slice: `kubepods-besteffort-pod${ESCAPED}.slice`,
        container: [A, 'cri-o'],
        pod: [UID, 'besteffort'],
      },
    ],
    // containerd without SystemdCgroup
    [
      `/system.slice/containerd.service/kubepods-burstable-pod${ESCAPED}.slice:cri-containerd:${A}`,
      {
        short: 'containerd.service/pod:1858680e/3f2a1b4c5d6e',
        unit: 'containerd.service',
        slice: 'system.slice',
        container: [A, 'containerd'],
        pod: [UID, 'burstable'],
      },
    ],
  ],
  'Kubernetes, cgroupfs driver': [
    [
      `/kubepods/pod${UID}/${A}`,
      { short: 'pod:1858680e/3f2a1b4c5d6e', container: [A, null], pod: [UID, 'guaranteed'] },
    ],
    [
      `/kubepods/burstable/pod${UID}/${A}`,
      { short: 'pod:1858680e/3f2a1b4c5d6e', container: [A, null], pod: [UID, 'burstable'] },
    ],
    [
      `/kubepods/besteffort/pod${HASH}/crio-${A}`,
      { short: 'pod:7fdcc4b4/3f2a1b4c5d6e', container: [A, 'cri-o'], pod: [HASH, 'besteffort'] },
    ],
    [`/kubepods/besteffort/pod${UID}/crio-conmon-${A}`, { short: 'pod:1858680e', pod: [UID, 'besteffort'] }],
    [
      `/docker/${B}/kubelet/kubepods/burstable/pod${UID}/${A}`,
      { short: 'pod:1858680e/3f2a1b4c5d6e', container: [A, null], pod: [UID, 'burstable'] },
    ],
    [
      `/docker/${B}/kubepods/pod${UID}`,
      { short: 'docker:d6701ec289c5/pod:1858680e', container: [B, 'docker'], pod: [UID, 'guaranteed'] },
    ],
    [
      `/kubepods/pod${UID}/${A}/docker/${B}`,
      { short: 'pod:1858680e/d6701ec289c5', container: [B, 'docker'], pod: [UID, 'guaranteed'] },
    ],
  ],
  'containerd and nerdctl': [
    [`/k8s.io/${A}`, { short: 'containerd:3f2a1b4c5d6e', container: [A, 'containerd'] }],
    [`/default/${A}`, { short: 'container:3f2a1b4c5d6e', container: [A, null] }],
    [
      `/system.slice/nerdctl-${A}.scope`,
      { short: 'nerdctl:3f2a1b4c5d6e', unit: `nerdctl-${A}.scope`, slice: 'system.slice', container: [A, 'nerdctl'] },
    ],
    [
      `/system.slice/runc-${A}.scope`,
      { short: 'container:3f2a1b4c5d6e', unit: `runc-${A}.scope`, slice: 'system.slice', container: [A, null] },
    ],
    [`/:cri-containerd:${A}`, { short: 'containerd:3f2a1b4c5d6e', container: [A, 'containerd'] }],
  ],
  Podman: [
    [
      `/machine.slice/libpod-${A}.scope/container`,
      { short: 'podman:3f2a1b4c5d6e', unit: `libpod-${A}.scope`, slice: 'machine.slice', container: [A, 'podman'] },
    ],
    [
      `/machine.slice/libpod-conmon-${A}.scope`,
      { short: `libpod-conmon-${A}.scope`, unit: `libpod-conmon-${A}.scope`, slice: 'machine.slice' },
    ],
    [
      `/machine.slice/libpod-${A}.scope/container/system.slice/nginx.service`,
      {
        short: 'podman:3f2a1b4c5d6e/nginx.service',
        unit: 'nginx.service',
        slice: 'system.slice',
        container: [A, 'podman'],
      },
    ],
    // A quadlet, with cgroups=split.
    [
      `/system.slice/web.service/libpod-payload-${A}`,
      {
        short: 'web.service/podman:3f2a1b4c5d6e',
        unit: 'web.service',
        slice: 'system.slice',
        container: [A, 'podman'],
      },
    ],
    [
      `/machine.slice/machine-libpod_pod_${B}.slice/libpod-${A}.scope`,
      {
        short: 'pod:d6701ec2/3f2a1b4c5d6e',
        unit: `libpod-${A}.scope`,
        slice: `machine-libpod_pod_${B}.slice`,
        container: [A, 'podman'],
        pod: [B, null],
      },
    ],
    [`/libpod_parent/libpod-${A}`, { short: 'podman:3f2a1b4c5d6e', container: [A, 'podman'] }],
    [
      `/libpod_parent/${B}/libpod-${A}`,
      { short: 'pod:d6701ec2/3f2a1b4c5d6e', container: [A, 'podman'], pod: [B, null] },
    ],
    [`/libpod_parent/${B}`, { short: 'pod:d6701ec2', pod: [B, null] }],
    ['/libpod_parent/conmon', { short: '/libpod_parent/conmon' }],
  ],
  'what only looks like one': [
    ['/docker', { short: '/docker' }],
    ['/home/docker/notes', { short: '/home/docker/notes' }],
    ['/docker/3f2a1b4c5d6e', { short: '/docker/3f2a1b4c5d6e' }],
    ['/docker/buildkit/k1o2p3q4r5s6t7u8v9w0x1y2z', { short: '/docker/buildkit/k1o2p3q4r5s6t7u8v9w0x1y2z' }],
    [`/docker/${A}0`, { short: `/docker/${A}0` }],
    [`/docker/${A.toUpperCase()}`, { short: `/docker/${A.toUpperCase()}` }],
    [`/x-${A}`, { short: `/x-${A}` }],
    [`/a:docker:${A}`, { short: `/a:docker:${A}` }],
    [
      '/system.slice/docker-compose.scope',
      { short: 'docker-compose.scope', unit: 'docker-compose.scope', slice: 'system.slice' },
    ],
    [
      `/system.slice/docker-${A}.scope.mount`,
      { short: `docker-${A}.scope.mount`, unit: `docker-${A}.scope.mount`, slice: 'system.slice' },
    ],
    [`/pod${UID}`, { short: `/pod${UID}` }],
    [`/burstable/pod${UID}`, { short: `/burstable/pod${UID}` }],
    ['/kubepods/podcast', { short: '/kubepods/podcast' }],
    [
      `/notkubepods-pod${ESCAPED}.slice`,
      { short: `/notkubepods-pod${ESCAPED}.slice`, slice: `notkubepods-pod${ESCAPED}.slice` },
    ],
    ['/a/getty@.service', { short: '/a/getty@.service' }],
    ['/a/.service', { short: '/a/.service' }],
    ['/a/x y.service', { short: '/a/x y.service' }],
    ['/a/foo.timer', { short: '/a/foo.timer' }],
    [`/a/${'x'.repeat(250)}.service`, { short: `/a/${'x'.repeat(250)}.service` }],
    ['/a/\x1b[31m', { short: '/a/\uFFFD[31m' }],
  ],
};

/** The innermost names of each kind, as the table has them. */
function found(path: string): Expected {
  const names = namesOf(path);
  const [unit, slice] = [innermost(names, 'unit'), innermost(names, 'slice')];
  const [container, pod] = [innermost(names, 'container'), innermost(names, 'pod')];
  return {
    short: shortName(path),
    ...(unit && { unit: unit.name }),
    ...(slice && { slice: slice.name }),
    ...(container && { container: [container.id, container.engine] }),
    ...(pod && { pod: [pod.uid, pod.qos] }),
  };
}

describe('names in cgroup paths', () => {
  for (const [title, table] of Object.entries(cases))
    describe(title, () => {
      for (const [path, expected] of table)
        it(path.replaceAll(A, 'A').replaceAll(B, 'B').replaceAll(UID, 'U').replaceAll(ESCAPED, 'U'), () => {
          assert.deepEqual(found(path), expected);
        });
    });

  const segment = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 80 }),
    fc
      .array(
        fc.constantFrom(
          'kubepods',
          '-',
          'burstable',
          'pod',
          UID,
          ESCAPED,
          HASH,
          A,
          '.slice',
          '.scope',
          '.service',
          ':',
          '@',
          '_',
          'docker',
          'libpod',
          'libpod_parent',
          'conmon',
          '\\x2d',
        ),
        { maxLength: 6 },
      )
      .map((parts) => parts.join('')),
  );
  const path = fc.array(segment, { maxLength: 6 }).map((segments) => `/${segments.join('/')}`);

  it('are found in any text, the same each time, whatever the slashes', () => {
    fc.assert(
      fc.property(path, (text) => {
        const names = namesOf(text);
        assert.deepEqual(namesOf(text), names);
        assert.deepEqual(namesOf(`/${text.replaceAll('/', '//')}/`), names);
        assert.match(shortName(text), /^\P{C}+$/u);
      }),
      { numRuns: 2000 },
    );
  });

  it('hold for everything below', () => {
    fc.assert(
      fc.property(path, segment, (text, below) => {
        const names = namesOf(text);
        assert.deepEqual(namesOf(`${text}/${below}`).slice(0, names.length), names);
      }),
      { numRuns: 2000 },
    );
  });

  it('are found below any other cgroup', () => {
    for (const [known] of Object.values(cases).flat()) {
      const kinds = (text: string): unknown[] => namesOf(text).map((name) => ({ ...name, depth: 0 }));
      assert.deepEqual(kinds(`/outer/test-1${known}`), kinds(known));
    }
  });
});

describe('patterns for names', () => {
  const docker = `/system.slice/docker-${A}.scope`;
  const nested = `${docker}${KIND}/kubelet-kubepods-besteffort-pod${ESCAPED}.slice/cri-containerd-${B}.scope`;
  const redis = '/system.slice/redis.service';
  const user = '/user.slice/user-1000.slice/user@1000.service/app.slice/web\\x2dapp.service';
  const quadlet = `/system.slice/web.service/libpod-payload-${A}`;
  const paths = [docker, nested, redis, user, quadlet];

  const patterns: [typeof unitMatcher, pattern: string, matching: string[]][] = [
    [unitMatcher, 'redis.service', [redis]],
    [unitMatcher, 'redis', [redis]],
    [unitMatcher, 'red', []],
    [unitMatcher, 'redis.socket', []],
    [unitMatcher, 'red*', [redis]],
    [unitMatcher, 'r?dis', []],
    [unitMatcher, 'web\\x2dapp', [user]],
    [unitMatcher, 'web*.service', [user, quadlet]],
    [unitMatcher, 'user@1000', [user]],
    [unitMatcher, 'user@*.service', [user]],
    [unitMatcher, 'system.slice', [docker, nested, redis, quadlet]],
    [unitMatcher, 'docker-*.scope', [docker, nested]],
    [unitMatcher, '*', paths],
    [containerMatcher, A, [docker, nested, quadlet]],
    [containerMatcher, A.slice(0, 12), [docker, nested, quadlet]],
    [containerMatcher, B.slice(0, 13), [nested]],
    [containerMatcher, `${A.slice(0, 12)}00`, []],
    [containerMatcher, A.slice(1, 14), []],
    [containerMatcher, 'd67*', [nested]],
    [containerMatcher, '[0-4]*', [docker, nested, quadlet]],
    [containerMatcher, '*', [docker, nested, quadlet]],
    [podMatcher, UID, [nested]],
    [podMatcher, '1858680e-*', [nested]],
    [podMatcher, '*', [nested]],
    [podMatcher, HASH, []],
  ];
  for (const [matcher, pattern, matching] of patterns)
    it(`${matcher.name} ${pattern}`, () => {
      const matches = matcher(pattern);
      assert.deepEqual(
        paths.filter((text) => matches(namesOf(text))),
        matching,
      );
    });
});
