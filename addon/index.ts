/**
 * The native seam: libbpf and a few system calls as typed objects, without any policy.
 *
 * Every function here is synchronous unless it returns a promise, throws {@link NativeError} when
 * the kernel or libbpf refuses, TypeError for an argument of the wrong type and RangeError for one
 * of the wrong size. Sizes and offsets are in bytes. Descriptors are close-on-exec; an object that
 * becomes garbage closes its own. Objects belong to the thread that made them; the addon itself can
 * be loaded in several worker threads.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** What a {@link NativeError} carries besides its message. */
export interface NativeErrorFields {
  /** The errno's name, such as 'EBUSY'; 'EBADF' also for use after close(), 'ELIBBPF' for libbpf's own numbers. */
  readonly code: string;
  /** The errno, a positive number. */
  readonly errno: number;
  /** The call that failed, such as 'bpf_map_update_elem', 'load' or 'attach_cgroup'. */
  readonly operation: string;
  /** The name or path concerned; may be empty. */
  readonly object: string;
  /** For open() and load(): everything libbpf and the verifier printed. */
  readonly log?: string;
}

/** The kernel or libbpf refused. The message is one line: `operation "object": CODE: reason`. */
export class NativeError extends Error implements NativeErrorFields {
  readonly code: string;
  readonly errno: number;
  readonly operation: string;
  readonly object: string;
  declare readonly log?: string;

  constructor(message: string, fields: NativeErrorFields) {
    super(message);
    this.name = 'NativeError';
    this.code = fields.code;
    this.errno = fields.errno;
    this.operation = fields.operation;
    this.object = fields.object;
    if (fields.log !== undefined) this.log = fields.log;
  }
}

/** What C calls a member's type, once typedefs and const are looked through. */
export type TypeKind = 'int' | 'bool' | 'float' | 'enum' | 'ptr' | 'array' | 'struct' | 'union' | 'bitfield' | 'other';

/** One named member of a struct or union. */
export interface StructMember {
  readonly name: string;
  /** From the start of the struct. */
  readonly offset: number;
  /** Of the whole member. */
  readonly size: number;
  /** For 'bitfield', offset is its first byte and size that of the declared type. */
  readonly kind: TypeKind;
  /** Of the integer, or of an array's elements. */
  readonly signed: boolean;
  /** Arrays only: size of one element; several dimensions count as one. */
  readonly elementSize?: number;
  /** Arrays only: number of elements. */
  readonly count?: number;
  /** Arrays only. */
  readonly elementKind?: TypeKind;
  /** The type's own name, else its typedef's; of the elements for an array. For a struct or union, what structLayout() takes. */
  readonly typeName?: string;
}

/** A struct or union as the compiler laid it out, from the object's BTF. */
export interface StructLayout {
  readonly size: number;
  /** In declaration order; members of unnamed structs and unions stand in their parent's list. */
  readonly members: readonly StructMember[];
}

/** A compiled BPF object file. Types can be read before load() and without privileges. */
export interface BpfObject {
  /** @throws NativeError ENOENT when the object has no such struct, union or typedef of one. */
  structLayout(name: string): StructLayout;
  /**
   * The constants of the enum `name`; '' means those of all unnamed enums. Only enums that the
   * program's types or code refer to are in its BTF.
   * @throws NativeError ENOENT when there is none, EOVERFLOW for a value beyond 2^53.
   */
  enumValues(name: string): Record<string, number>;
  /** Before load() only: @throws NativeError EBUSY afterwards. `entries` is from 1 to 2^32-1. */
  setMaxEntries(mapName: string, entries: number): void;
  /** load() is to load this program, too, whose section name begins with a question mark. Before load() only. */
  loadProgram(name: string): void;
  /** The programs will use this map, and load() makes none of this name. Before load() only. */
  reuseMap(mapName: string, map: BpfMap): void;
  /**
   * Creates the maps and loads the programs, all or nothing; can be called once. The error names
   * the first program refused and gives the verifier's reason in its message.
   */
  load(): void;
  /** A map by its full C name, after load(). It stays usable when this object is closed. */
  map(name: string): BpfMap;
  /** A program by its function's name, after load(). */
  program(name: string): BpfProgram;
  mapNames(): string[];
  programNames(): string[];
  /** Frees what libbpf holds. Maps and programs live on where something else refers to them. */
  close(): void;
}

