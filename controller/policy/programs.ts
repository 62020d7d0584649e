/**
 * Programs that must not be accelerated, as data, and how process names are compared.
 */

/** Why a program is unsafe: it moves bytes with splice(2), or trusts FIONREAD to find the last byte. */
export type Hazard = 'splice' | 'fionread';

/** What is assumed of a kernel that nothing is known of. */
export const allHazards: ReadonlySet<Hazard> = new Set(['splice', 'fionread']);

/** A program that this build does not accelerate on a kernel with its hazard; the kernel gate tells which those are. */
export interface UnsafeProgram {
  readonly program: string;
  readonly hazard: Hazard;
  /** One sentence for `explain`. */
  readonly reason: string;
}

export const builtInPrograms: readonly UnsafeProgram[] = [
  {
    program: 'haproxy',
    hazard: 'splice',
    reason: 'haproxy moves payload with splice, which never sees redirected bytes.',
  },
  {
    program: 'docker-proxy',
    hazard: 'splice',
    reason: "docker-proxy copies with Go's io.Copy, which uses splice and never sees redirected bytes.",
  },
  {
    program: 'systemd-socket-proxyd',
    hazard: 'splice',
    reason: 'systemd-socket-proxyd moves payload with splice, which never sees redirected bytes.',
  },
  {
    program: 'nginx',
    hazard: 'fionread',
    reason:
      'nginx asks FIONREAD how much is left, and this kernel leaves out the bytes of one of the two queues, so nginx can miss an event.',
  },
];

/** TASK_COMM_LEN without its terminating NUL. */
export const commBytes = 15;

/** The name the kernel keeps for a program: its first 15 bytes. */
export function comm(program: string): string {
  return Buffer.from(program).subarray(0, commBytes).toString();
}
