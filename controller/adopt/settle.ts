/**
 * Waiting until what threads received before has been counted.
 *
 * A receive is counted after the socket's lock was let go (call_trace_sock_recv_length in net/socket.c). Between the two
 * nothing sleeps but who writes control data to memory that is not there (put_cmsg), and in its middle a receive sleeps
 * with MSG_WAITALL. So a thread that was seen asleep has counted what it received before, unless it is in a system call
 * that receives, elsewhere than in the socket's own wait. One that runs has counted when it has had so much time in user
 * space since that it can't have been in that one receive all along. What can't be told of a thread holds for every
 * socket of its process.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { arch } from 'node:os';
import { setImmediate, setTimeout } from 'node:timers/promises';

/** proc_pid_stat(5), as far as it is of interest here. */
export interface ThreadSample {
  /** R, S, D, … */
  readonly state: string;
  /** A thread of io_uring (PF_IO_WORKER): it is in no system call. */
  readonly ofRing: boolean;
  /** Ticks in user space. */
  readonly userTicks: number;
  /** Threads of the process. */
  readonly threads: number;
}

/** The system calls that receive from their first argument, and where their flags are, by number (asm/unistd.h). */
const RECEIVES: Readonly<Record<string, ReadonlyMap<number, number | undefined>>> = {
  // read, readv, preadv2, recvfrom, recvmsg, recvmmsg
  x64: new Map([
    [0, undefined],
    [19, undefined],
    [327, undefined],
    [45, 3],
    [47, 2],
    [299, 3],
  ]),
  arm64: new Map([
    [63, undefined],
    [65, undefined],
    [286, undefined],
    [207, 3],
    [212, 2],
    [243, 3],
  ]),
};
/** io_uring_enter(2), on every machine. */
const ENTER_RING = 426;
const MSG_WAITALL = 0x100;

/** Where a receive waits for data (sk_wait_data), as /proc/PID/wchan calls it: by whether symbols are exact. */
const SOCKET_WAITS = new Set(['wait_woken', 'sk_wait_data']);
/** Where rings and their threads wait for something to do. */
const RING_WAIT = /^io_(?:cqring_|wq_worker|sq_thread)/;
/** PF_IO_WORKER and PF_KTHREAD of include/linux/sched.h. */
const PF_IO_WORKER = 0x10;
const PF_KTHREAD = 0x20_0000;

/** How often a thread that runs is looked at again, milliseconds. */
const INTERVAL = 5;
/** So many threads are looked at before others get their turn. */
const BATCH = 256;
/** Lists of a process's threads that are shorter than it says are read again so often. */
const LISTINGS = 5;
/**
 * So many ticks in user space prove that a thread has left the receive that it may have been in. /proc takes them from
 * the time on a CPU in the proportion so far (cputime_adjust), so they are a time on a CPU at least: 10 ms for each but
 * the first.
 */
const USER_TICKS = 3;

/** One line of /proc/PID/task/TID/stat; the name in it may hold blanks and brackets. Undefined: a thread of the kernel. */
export function parseThread(stat: string): ThreadSample | undefined {
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const [state = ''] = fields;
  const flags = Number(fields[6]);
  if (fields.length < 18 || (flags & PF_KTHREAD) !== 0) return undefined;
  return {
    state,
    ofRing: (flags & PF_IO_WORKER) !== 0,
    userTicks: Number(fields[11]),
    threads: Number(fields[17]),
  };
}

/**
 * Whether a thread has left the system call that it may have been in at the first look, or sleeps in it.
 * @param now undefined: it has ended
 */
export function hasSettled(first: ThreadSample, now: ThreadSample | undefined): boolean {
  return now?.state !== 'R' || now.userTicks >= first.userTicks + USER_TICKS;
}

/** Of which sockets a sleeping thread may have received what it has not counted yet. */
export type Unsettled = 'none' | 'any of its process' | { readonly descriptor: number };

/**
 * @param sample of a thread that sleeps
 * @param syscall of /proc/PID/task/TID/syscall, proc_pid_syscall(5)
 * @param wchan of /proc/PID/task/TID/wchan
 */
export function receivesOf(
  { ofRing }: Pick<ThreadSample, 'ofRing'>,
  syscall: string,
  wchan: string,
  machine: string = arch(),
): Unsettled {
  if (ofRing) return RING_WAIT.test(wchan) ? 'none' : 'any of its process';
  const words = syscall.trim().split(' ');
  if (words[0] === '-1') return 'none'; // in user space
  const receives = RECEIVES[machine];
  // Other machines, and 32-bit programs, have other numbers.
  if (words.length < 9 || receives === undefined || isCompat(words)) return 'any of its process';
  const number = Number(words[0]);
  if (number === ENTER_RING) return RING_WAIT.test(wchan) ? 'none' : 'any of its process';
  if (!receives.has(number)) return 'none';
  const descriptor = Number(BigInt.asIntN(32, BigInt(words[1] ?? 0)));
  const flags = receives.get(number);
  const waitsForAll = flags !== undefined && (Number(words[1 + flags]) & MSG_WAITALL) !== 0;
  return SOCKET_WAITS.has(wchan) && !waitsForAll ? 'none' : { descriptor };
}

/** A stack below 4 GiB, which 32-bit programs have and others hardly. @param words number, arguments, stack, place */
function isCompat(words: readonly string[]): boolean {
  return BigInt(words[7] ?? 0) < 2n ** 32n;
}

