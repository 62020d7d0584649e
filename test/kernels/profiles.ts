/** Which tests run in a guest: a Node.js process takes seconds to start there. */

const IDENTIFY = 'test/kernel/identify.test.ts';
const INVARIANTS = 'test/kernel/invariants.test.ts';
const UNSUPPORTED = 'test/kernels/unsupported.test.ts';

/**
 * By profile the files of each guest, of which one has one processor: those of --full take two about the same time. Without
 * an option what a kernel could get wrong; `doctor` runs before, and with it the kernel gate. With --quick, beside the other
 * tests of scripts/test, how pairs are found. --full adds the semantics of every system call.
 */
export const PROFILES = {
  quick: [[IDENTIFY, UNSUPPORTED]],
  smoke: [[IDENTIFY, INVARIANTS, UNSUPPORTED]],
  full: [
    [IDENTIFY, INVARIANTS, UNSUPPORTED, 'test/kernel/policy.test.ts'],
    ['test/kernel/pairing.test.ts', 'test/kernel/semantics/semantics.test.ts'],
  ],
} as const;

/** Where the kernel lacks what the datapath needs. */
export const WITHOUT = [UNSUPPORTED];
