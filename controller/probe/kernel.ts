/** What the datapath needs of the kernel, feature by feature. */
import { existsSync } from 'node:fs';

import { kernelBtfHas, probeIterator, probeMapType, probeProgramType } from '../../addon/index.js';
import { EXIT, UserError } from '../errors.js';

/** A capability that is there or not; never a version comparison. */
export interface Feature {
  /** What a person would search for. */
  readonly name: string;
  /** First mainline release that has it, for the message. */
  readonly since: string;
  readonly present: () => boolean;
}

const BTF_FILE = '/sys/kernel/btf/vmlinux';

export const FEATURES: readonly Feature[] = [
  { name: 'BTF of the kernel (CONFIG_DEBUG_INFO_BTF)', since: '5.4', present: () => existsSync(BTF_FILE) },
  { name: 'sock_ops programs (CONFIG_CGROUP_BPF)', since: '4.13', present: () => probeProgramType('sock_ops') },
  { name: 'sk_msg programs (CONFIG_NET_SOCK_MSG)', since: '4.17', present: () => probeProgramType('sk_msg') },
  { name: 'sockmap (CONFIG_NET_SOCK_MSG)', since: '4.14', present: () => probeMapType('sockmap') },
  { name: 'socket local storage', since: '5.2', present: () => probeMapType('sk_storage') },
  { name: 'queue maps', since: '4.20', present: () => probeMapType('queue') },
  { name: 'BPF ring buffers', since: '5.8', present: () => probeMapType('ringbuf') },
  {
    name: 'an iterator over socket storage (bpf_sk_storage_map) or open files (task_file) that it lets root use',
    since: '5.9',
    present: () => promotionSource() !== undefined,
  },
  {
    name: 'the tracepoint sock_recv_length, or functions inet_recvmsg and inet6_recvmsg to trace',
    since: '6.3',
    present: () => receiveSource() !== undefined,
  },
];

const CASTS: Feature = {
  name: 'the kernel functions bpf_cast_to_kern_ctx and bpf_rdonly_cast',
  since: '6.2',
  present: () => kernelBtfHas('func', 'bpf_cast_to_kern_ctx') && kernelBtfHas('func', 'bpf_rdonly_cast'),
};

/** What bpf/adopt.bpf.c needs besides. */
export const ADOPT_FEATURES: readonly Feature[] = [CASTS];

/** What bpf/capture.bpf.c needs besides. */
export const CAPTURE_FEATURES: readonly Feature[] = [
  CASTS,
  {
    name: 'the tracepoint sock_send_length',
    since: '6.3',
    present: () => kernelBtfHas('typedef', 'btf_trace_sock_send_length'),
  },
];

/** The programs of bpf/observe.bpf.c that see every receive on this kernel, in the order of attachment; undefined: none do. */
export function receiveSource(): readonly string[] | undefined {
  if (kernelBtfHas('typedef', 'btf_trace_sock_recv_length')) {
    // What guards a tracepoint there lets its programs be preempted, and preempted ones are skipped on that CPU.
    const preemptible = kernelBtfHas('typedef', 'class_srcu_fast_notrace_t');
    return preemptible ? ['observe_first', 'observe_second', 'observe_third'] : ['observe'];
  }
  const traced = ['inet_recvmsg', 'inet6_recvmsg'].every((name) => kernelBtfHas('func', name));
  return traced ? ['observe_inet', 'observe_inet6'] : undefined;
}

/** The programs of bpf/promote.bpf.c that meet paired sockets, the better one first, and what they iterate over. */
const PROMOTION_SOURCES = { promote: 'bpf_sk_storage_map', promote_by_file: 'task_file' } as const;
export type PromotionSource = keyof typeof PROMOTION_SOURCES;

/** Whether the kernel has this program run. */
export function promotesBy(source: PromotionSource): boolean {
  return probeIterator(PROMOTION_SOURCES[source]);
}

/** Which of them is to be used on this kernel; undefined: it takes none. */
export function promotionSource(): PromotionSource | undefined {
  return (Object.keys(PROMOTION_SOURCES) as PromotionSource[]).find(promotesBy);
}

/** The first feature that is missing; later ones may depend on it. */
export function missingFeature(features: readonly Feature[] = FEATURES): Feature | undefined {
  return features.find((feature) => !feature.present());
}

/** @throws UserError with exit code 3 that names what is missing. */
export function requireKernel(release: string, features: readonly Feature[] = FEATURES): void {
  const missing = missingFeature(features);
  if (missing === undefined) return;
  throw new UserError(
    `kernel ${release} lacks ${missing.name}, which mainline has since ${missing.since}: ` +
      'boot a kernel that has it; nothing was attached',
    EXIT.unsupported,
  );
}
