/** Which tests run in a guest: a Node.js process takes seconds to start there. */

/** What a kernel could get wrong; `doctor` runs before, and with it the kernel gate. */
export const SMOKE = [
  'test/kernel/identify.test.ts',
  'test/kernel/invariants.test.ts',
  'test/kernels/unsupported.test.ts',
];

/** With --quick, beside the other tests of scripts/test. */
export const QUICK = ['test/kernel/identify.test.ts', 'test/kernels/unsupported.test.ts'];

/** Added by --full. */
export const FULL = [
  'test/kernel/pairing.test.ts',
  'test/kernel/policy.test.ts',
  'test/kernel/semantics/semantics.test.ts',
];

/** Where the kernel lacks what the datapath needs. */
export const WITHOUT = ['test/kernels/unsupported.test.ts'];
