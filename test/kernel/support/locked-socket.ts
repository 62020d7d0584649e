/** Threads that sleep in a page fault, by userfaultfd(2): in the middle of send(2) they have the socket locked. */
import { arch } from 'node:os';

import type { Python } from './python.js';

/** Of userfaultfd(2), asm/unistd.h. */
const NUMBER: Readonly<Record<string, number>> = { x64: 323, arm64: 282 };

/** A page at `address` that is not there: `faulted()` returns when a thread waits for it. */
export async function registerFaults(p: Python): Promise<void> {
  await p.run(`
import fcntl, mmap, threading
page = mmap.mmap(-1, mmap.PAGESIZE)
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
faults = libc.syscall(${String(NUMBER[arch()])}, os.O_CLOEXEC)
assert faults >= 0, os.strerror(ctypes.get_errno())
fcntl.ioctl(faults, 0xc018aa3f, struct.pack('QQQ', 0xaa, 0, 0)) # UFFDIO_API
fcntl.ioctl(faults, 0xc020aa00, struct.pack('QQQQ', address, mmap.PAGESIZE, 1, 0)) # UFFDIO_REGISTER, MISSING
def faulted():
    poll = select.poll(); poll.register(faults, select.POLLIN); assert poll.poll(5000)`);
}

/** The page is there from now on. */
export async function resolveFault(p: Python): Promise<void> {
  await p.run(
    "done = fcntl.ioctl(faults, 0xc020aa04, struct.pack('QQQQ', address, mmap.PAGESIZE, 0, 0)) # UFFDIO_ZEROPAGE",
  );
}

/** Locks the socket `name` of the process. Resolves when it is. */
export async function lock(p: Python, name: string): Promise<void> {
  await registerFaults(p);
  await p.run(`
libc.send.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
sender = threading.Thread(target=lambda: libc.send(${name}.fileno(), address, 100, 0), daemon=True)
sender.start()
faulted()`);
}

/** Lets its send, of 100 bytes, go on. */
export async function unlock(p: Python): Promise<void> {
  await resolveFault(p);
  await p.run('sender.join()');
}
