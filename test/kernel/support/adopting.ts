/** What a round of adoption needs. */
import { dirname, join } from 'node:path';

import type { Borrower } from '../../../controller/adopt/borrow.js';
import { makeBorrower } from '../../../controller/adopt/program.js';
import type { Descriptor } from '../../../controller/explain/host.js';
import { BORROW_PROGRAM, OBJECT_FILE } from './sandbox.js';

export const ADOPT_OBJECT = join(dirname(OBJECT_FILE), 'adopt.bpf.o');

/** @param onStuck by default no socket may be locked */
export function borrower(onStuck = complain): Borrower {
  return makeBorrower(BORROW_PROGRAM, onStuck);
}

function complain({ pid, inode }: Descriptor): void {
  throw new Error(`socket ${String(inode)} of process ${String(pid)} is locked`);
}