/** A loaded BPF program. */
export interface BpfProgram {
  /** The function's name; from a pin, the kernel's copy of its first 15 characters. */
  readonly name: string;
  /** The kernel's id, unique while it runs. */
  readonly id: number;
  /** Gives it a name in a BPF file system. @throws NativeError EEXIST, or EPERM elsewhere. */
  pin(path: string): void;
  /** Attaches to a cgroup v2 directory. Only for programs of an open BpfObject. */
  attachCgroup(cgroupDir: string): BpfLink;
  /** Attaches where the section name says, such as tp_btf. Only for programs of an open BpfObject. */
  attachTracepoint(): BpfLink;
  /**
   * Attaches an iterator: to the map whose elements it visits, or without one, where that is not what it visits. Only for
   * programs of an open BpfObject.
   */
  attachIterator(map?: BpfMap): BpfLink;
  /** Makes this what a tail call through an element of a program array runs; delete() of the key ends that. */
  attachTailCall(map: BpfMap, index: number): void;
  /** Makes this the sk_msg program of every socket later inserted into a sockmap or sockhash. */
  attachSockmap(map: BpfMap): void;
  /** Undoes attachSockmap(). @throws NativeError ENOENT when this program is not attached there. */
  detachSockmap(map: BpfMap): void;
  close(): void;
}

/** What the kernel says about a link. */
export interface BpfLinkInfo {
  readonly id: number;
  /** libbpf's name, such as 'cgroup', 'raw_tracepoint' or 'iter'. */
  readonly type: string;
  readonly programId: number;
  /** Cgroup links only: 0n once the cgroup is gone or the link detached. */
  readonly cgroupId?: bigint;
}

/** An attachment. It ends when neither a pin nor an open BpfLink refers to it: keep a reference. */
export interface BpfLink {
  pin(path: string): void;
  info(): BpfLinkInfo;
  /** Ends the attachment at once, pinned or not. @throws NativeError EOPNOTSUPP: cgroup links only, mostly. */
  detach(): void;
  /** Runs an iterator program over everything and returns what it wrote, usually nothing. Blocks until done. */
  runIterator(): Buffer;
  close(): void;
}

/** What the kernel says about a map. */
export interface BpfMapInfo {
  readonly id: number;
  /** The C name; from a pin, its first 15 characters. */
  readonly name: string;
  /** enum bpf_map_type of linux/bpf.h. */
  readonly type: number;
  readonly keySize: number;
  readonly valueSize: number;
  readonly maxEntries: number;
  /** BPF_F_* of linux/bpf.h. */
  readonly mapFlags: number;
}

/**
 * A BPF map. Keys and values are Buffers of exactly the map's sizes. A per-CPU map's value is one
 * value for each of the possibleCpus(), each rounded up to 8 bytes.
 */
export interface BpfMap {
  pin(path: string): void;
  info(): BpfMapInfo;
  /** A copy, or undefined when the key is not there. */
  lookup(key: Uint8Array): Buffer | undefined;
  /** @throws NativeError E2BIG when full, EEXIST or ENOENT as the flags say. */
  update(key: Uint8Array, value: Uint8Array, flags?: 'any' | 'noexist' | 'exist'): void;
  /** False when the key is not there. */
  delete(key: Uint8Array): boolean;
  /** Takes an element out; for queues and stacks without a key. Undefined when there is none. */
  lookupAndDelete(key?: Uint8Array): Buffer | undefined;
  /**
   * At most `limit` keys, by default as many as the map can hold. While others delete keys, one may
   * come twice or be missed.
   */
  keys(limit?: number): Buffer[];
  /** Queues and stacks. @throws NativeError E2BIG when full. */
  push(value: Uint8Array): void;
  /** Puts 0 to count-1 on a stack of 4-byte values, in host byte order; 0 is on top. */
  fill(count: number): void;
  /**
   * The values of a BPF_F_MMAPABLE array as memory shared with the kernel: element i is at i times
   * the value size rounded up to 8. Each call maps it anew; the memory stays mapped as long as the
   * ArrayBuffer is referred to, also after close().
   */
  mmap(): ArrayBuffer;
  /** The same for reading; works on frozen maps. Writing into it kills the process (SIGSEGV). */
  mmapReadOnly(): ArrayBuffer;
  /**
   * Sockmaps: the map of this name that the attached sk_msg program uses, pinned or not; undefined if there is none.
   * While it is open the kernel counts it among the map's users, which matters for program arrays: theirs are emptied
   * when the last user goes (kernel/bpf/arraymap.c:prog_array_map_clear).
   */
  sockmapProgramMap(name: string): BpfMap | undefined;
  /**
   * As {@link BpfObject.structLayout} of the object that made this map, from the kernel's copy of its BTF.
   * @throws NativeError ENOENT also where the map has none; EPERM without CAP_SYS_ADMIN (BPF_BTF_GET_FD_BY_ID)
   */
  structLayout(name: string): StructLayout;
  /** Likewise {@link BpfObject.enumValues}. */
  enumValues(name: string): Record<string, number>;
  close(): void;
}