/** What is known of the receives that had begun. */
export interface Settled {
  /** All but those below have been counted. False: there are threads that were not seen. */
  all: boolean;
  /** Inodes of sockets of which a receive may not have been counted yet. */
  unsettled: ReadonlySet<number>;
  /** Processes that hold some of the sockets and have a thread that was busy all the time. */
  busy: ReadonlySet<number>;
}

/**
 * Resolves when every thread of every process but this one that may receive from these sockets has settled, or the time
 * is over. Threads of PID namespaces beside this one are not seen.
 * @param inodes of the sockets
 * @param timeoutMs how long to wait for threads that run
 * @throws AbortError when `signal` is aborted
 */
export async function settle(inodes: ReadonlySet<number>, timeoutMs: number, signal?: AbortSignal): Promise<Settled> {
  const deadline = performance.now() + timeoutMs;
  const looks = new Looks(inodes);
  const pending = new Map<string, ThreadSample>();
  let looked = 0;
  for (const pid of numbersIn('/proc')) {
    if (pid === String(process.pid)) continue;
    for (const [thread, sample] of looks.sampleThreads(pid)) {
      if (++looked % BATCH === 0) await setImmediate(undefined, { signal });
      if (hasSettled(sample, sample) && looks.note(thread, sample)) continue;
      if (looks.heldBy(thread).length > 0) pending.set(thread, sample);
    }
  }
  while (pending.size > 0 && performance.now() < deadline) {
    await setTimeout(INTERVAL, undefined, { signal });
    for (const [thread, first] of [...pending]) {
      const now = sampleThread(thread);
      if (!hasSettled(first, now)) continue;
      if (now === undefined || now.state === 'R' || looks.note(thread, now)) pending.delete(thread);
    }
  }
  for (const thread of pending.keys()) {
    looks.spoil(thread);
    looks.busy.add(Number.parseInt(thread));
  }
  return looks;
}

/** What the looks at threads have shown so far. */
class Looks implements Settled {
  all = true;
  readonly unsettled = new Set<number>();
  readonly busy = new Set<number>();
  readonly #inodes: ReadonlySet<number>;

  constructor(inodes: ReadonlySet<number>) {
    this.#inodes = inodes;
  }

  /** A thread that sleeps. @param thread its path below /proc; @returns false if it runs again */
  note(thread: string, sample: ThreadSample): boolean {
    let receives: Unsettled;
    try {
      const [syscall, wchan] = ['syscall', 'wchan'].map((name) => readFileSync(`/proc/${thread}/${name}`, 'utf8'));
      if (syscall?.startsWith('running') === true) return false;
      receives = receivesOf(sample, syscall ?? '', wchan ?? '');
    } catch (error) {
      // What has ended has counted. What may not be looked at may be anywhere.
      receives = isGone(error) ? 'none' : 'any of its process';
    }
    if (receives === 'none') return true;
    if (receives === 'any of its process') {
      this.spoil(thread);
      return true;
    }
    try {
      const inode = inodeOf(readlinkSync(`/proc/${thread}/fd/${String(receives.descriptor)}`));
      if (inode !== undefined) this.unsettled.add(inode);
    } catch {
      // Closed by another thread meanwhile: it may be any socket that others hold, too.
      if (sampleThread(thread) !== undefined) this.all = false;
    }
    return true;
  }

  /** Of this thread anything may be uncounted. */
  spoil(thread: string): void {
    for (const inode of this.heldBy(thread)) this.unsettled.add(inode);
  }

  /** The inodes of the sockets in question of which a thread has a descriptor. */
  heldBy(thread: string): number[] {
    return numbersIn(`/proc/${thread}/fd`).flatMap((descriptor): number[] => {
      try {
        const inode = inodeOf(readlinkSync(`/proc/${thread}/fd/${descriptor}`));
        return inode !== undefined && this.#inodes.has(inode) ? [inode] : [];
      } catch {
        return []; // closed meanwhile
      }
    });
  }

  /** A thread that ends while the list is read can hide another one: the list must be as long as the process says. */
  sampleThreads(pid: string): [string, ThreadSample][] {
    for (let listing = 1; ; listing++) {
      const samples = numbersIn(`/proc/${pid}/task`).flatMap((tid): [string, ThreadSample][] => {
        const thread = `${pid}/task/${tid}`;
        const sample = sampleThread(thread);
        return sample === undefined ? [] : [[thread, sample]];
      });
      const expected = Math.max(0, ...samples.map(([, { threads }]) => threads));
      if (samples.length >= expected) return samples;
      if (listing < LISTINGS) continue;
      this.all = false;
      return samples;
    }
  }
}

/** Of what a descriptor's link in /proc says. */
function inodeOf(link: string): number | undefined {
  const [, inode] = /^socket:\[(\d+)\]$/.exec(link) ?? [];
  return inode === undefined ? undefined : Number(inode);
}

function isGone(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === 'ENOENT' || code === 'ESRCH';
}

function sampleThread(thread: string): ThreadSample | undefined {
  try {
    return parseThread(readFileSync(`/proc/${thread}/stat`, 'utf8'));
  } catch {
    return undefined;
  }
}

function numbersIn(dir: string): string[] {
  try {
    return readdirSync(dir).filter((name) => /^\d+$/.test(name));
  } catch {
    return [];
  }
}
