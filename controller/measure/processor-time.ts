/** CPU time of processes, from /proc. */
import { readFileSync } from 'node:fs';

/** USER_HZ, the unit of times in /proc, which is 100 on every architecture that this runs on; microseconds. */
const TICK = 10_000;

/**
 * What a process has used, in user and kernel mode, all threads; microseconds.
 * @param program its name as the kernel gave it: another one is another process, such as in another PID namespace
 * @returns undefined if it is not there
 */
export function processorTime(pid: number, program: string): number | undefined {
  try {
    const stat = readFileSync(`/proc/${String(pid)}/stat`, 'utf8');
    const end = stat.lastIndexOf(')');
    if (stat.slice(stat.indexOf('(') + 1, end) !== program) return undefined;
    // proc_pid_stat(5): the state is field 3, utime 14 and stime 15.
    const fields = stat.slice(end + 2).split(' ');
    return (Number(fields[11]) + Number(fields[12])) * TICK;
  } catch {
    return undefined;
  }
}