/** Settings of a {@link RingBuffer}. */
export interface RingBufferOptions {
  /** Most records for one call, from 1; default 256. The rest comes in the loop's next turn. */
  readonly batch?: number;
}

/**
 * Delivers the records of a BPF ring buffer map as copies, many to a call. It keeps itself and the
 * event loop alive until close(). An exception in the callback is an uncaughtException.
 */
export interface RingBuffer {
  /** Lets it keep the process alive, as it does at first. */
  ref(): void;
  /** Lets the process end although it is open. */
  unref(): void;
  /** Nothing is delivered afterwards. Records stay in the map. */
  close(): void;
}

/** An advisory lock on a directory; it also ends with the process. */
export interface DirectoryLock {
  release(): void;
}

/** The cgroups at and below a mount, the mount itself first. */
export interface CgroupList {
  readonly ids: BigUint64Array;
  /** Below the mount, starting with '/'; of the cgroup whose id has the same index. */
  readonly paths: readonly string[];
  /** How long the search took. */
  readonly milliseconds: number;
}

/** Names are the kernel's copies of their first 15 characters, and need CAP_SYS_ADMIN. */
export interface AttachedProgram {
  readonly id: number;
  readonly name?: string;
  /** Of the maps that it uses. */
  readonly maps?: readonly string[];
}

interface Binding {
  setErrorClass: (errorClass: typeof NativeError) => void;
  BpfObject: {
    /** Reads and checks an object file; nothing is given to the kernel yet. */
    open(path: string): BpfObject;
  };
  BpfProgram: {
    /** Opens a pinned program. @throws NativeError ENOENT, or EINVAL when it is not a program. */
    open(pinPath: string): BpfProgram;
  };
  BpfLink: {
    /** Opens a pinned link. @throws NativeError ENOENT, or EINVAL when it is not a link. */
    open(pinPath: string): BpfLink;
  };
  BpfMap: {
    /** Opens a pinned map. @throws NativeError ENOENT, or EINVAL when it is not a map. */
    open(pinPath: string): BpfMap;
  };
  RingBuffer: new (map: BpfMap, onRecords: (records: Buffer[]) => void, options?: RingBufferOptions) => RingBuffer;
  DirectoryLock: {
    /** Locks a directory, which may be in a BPF file system; undefined when another holder has it. */
    acquire(dir: string): DirectoryLock | undefined;
  };
  cgroupId: (dir: string) => bigint;
  cgroupPath: (id: bigint, mountDir: string) => string | undefined;
  listCgroups: (mountDir: string) => Promise<CgroupList>;
  listCgroupsSync: (mountDir: string) => CgroupList;
  attachedPrograms: (cgroupDir: string, type: 'sock_ops' | 'setsockopt', effective?: boolean) => AttachedProgram[];
  fileSystemType: (path: string) => 'bpf' | 'cgroup2' | 'tmpfs' | 'other';
  mountBpf: (dir: string) => void;
  sendDatagram: (path: string, text: string) => void;
  rcuBarrier: (method?: 'auto' | 'map') => Promise<void>;
  kernelBtfHas: (kind: 'struct' | 'func' | 'typedef', name: string) => boolean;
  probeProgramType: (name: string) => boolean;
  probeMapType: (name: string) => boolean;
  probeIterator: (name: string) => boolean;
  objectExists: (kind: 'program' | 'map' | 'link', id: number) => boolean;
  possibleCpus: () => number;
  libbpfVersion: () => string;
}

