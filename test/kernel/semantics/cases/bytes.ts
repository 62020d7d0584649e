/** Sending and receiving, with every call there is for it. */
import { arrived, type Case } from '../case.js';

export const noUring: NonNullable<Case['needs']> = async ({ client }) => {
  const { unavailable } = await client.run('uring 2 poll 4');
  return typeof unavailable === 'string' ? `io_uring is switched off: ${unavailable}` : undefined;
};

export const BYTES: readonly Case[] = [
  {
    name: 'messages are bytes: short, long and merged receives',
    run: async (r) => {
      await r.client('send 2 100');
      await arrived(r, 'server');
      await r.server('recv 2 30');
      await r.server('recv 2 1000');
      await r.server('recv 2 10');
      await r.midway();
      await r.client('send 2 100');
      await r.client('send 2 200');
      await r.settle();
      await r.server('recv 2 250');
      await r.server('recv 2 1000');
      await r.server('recv 2 10');
    },
  },
  {
    name: 'many small messages, one large receive',
    run: async (r) => {
      await r.midway();
      for (let i = 0; i < 10; i++) await r.client('send 2 10');
      await r.settle();
      await r.server('recv 2 1000');
      await r.server('recv 2 1000');
    },
  },
  {
    name: 'both ends send at once',
    run: async (r) => {
      await r.client('send 2 300');
      await r.server('send 2 400');
      await r.midway();
      await r.client('recvall 2 400');
      await r.server('recvall 2 300');
      await r.client('send 2 300');
      await r.server('send 2 400');
      await r.settle();
      await r.client('recv 2 1000');
      await r.server('recv 2 1000');
    },
  },
  {
    name: 'MSG_PEEK looks and does not take',
    prevented: { refusal: 'reader' },
    run: async (r) => {
      await r.client('send 2 500');
      await arrived(r, 'server');
      for (const size of [10, 500, 1000]) await r.server(`recv 2 ${String(size)} MSG_PEEK`);
      await r.midway();
      await r.server('recv 2 200');
      await r.server('recv 2 1000 MSG_PEEK');
      await r.server('recv 2 1000');
      await r.server('recv 2 1 MSG_PEEK');
    },
  },
  {
    name: 'zero-length sends and receives',
    run: async (r) => {
      await r.client('send 2 0');
      await r.midway();
      await r.client('send 2 10');
      await arrived(r, 'server');
      await r.server('recv 2 0');
      await r.server('recv 2 10');
    },
  },
  {
    name: 'zero-length reads, writes and vectors',
    run: async (r) => {
      for (const end of [r.client, r.server]) {
        await end('write 2 0');
        await end('read 2 0');
        await end('writev 2 0 10');
        await end('readv 2 3 0');
        await end('sendmmsg 2 2 0');
      }
      await r.midway();
      await r.client('write 2 10');
      await arrived(r, 'server');
      await r.server('read 2 0');
      await r.server('readv 2 2 0');
      await r.server('recvmmsg 2 1 0');
      await r.client('write 2 0');
      await r.server('read 2 20');
      await r.server('read 2 20');
    },
  },
  {
    name: 'read() and write()',
    run: async (r) => {
      await r.client('write 2 100');
      await arrived(r, 'server');
      await r.server('read 2 60');
      await r.midway();
      await r.client('write 2 100');
      await r.settle();
      await r.server('read 2 200');
      await r.server('read 2 200');
      await r.client('shutdown 2 wr');
      await r.client('write 2 100');
    },
  },
  {
    name: 'readv() and writev() with many segments',
    run: async (r) => {
      await r.client('writev 2 100 7');
      await arrived(r, 'server');
      await r.server('readv 2 50 10');
      await r.server('readv 2 1000 1');
      await r.midway();
      await r.client('writev 2 1024 3');
      await r.settle();
      await r.server('readv 2 1024 2');
      await r.server('readv 2 3 1000');
      await r.client('writev 2 64 2048');
      await r.server('recvall 2 131072');
    },
  },
  {
    name: 'sendmmsg() and recvmmsg()',
    run: async (r) => {
      await r.client('sendmmsg 2 5 100');
      await r.settle();
      await r.server('recvmmsg 2 3 100');
      await r.server('recvmmsg 2 4 100');
      await r.midway();
      await r.client('sendmmsg 2 8 50 MSG_NOSIGNAL');
      await r.settle();
      await r.server('recvmmsg 2 3 120');
      await r.server('recvmmsg 2 8 100');
      await r.server('recvmmsg 2 8 100 MSG_DONTWAIT');
    },
  },
  {
    name: 'sendmmsg() after own shutdown',
    run: async (r) => {
      await r.midway();
      await r.client('sendmmsg 2 3 100');
      await r.client('shutdown 2 wr');
      await r.client('sendmmsg 2 3 100');
      await r.server('recvall 2 300');
      await r.server('recv 2 1');
    },
  },
  {
    name: 'messages above the 557,056 bytes of one verdict',
    run: async (r) => {
      for (const size of ['600K', '3M']) {
        const receiving = await r.connection.server.background('all', `recvall 2 ${size}`);
        await r.client(`sendall 2 ${size} chunk=${size}`);
        await receiving.answer;
        await r.midway();
      }
      await r.server('recv 2 1');
    },
  },
  {
    name: 'one blocking send of 3 MiB',
    blocking: true,
    run: async (r) => {
      for (const size of ['3M', '4M']) {
        const sending = await r.start('client', 'sending', `send 2 ${size}`);
        await r.server(`recvall 2 ${size}`);
        await sending.finish();
        await r.midway();
      }
    },
  },
  {
    name: 'MSG_MORE and TCP_CORK: every byte arrives once flushed',
    run: async (r) => {
      await r.client('send 2 10 MSG_MORE');
      await r.client('send 2 10');
      await r.server('recvall 2 20');
      await r.midway();
      await r.client('setsockopt 2 TCP_CORK 1');
      await r.client('send 2 10');
      await r.client('send 2 10');
      await r.client('setsockopt 2 TCP_CORK 0');
      await r.server('recvall 2 20');
    },
  },
  {
    name: 'Nagle: every byte arrives',
    run: async (r) => {
      await r.client('setsockopt 2 TCP_NODELAY 0');
      for (let i = 0; i < 4; i++) await r.client('send 2 10');
      await r.server('recvall 2 40');
      await r.midway();
      for (let i = 0; i < 4; i++) await r.client('send 2 10');
      await r.server('recvall 2 40');
    },
  },
  {
    name: 'sendfile() to the socket',
    run: async (r) => {
      await r.client('sendfile 2 100000');
      await r.server('recvall 2 100000');
      await r.midway();
      await r.client('sendfile 2 200000');
      await r.server('recvall 2 200000');
    },
  },
  {
    name: 'splice() to the socket',
    run: async (r) => {
      await r.client('splicein 2 1000');
      await r.server('recvall 2 1000');
      await r.midway();
      await r.client('splicein 2 40000');
      await r.server('recvall 2 40000');
      await r.client('shutdown 2 wr');
      await r.client('splicein 2 10');
      await r.server('recv 2 10');
    },
  },
  {
    name: 'sendfile() after own shutdown',
    run: async (r) => {
      await r.midway();
      await r.client('sendfile 2 1000');
      await r.client('shutdown 2 wr');
      await r.client('sendfile 2 1000');
      await r.server('recvall 2 1000');
    },
  },
  {
    name: 'io_uring: send, receive, poll',
    needs: noUring,
    run: async (r) => {
      await r.server('uring 2 recv 100 MSG_DONTWAIT');
      await r.client('uring 2 send 100');
      await r.server('uring 2 poll 1');
      await r.server('uring 2 recv 60 MSG_DONTWAIT');
      await r.midway();
      await r.server('uring 2 recv 60 MSG_DONTWAIT');
      await r.client('uring 2 send 100000');
      await r.server('recvall 2 100000');
      await r.client('uring 2 send 0');
      await r.client('shutdown 2 wr');
      await r.client('uring 2 send 10');
      await r.settle();
      await r.server('uring 2 recv 10');
    },
  },
  {
    name: 'io_uring: a receive that waits for data, then for the end',
    needs: noUring,
    run: async (r) => {
      await r.midway();
      for (const end of ['client', 'server'] as const) await r[end]('nonblock 2 0');
      const first = await r.park('server', 'first', 'uring 2 recv 100');
      await r.client('send 2 10');
      await first.finish();
      const second = await r.park('server', 'second', 'uring 2 recv 100');
      await r.client('shutdown 2 wr');
      await second.finish();
    },
  },
  {
    name: 'io_uring: poll that waits',
    needs: noUring,
    run: async (r) => {
      await r.midway();
      const poll = await r.park('server', 'poll', 'uring 2 poll 1');
      await r.client('send 2 10');
      await poll.finish();
      await r.server('recv 2 10');
    },
  },
];
