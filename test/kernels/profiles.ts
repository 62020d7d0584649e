/** Which tests run in a guest: a Node.js process takes seconds to start there. */

/** The addon and the datapath itself: what a kernel could get wrong. */
export const SMOKE = [
  'test/addon/load.test.ts',
  'test/addon/map.test.ts',
  'test/addon/program.test.ts',
  'test/kernel/identify.test.ts',
  'test/kernel/invariants.test.ts',
];

/** Added by --full. */
export const FULL = [
  'test/kernel/pairing.test.ts',
  'test/kernel/policy.test.ts',
  'test/kernel/semantics/semantics.test.ts',
];

/** Where the kernel lacks what the datapath needs. */
export const WITHOUT = ['test/addon/host.test.ts', 'test/addon/map.test.ts', 'test/kernels/unsupported.test.ts'];