/** The package's folder, from the sources and from build/js alike. */
function packageRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, 'package.json'))) folder = dirname(folder);
  return folder;
}

const require = createRequire(import.meta.url);
const load = require('node-gyp-build') as (folder: string) => Binding;
const native = load(join(packageRoot(), 'addon'));
native.setErrorClass(NativeError);

export const BpfObject = native.BpfObject;
export const BpfProgram = native.BpfProgram;
export const BpfLink = native.BpfLink;
export const BpfMap = native.BpfMap;
export const RingBuffer = native.RingBuffer;
export const DirectoryLock = native.DirectoryLock;

// Paths of cgroups, here and below, have '\' and three octal digits for a byte that is no UTF-8, and for a '\' in front
// of three such digits.
/** The 64-bit id of a cgroup v2 directory, as bpf_get_current_cgroup_id() and others give it. */
export const cgroupId = native.cgroupId;

/**
 * Where the cgroup with this id is below the cgroup v2 mount, starting with '/'; undefined when it
 * is gone or not below `mountDir`.
 * @throws NativeError EPERM without CAP_DAC_READ_SEARCH (open_by_handle_at(2)); ENOSYS where there are no file handles
 */
export const cgroupPath = native.cgroupPath;

/**
 * Every cgroup at and below the cgroup v2 mount that is there from the call to the end, some microseconds each, without
 * any right. Those made or removed meanwhile may be missing. Needs two descriptors, however deep they are.
 * @throws NativeError, also when a cgroup could not be read: no list is less than complete
 */
export const listCgroups = native.listCgroups;
/** The same in this thread. */
export const listCgroupsSync = native.listCgroupsSync;

/**
 * The programs of one attach type on this very cgroup; with `effective` all that run for it, those of its ancestors,
 * too, also beyond what a cgroup namespace shows.
 */
export const attachedPrograms = native.attachedPrograms;

export const fileSystemType = native.fileSystemType;

/** Mounts a BPF file system on a directory, for root only (mode 0700, nosuid, nodev, noexec). */
export const mountBpf = native.mountBpf;

/**
 * Sends one datagram to a Unix socket; '@' in front of a name puts it into the abstract namespace, as sd_notify(3) has
 * it. Waits up to a second for a receiver whose queue is full.
 * @throws NativeError EAGAIN when that was not enough, ENOENT or ECONNREFUSED when nobody listens
 */
export const sendDatagram = native.sendDatagram;

/**
 * Resolves when every BPF program that was running at the call has ended: an RCU grace period, some
 * milliseconds. Uses membarrier(MEMBARRIER_CMD_GLOBAL), which is synchronize_rcu() in the kernel
 * (kernel/sched/membarrier.c); where that is refused (nohz_full), or with 'map', an update of a map
 * in a map, which waits likewise (kernel/bpf/syscall.c:maybe_wait_bpf_programs).
 */
export const rcuBarrier = native.rcuBarrier;

/**
 * Whether the running kernel's BTF has this type or function.
 * @throws NativeError ENOENT when the kernel has no BTF.
 */
export const kernelBtfHas = native.kernelBtfHas;

/**
 * Whether the kernel accepts this type of program, by libbpf's name such as 'sk_msg'.
 * @throws RangeError for a name that libbpf does not know.
 */
export const probeProgramType = native.probeProgramType;

/**
 * Whether the kernel accepts this type of map, by libbpf's name such as 'ringbuf'.
 * @throws RangeError for a name that libbpf does not know.
 */
export const probeMapType = native.probeMapType;

/**
 * Whether the kernel accepts iterator programs over this, such as 'task_file'; some keep them from maps' contents.
 * @throws NativeError ENOENT when the kernel has no BTF.
 */
export const probeIterator = native.probeIterator;
/** Whether the kernel still has the program, map or link with this id. @throws NativeError (EPERM without root) */
export const objectExists = native.objectExists;

/** How many values a per-CPU map's element has. */
export const possibleCpus = native.possibleCpus;

/** The version of the libbpf in use, such as '1.1'. */
export const libbpfVersion = native.libbpfVersion;
