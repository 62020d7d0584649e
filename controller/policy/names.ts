/**
 * What a cgroup path says about who runs there: systemd's units, containers and pods. They are found at any depth,
 * because hosts nest: a node of kind is a container with units, pods and containers of its own. Whatever lies below a
 * name has that name too.
 *
 * Sources: systemd's src/basic/cgroup-util.c and unit-name.c; the kubelet's pkg/kubelet/cm; "slice:prefix:id" in runc's
 * docs/systemd.md, and who asks for which prefix in moby daemon/oci_linux.go, containerd internal/cri/server, cri-o
 * internal/config/cgmgr, podman libpod and nerdctl run_cgroup_linux.go.
 */

/** Whose container it is, as far as the path tells. */
export type Engine = 'containerd' | 'cri-o' | 'docker' | 'nerdctl' | 'podman';

export type Qos = 'besteffort' | 'burstable' | 'guaranteed';

interface Place {
  /** Which segment of the path, from 0. */
  readonly depth: number;
}

/** A unit that can have processes, as systemctl(1) prints it: `redis.service`, `app-a\x2db@1.service`. */
export interface Unit extends Place {
  readonly kind: 'unit';
  readonly name: string;
}

/** A unit that holds others: `system.slice`. */
export interface Slice extends Place {
  readonly kind: 'slice';
  readonly name: string;
}

/** Run by systemd's cgroup driver, it is a unit as well, such as `docker-ID.scope`. */
export interface Container extends Place {
  readonly kind: 'container';
  /** 64 hexadecimal digits. */
  readonly id: string;
  readonly engine: Engine | null;
}

export interface Pod extends Place {
  readonly kind: 'pod';
  /** A UUID; of a static pod the 32 hexadecimal digits of kubernetes.io/config.hash; of podman's 64. */
  readonly uid: string;
  /** Null for podman's. */
  readonly qos: Qos | null;
}

export type Name = Unit | Slice | Container | Pod;

/** Every name in a path below the cgroup v2 root, the outermost first; of one segment, the unit first. Never throws. */
export function namesOf(path: string): Name[] {
  const segments = path.split('/').filter((segment) => segment !== '');
  return segments.flatMap((segment, depth) => {
    const [parent = '', grandparent = ''] = [segments[depth - 1], segments[depth - 2]];
    const names = [unit(segment, depth), pod(segment, parent, grandparent, depth), container(segment, parent, depth)];
    return names.filter((name) => name !== undefined);
  });
}

/** The innermost name of a kind. */
export function innermost<K extends Name['kind']>(
  names: readonly Name[],
  kind: K,
): Extract<Name, { kind: K }> | undefined {
  return names.findLast((name): name is Extract<Name, { kind: K }> => name.kind === kind);
}

/** The types of units that have cgroups. */
export const unitTypes = ['mount', 'scope', 'service', 'slice', 'socket', 'swap'] as const;

/** By the characters that unit-name.c allows. */
const unitName = new RegExp(`^[\\w:.\\\\-]+(?:@[\\w:.\\\\@-]+)?\\.(?:${unitTypes.join('|')})$`);
const longestUnitName = 255;

/** Whether a unit that can have processes may have this name: no template such as `getty@.service`. */
export function isUnitName(name: string): boolean {
  return name.length <= longestUnitName && unitName.test(name);
}

const hexId = '[0-9a-f]{64}';
/** By systemd's cgroup driver. */
const scope = new RegExp(`^(.+)-(${hexId})\\.scope$`);
/** By the cgroupfs driver, from a path that was meant for systemd's. */
const misapplied = new RegExp(`^(|.*\\.slice):([^:]+):(${hexId})$`);
/** By the cgroupfs driver. */
const directory = new RegExp(`^(?:(crio|libpod|libpod-payload)-)?(${hexId})$`);

