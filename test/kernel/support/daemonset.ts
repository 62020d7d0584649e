/** deploy/kubernetes as containerd would carry it out on this machine, by runc. */
import { mkdirSync, readFileSync, symlinkSync } from 'node:fs';
import { dirname, join } from 'node:path';

import { parse } from 'yaml';

import { Container, type ContainerOptions, type Mount, readOnly } from './container.js';
import { ROOT, type Sandbox } from './sandbox.js';

/** A manifest of deploy/kubernetes. */
export function manifest(name: string): unknown {
  return parse(readFileSync(join(ROOT, 'deploy', 'kubernetes', name), 'utf8'));
}

interface Probe {
  httpGet: { path: string; port: string };
}

/** What is used here of a DaemonSet; test/unit/deploy.test.ts compares the manifest with the whole schema. */
export interface DaemonSet {
  spec: {
    template: {
      metadata: { annotations: Record<string, string> };
      spec: {
        hostPID: boolean;
        hostNetwork: boolean;
        terminationGracePeriodSeconds: number;
        containers: [
          {
            image: string;
            args: string[];
            ports: { name: string; containerPort: number }[];
            startupProbe: Probe;
            livenessProbe: Probe;
            readinessProbe: Probe;
            securityContext: {
              privileged: boolean;
              allowPrivilegeEscalation: boolean;
              readOnlyRootFilesystem: boolean;
              capabilities: { drop: string[]; add: string[] };
              seccompProfile: { type: string };
            };
            volumeMounts: { name: string; mountPath: string; readOnly?: boolean; mountPropagation?: string }[];
          },
        ];
        volumes: { name: string; hostPath?: { path: string }; configMap?: { name: string } }[];
      };
    };
  };
}

export const daemonSet = manifest('daemonset.yaml') as DaemonSet;
export const podSpec = daemonSet.spec.template.spec;
export const [agent] = podSpec.containers;
const { securityContext } = agent;

/** Of the agent, with their prefix. */
export const CAPABILITIES = securityContext.capabilities.add.map((name) => `CAP_${name}`);

/** Where the image has the program, and where the machine has Node.js. */
const INSTALLED = '/opt/slipstream-bpf';
const NODE = '/node/node';

/** System calls that containerd's default profile allows to whom has a capability; without, they fail with EPERM. */
const GATED: Record<string, readonly string[]> = {
  CAP_BPF: ['bpf'],
  CAP_PERFMON: ['perf_event_open'],
  CAP_SYS_PTRACE: ['kcmp', 'pidfd_getfd', 'process_madvise', 'process_vm_readv', 'process_vm_writev'],
  CAP_DAC_READ_SEARCH: ['open_by_handle_at'],
  CAP_SYS_ADMIN: ['mount', 'name_to_handle_at', 'setns', 'umount2', 'unshare', 'fsopen', 'open_tree', 'move_mount'],
};

export interface Differences {
  /** Instead of these paths of the host. */
  hostPaths: Record<string, string>;
  /** Directories instead of ConfigMaps. */
  configMaps: Record<string, string>;
  netns: string;
  capabilities?: string[];
  /** Volumes that are left out. */
  without?: string[];
  hostPid?: boolean;
}

/** The agent's container with everything that the manifest says; started with `args` and those that a test adds. */
export function agentContainer(sandbox: Sandbox, name: string, differences: Differences): Container {
  const capabilities = differences.capabilities ?? CAPABILITIES;
  const options: ContainerOptions = {
    netns: podSpec.hostNetwork ? null : differences.netns,
    hostPid: differences.hostPid ?? podSpec.hostPID,
    cgroupNamespace: !securityContext.privileged,
    capabilities,
    noNewPrivileges: !securityContext.allowPrivilegeEscalation,
    readOnlyRoot: securityContext.readOnlyRootFilesystem,
    env: { PATH: `${dirname(NODE)}:/usr/bin:/bin`, NODE_ENV: 'production' },
    mounts: [
      { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev', 'ro'] },
      { destination: '/sys/fs/cgroup', type: 'cgroup', source: 'cgroup', options: ['nosuid', 'noexec', 'nodev', 'ro'] },
      readOnly(ROOT, INSTALLED),
      readOnly(process.execPath, NODE),
      ...agent.volumeMounts.filter(({ name }) => differences.without?.includes(name) !== true).map(toMount),
    ],
    linux: {
      maskedPaths: ['/proc/asound', '/proc/acpi', '/proc/kcore', '/proc/keys', '/proc/timer_list', '/sys/firmware'],
      readonlyPaths: ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'],
      seccomp: seccompProfile(capabilities),
    },
  };
  const container = new Container(sandbox, name, options);
  mkdirSync(container.path('bin'), { recursive: true });
  symlinkSync(join(INSTALLED, 'bin', 'slipstream-bpf'), container.path('bin/slipstream-bpf'));
  return container;

  function toMount({ name, mountPath, readOnly: ro, mountPropagation }: (typeof agent.volumeMounts)[number]): Mount {
    const { hostPath, configMap } = podSpec.volumes.find((candidate) => candidate.name === name) ?? {};
    const source =
      hostPath !== undefined
        ? (differences.hostPaths[hostPath.path] ?? hostPath.path)
        : differences.configMaps[configMap?.name ?? ''];
    if (source === undefined) throw new Error(`volume ${name} is neither a path of the host nor a known ConfigMap`);
    const propagation = mountPropagation === 'HostToContainer' ? 'rslave' : 'rprivate';
    return {
      destination: mountPath,
      type: 'bind',
      source,
      options: ['rbind', ro === true ? 'ro' : 'rw', propagation],
    };
  }
}

function seccompProfile(capabilities: string[]): object | undefined {
  if (securityContext.seccompProfile.type !== 'RuntimeDefault') return undefined;
  const denied = Object.entries(GATED).flatMap(([capability, calls]) =>
    capabilities.includes(capability) ? [] : calls,
  );
  return {
    defaultAction: 'SCMP_ACT_ALLOW',
    syscalls: [
      { names: denied, action: 'SCMP_ACT_ERRNO', errnoRet: 1 },
      // C libraries then use clone(2), which can be filtered (ENOSYS).
      { names: ['clone3'], action: 'SCMP_ACT_ERRNO', errnoRet: 38 },
    ],
  };
}
