/**
 * Waiting until what threads received before has been counted.
 *
 * A receive is counted after the socket's lock was let go (call_trace_sock_recv_length in net/socket.c), and nothing
 * sleeps between. So a thread that was seen asleep, or has run in user space since, has counted what it received
 * before; but for one that waits in the middle of a receive with MSG_WAITALL, for the rest of what it has begun with.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { arch } from 'node:os';
import { setImmediate, setTimeout } from 'node:timers/promises';

/** proc_pid_stat(5), as far as it is of interest here. */
export interface ThreadSample {
  /** R, S, D, … */
  readonly state: string;
  /** Ticks in user space. */
  readonly userTicks: number;
  /** Threads of the process. */
  readonly threads: number;
}

/** Where a system call has the flags of a receive, by its number (asm/unistd.h). */
const RECEIVES: Readonly<Record<string, ReadonlyMap<number, number>>> = {
  // recvfrom, recvmsg, recvmmsg
  x64: new Map([
    [45, 3],
    [47, 2],
    [299, 3],
  ]),
  arm64: new Map([
    [207, 3],
    [212, 2],
    [243, 3],
  ]),
};
const MSG_WAITALL = 0x100;

/** How often a thread that runs is looked at again, milliseconds. */
const INTERVAL = 5;
/** So many threads are looked at before others get their turn. */
const BATCH = 256;
/** Lists of a process's threads that are shorter than it says are read again so often. */
const LISTINGS = 5;

/** One line of /proc/PID/task/TID/stat; the name in it may hold blanks and brackets. */
export function parseThread(stat: string): ThreadSample | undefined {
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const [state = ''] = fields;
  if (fields.length < 18) return undefined;
  return { state, userTicks: Number(fields[11]), threads: Number(fields[17]) };
}

/**
 * Whether a thread has left the system call that it may have been in at the first look.
 * @param now undefined: it has ended
 */
export function hasSettled(first: ThreadSample, now: ThreadSample | undefined): boolean {
  return now?.state !== 'R' || now.userTicks !== first.userTicks;
}

/**
 * The descriptor from which a thread receives with MSG_WAITALL, if that is what it sleeps in.
 * @param syscall of /proc/PID/task/TID/syscall, proc_pid_syscall(5)
 */
export function waitingForAll(syscall: string, machine: string = arch()): number | undefined {
  const [number, ...registers] = syscall.trim().split(' ').map(Number);
  const flags = RECEIVES[machine]?.get(number ?? -1);
  if (flags === undefined || ((registers[flags] ?? 0) & MSG_WAITALL) === 0) return undefined;
  return registers[0];
}

/** What is known of the receives that had begun. */
export interface Settled {
  /** All but those below have been counted. False: some threads were never seen to leave theirs. */
  all: boolean;
  /** Inodes of sockets of which a receive may have taken a part that is not counted yet. */
  partial: ReadonlySet<number>;
}

/**
 * Resolves when every thread of every process but this one has settled, or the time is over. Threads of PID
 * namespaces beside this one are not seen.
 * @param timeoutMs how long to wait for them
 */
export async function settle(timeoutMs: number): Promise<Settled> {
  const deadline = Date.now() + timeoutMs;
  const partial = new Set<number>();
  const pending = new Map<string, ThreadSample>();
  let looked = 0;
  for (const pid of numbersIn('/proc')) {
    if (pid === String(process.pid)) continue;
    for (const [thread, sample] of sampleThreads(pid)) {
      if (hasSettled(sample, sample)) noteWaiting(thread, partial);
      else pending.set(thread, sample);
      if (++looked % BATCH === 0) await setImmediate();
    }
  }
  while (pending.size > 0) {
    if (Date.now() >= deadline) return { all: false, partial };
    await setTimeout(INTERVAL);
    for (const [thread, first] of [...pending]) {
      if (!hasSettled(first, sampleThread(thread))) continue;
      pending.delete(thread);
      noteWaiting(thread, partial);
    }
  }
  return { all: true, partial };
}

function noteWaiting(thread: string, partial: Set<number>): void {
  try {
    const descriptor = waitingForAll(readFileSync(`/proc/${thread}/syscall`, 'utf8'));
    if (descriptor === undefined) return;
    partial.add(Number(/\d+/.exec(readlinkSync(`/proc/${thread}/fd/${String(descriptor)}`))?.[0]));
  } catch {
    // It has ended, or is a thread of the kernel.
  }
}

/** A thread that ends while the list is read can hide another one: the list must be as long as the process says. */
function sampleThreads(pid: string): [string, ThreadSample][] {
  for (let listing = 1; ; listing++) {
    const samples = numbersIn(`/proc/${pid}/task`).flatMap((tid): [string, ThreadSample][] => {
      const thread = `${pid}/task/${tid}`;
      const sample = sampleThread(thread);
      return sample === undefined ? [] : [[thread, sample]];
    });
    const expected = Math.max(0, ...samples.map(([, { threads }]) => threads));
    if (samples.length >= expected || listing === LISTINGS) return samples;
  }
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