/** By what stands before the id: a prefix, or else the directory above. */
const engines: ReadonlyMap<string, Engine> = new Map([
  ['cri-containerd', 'containerd'],
  ['crio', 'cri-o'],
  ['docker', 'docker'],
  ['k8s.io', 'containerd'],
  ['libpod', 'podman'],
  ['libpod-payload', 'podman'],
  ['nerdctl', 'nerdctl'],
]);

/**
 * The id, or its beginning, in what looks like the name of a container's unit and is none: units of containers are scopes
 * and have the whole id.
 */
export function misnamedContainer(unit: string): string | undefined {
  const [, prefix = '', id = '', type] = /^(?:([\w.-]+)-)?([0-9a-f]{12,64})(\.scope|\.service)?$/.exec(unit) ?? [];
  if (id === '' || (prefix !== '' && !engines.has(prefix))) return undefined;
  return type === '.scope' && id.length === 64 ? undefined : id;
}

/** Any `uid` that the API server or the kubelet makes; one written into the manifest of a static pod is not known. */
const podUid = (dash: string): string => `[0-9a-f]{8}${dash}(?:[0-9a-f]{4}${dash}){3}[0-9a-f]{12}|[0-9a-f]{32}`;
/** Slices nest by their names: with the kubelet's --cgroup-root, something stands before `kubepods`. */
const podSlice = new RegExp(`(?:^|-)kubepods(?:-(besteffort|burstable))?-pod(${podUid('_')})\\.slice$`);
const podDirectory = new RegExp(`^pod(${podUid('-')})$`);
const podmanSlice = new RegExp(`-libpod_pod_(${hexId})\\.slice$`);
const anyPodUid = new RegExp(`^(?:${podUid('-')}|${hexId})$`);

/** Whether a pod may have this uid, or be a pod of podman with this id. */
export function isPodUid(text: string): boolean {
  return anyPodUid.test(text);
}

/** What podman's cgroupfs driver puts everything below. */
const podmanParent = 'libpod_parent';

function unit(segment: string, depth: number): Unit | Slice | undefined {
  // systemd puts an underscore before a name that the kernel could give to a file of its own, such as cpu.service.
  const name = segment.replace(/^_/, '');
  return isUnitName(name) ? { kind: name.endsWith('.slice') ? 'slice' : 'unit', name, depth } : undefined;
}

function pod(segment: string, parent: string, grandparent: string, depth: number): Pod | undefined {
  const slice = misapplied.exec(segment)?.[1] ?? segment;
  const [, sliceQos, sliceUid] = podSlice.exec(slice) ?? [];
  if (sliceUid !== undefined) return { kind: 'pod', uid: sliceUid.replaceAll('_', '-'), qos: qosOf(sliceQos), depth };
  const [, uid] = podDirectory.exec(segment) ?? [];
  if (uid !== undefined && parent === 'kubepods') return { kind: 'pod', uid, qos: 'guaranteed', depth };
  if (uid !== undefined && grandparent === 'kubepods' && (parent === 'besteffort' || parent === 'burstable'))
    return { kind: 'pod', uid, qos: parent, depth };
  const podman = isPodmanPod(segment, parent) ? segment : podmanSlice.exec(slice)?.[1];
  return podman === undefined ? undefined : { kind: 'pod', uid: podman, qos: null, depth };
}

function container(segment: string, parent: string, depth: number): Container | undefined {
  const [prefix = parent, id] =
    scope.exec(segment)?.slice(1) ?? misapplied.exec(segment)?.slice(2) ?? directory.exec(segment)?.slice(1) ?? [];
  if (id === undefined || isMonitor(prefix) || isPodmanPod(segment, parent)) return undefined;
  return { kind: 'container', id, engine: engines.get(prefix) ?? null, depth };
}

const qosOf = (written: string | undefined): Qos =>
  written === 'besteffort' || written === 'burstable' ? written : 'guaranteed';

const isPodmanPod = (segment: string, parent: string): boolean =>
  parent === podmanParent && segment.length === 64 && directory.test(segment);

/** conmon watches a container of cri-o or podman from outside, in a scope named after it. */
const isMonitor = (prefix: string): boolean => prefix.endsWith('-conmon');
