/** Waking sockets outside of a controller, and the processes that do. */
import { readFileSync, readlinkSync } from 'node:fs';

import { Waker } from '../../../controller/daemon/waker.js';
import type { SocketHolder } from '../../../controller/datapath/pair-table.js';
import { BORROW_PROGRAM } from './sandbox.js';

/** Returns an errno number or 0. */
export async function wakeOnce(socket: SocketHolder): Promise<number> {
  let waker: Waker | undefined;
  try {
    return await new Promise((resolve, reject) => {
      waker = new Waker({
        program: BORROW_PROGRAM,
        onAnswer: (_, error) => {
          resolve(error);
        },
        onStuck: () => {
          reject(new Error('the socket is locked'));
        },
        onError: reject,
      });
      waker.wake({ ...socket, pair: '' });
    });
  } finally {
    await waker?.close();
  }
}

/** Children that borrow sockets for a process, and live. */
export function borrowers(parent: number): number[] {
  const children = readFileSync(`/proc/${String(parent)}/task/${String(parent)}/children`, 'utf8');
  return children.split(' ').filter(Boolean).map(Number).filter(isThere);
}

export function isThere(pid: number): boolean {
  try {
    return readlinkSync(`/proc/${String(pid)}/exe`) === BORROW_PROGRAM;
  } catch {
    return false; // it has ended
  }
}

/** Whether nothing can end it. */
export function sleeps(pid: number): boolean {
  return readFileSync(`/proc/${String(pid)}/stat`, 'utf8').includes(') D ');
}
