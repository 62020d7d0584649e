/**
 * What an application can do with a connection, as small programs whose every
 * answer is written down. The suite runs each on plain TCP and on an accelerated
 * pair and compares the records.
 */
import type { Answer, Connection } from '../support/endpoint.js';

/** Runs commands and keeps their answers. */
export interface Recorder {
  client: (command: string) => Promise<Answer>;
  server: (command: string) => Promise<Answer>;
  /** The point where the pair is promoted when that is to happen in mid-case. */
  midway: () => Promise<void>;
  connection: Connection;
}

export interface Case {
  name: string;
  /** Both ends block. */
  blocking?: boolean;
  run: (r: Recorder) => Promise<void>;
  /**
   * Where TCP and tcp_bpf cannot be made equal: a row of docs/guarantees.md, and
   * the kernel function responsible. Absent: the records must be equal.
   */
  differs?: { row: string; because: string };
}

/** Awaits what was sent, so that both runs look at the same state. */
const arrived = async (r: Recorder, side: 'client' | 'server'): Promise<void> => {
  await r[side]('poll 2 POLLIN 5000');
};

export const CASES: readonly Case[] = [
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
      await arrived(r, 'server');
      await r.server('recvall 2 300');
      await r.server('recv 2 10');
    },
  },
  {
    name: 'MSG_PEEK looks and does not take',
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
    name: 'a receive of no bytes from an empty socket',
    run: async (r) => {
      await r.midway();
      await r.server('recv 2 0');
    },
    differs: { row: '`recv()` of 0 bytes', because: 'tcp_bpf_recvmsg returns before it looks at the queues' },
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
    name: 'half close: data, then end of stream, then the other way',
    run: async (r) => {
      await r.client('send 2 1000');
      await r.midway();
      await r.client('send 2 1000');
      await r.client('shutdown 2 wr');
      await r.server('recvall 2 2000');
      await arrived(r, 'server');
      await r.server('poll 2 POLLIN|POLLRDHUP|POLLHUP 0');
      await r.server('recv 2 10');
      await r.server('recv 2 10');
      await r.server('send 2 700');
      await arrived(r, 'client');
      await r.client('recvall 2 700');
      await r.server('close 2');
      await arrived(r, 'client');
      await r.client('recv 2 10');
      await r.client('poll 2 POLLIN|POLLOUT|POLLRDHUP|POLLHUP 0');
    },
  },
  {
    name: 'EPIPE and SIGPIPE after own shutdown, with and without MSG_NOSIGNAL',
    run: async (r) => {
      await r.client('send 2 10');
      await r.midway();
      await r.client('shutdown 2 wr');
      await r.client('send 2 10 MSG_NOSIGNAL');
      await r.client('send 2 10');
      await r.server('recvall 2 10');
    },
  },
  {
    name: 'own SHUT_RD: what is queued, and what comes later',
    run: async (r) => {
      await r.midway();
      await r.client('send 2 10');
      await arrived(r, 'server');
      await r.server('recv 2 10');
      await r.server('shutdown 2 rd');
      await r.server('recv 2 10');
      await r.server('send 2 20');
      await arrived(r, 'client');
      await r.client('recv 2 20');
    },
  },
  {
    name: 'close with everything read, then sends of the peer',
    run: async (r) => {
      await r.client('send 2 10');
      await r.server('recvall 2 10');
      await r.midway();
      await r.server('close 2');
      await arrived(r, 'client');
      await r.client('recv 2 10');
      await r.client('send 2 10 MSG_NOSIGNAL');
      await r.client('poll 2 POLLIN|POLLOUT|POLLERR|POLLHUP 5000');
      await r.client('poll 2 POLLERR 5000');
      await r.client('send 2 10 MSG_NOSIGNAL');
      await r.client('send 2 10');
      await r.client('recv 2 10');
    },
  },
  {
    name: 'data, then RST (SO_LINGER 0)',
    run: async (r) => {
      await r.client('setsockopt 2 SO_LINGER 0');
      await r.midway();
      await r.client('send 2 100');
      await arrived(r, 'server');
      await r.client('close 2');
      await r.server('poll 2 POLLHUP 5000');
      await r.server('poll 2 POLLIN|POLLOUT|POLLRDHUP|POLLERR|POLLHUP 0');
      await r.server('recv 2 60');
      await r.server('recv 2 60');
      await r.server('recv 2 60');
      await r.server('recv 2 60');
      await r.server('send 2 60 MSG_NOSIGNAL');
    },
  },
  {
    name: 'SO_LINGER above 0 waits for nothing once all is read',
    run: async (r) => {
      await r.client('setsockopt 2 SO_LINGER 2');
      await r.midway();
      await r.client('send 2 100');
      await r.server('recvall 2 100');
      await r.client('close 2');
      await arrived(r, 'server');
      await r.server('recv 2 1');
    },
  },
  {
    name: 'close with unread data resets the peer',
    run: async (r) => {
      await r.midway();
      await r.client('send 2 100');
      await arrived(r, 'server');
      await r.server('close 2');
      await r.client('poll 2 POLLHUP 3000');
      await r.client('recv 2 10');
    },
    differs: {
      row: 'close with unread redirected data',
      because: 'tcp_close looks at sk_receive_queue only (__tcp_close, data_was_unread)',
    },
  },
  {
    name: 'poll() before and after everything',
    run: async (r) => {
      const events = 'poll 2 POLLIN|POLLOUT|POLLRDHUP|POLLHUP|POLLERR|POLLPRI 0';
      await r.server(events);
      await r.client('send 2 10');
      await arrived(r, 'server');
      await r.server(events);
      await r.midway();
      await r.server('recv 2 4');
      await r.server(events);
      await r.server('recv 2 6');
      await r.server(events);
      await r.client(events);
      await r.client('close 2');
      await arrived(r, 'server');
      await r.server(events);
    },
  },
  {
    name: 'epoll, edge-triggered: one edge for each arrival',
    run: async (r) => {
      await r.server('epolladd 2 EPOLLIN|EPOLLET|EPOLLRDHUP');
      await r.server('epollwait 0');
      await r.client('send 2 10');
      await r.server('epollwait 5000');
      await r.server('epollwait 0');
      await r.midway();
      await r.client('send 2 10');
      await r.server('epollwait 5000');
      await r.server('recv 2 5');
      await r.server('epollwait 0');
      await r.server('recv 2 100');
      await r.server('recv 2 100');
      await r.client('shutdown 2 wr');
      await r.server('epollwait 5000');
      await r.server('recv 2 100');
    },
  },
  {
    name: 'epoll, one-shot',
    run: async (r) => {
      await r.server('epolladd 2 EPOLLIN|EPOLLONESHOT');
      await r.midway();
      await r.client('send 2 10');
      await r.server('epollwait 5000');
      await r.client('send 2 10');
      await r.server('epollwait 0');
      await r.server('recvall 2 20');
    },
  },
  {
    name: 'a duplicated descriptor is the same connection',
    run: async (r) => {
      await r.server('dup 2 3');
      await r.client('send 2 100');
      await arrived(r, 'server');
      await r.server('recv 3 50');
      await r.midway();
      await r.server('recv 2 50');
      await r.server('close 2');
      await r.client('send 2 100');
      await r.server('recvall 3 100');
      await r.server('close 3');
      await arrived(r, 'client');
      await r.client('recv 2 10');
    },
  },
  {
    name: 'O_NONBLOCK off and on again',
    run: async (r) => {
      await r.server('recv 2 10');
      await r.midway();
      await r.server('nonblock 2 0');
      const waiting = await r.connection.server.background('waiting', 'recv 2 10');
      await r.connection.server.do('parked waiting');
      await r.client('send 2 10');
      const { returned } = await waiting.answer;
      // Into the record, as part of a command that does no harm.
      await r.client(`ask 2 0 ${String(returned)}`);
      await r.server('nonblock 2 1');
      await r.server('recv 2 10');
    },
  },
  {
    name: 'SO_RCVTIMEO on a blocking socket',
    blocking: true,
    run: async (r) => {
      await r.server('setsockopt 2 SO_RCVTIMEO 50');
      await r.server('recv 2 10');
      await r.midway();
      await r.server('recv 2 10');
      await r.client('send 2 10');
      await r.server('recv 2 10');
    },
  },
  {
    name: 'a full connection: EAGAIN, no POLLOUT, and writable again after reading',
    run: async (r) => {
      await r.midway();
      const filled = await r.connection.client.do('fill 2 8192 256M');
      await r.client('send 2 10');
      await r.client('poll 2 POLLOUT 0');
      await r.connection.server.do(`recvall 2 ${String(filled.bytes)}`);
      await r.client('poll 2 POLLOUT 5000');
      await r.client('send 2 10');
      await r.server('recvall 2 10');
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
    name: 'SO_RCVLOWAT holds poll() back',
    run: async (r) => {
      await r.midway();
      await r.server('setsockopt 2 SO_RCVLOWAT 100');
      await r.client('send 2 50');
      await r.server('poll 2 POLLIN 50');
      await r.client('send 2 50');
      await r.server('poll 2 POLLIN 5000');
      await r.server('recv 2 200');
    },
  },
  {
    name: 'MSG_WAITALL without blocking',
    run: async (r) => {
      await r.midway();
      await r.client('send 2 50');
      await arrived(r, 'server');
      await r.server('recv 2 100 MSG_WAITALL');
      await r.client('send 2 50');
      await arrived(r, 'server');
      await r.server('recv 2 50 MSG_WAITALL');
    },
  },
  {
    name: 'getsockopt and TCP_INFO state',
    run: async (r) => {
      await r.client('getsockopt 2 SO_ERROR');
      await r.client('getsockopt 2 TCP_NODELAY');
      await r.midway();
      await r.client('getsockopt 2 SO_ERROR');
      await r.client('ioctl 2 SIOCATMARK');
    },
  },
  {
    name: 'SIOCOUTQ',
    run: async (r) => {
      await r.midway();
      await r.client('send 2 100');
      await r.server('recvall 2 100');
      await r.client('ioctl 2 SIOCOUTQ');
    },
    differs: {
      row: 'SIOCOUTQ',
      because: 'tcp_ioctl counts unacknowledged TCP bytes, whose ACK no answer carries any more',
    },
  },
  {
    name: 'FIONREAD',
    run: async (r) => {
      await r.midway();
      await r.client('send 2 100');
      await arrived(r, 'server');
      await r.server('ioctl 2 FIONREAD');
      await r.server('recv 2 40');
      await r.server('ioctl 2 FIONREAD');
      await r.server('recv 2 60');
      await r.server('ioctl 2 FIONREAD');
    },
    differs: {
      row: 'FIONREAD',
      because: 'tcp_bpf_ioctl counts the redirected queue only on some releases, tcp_ioctl the other one',
    },
  },
  {
    name: 'urgent data',
    run: async (r) => {
      await r.midway();
      await r.client('send 2 1 MSG_OOB');
      await r.server('poll 2 POLLPRI|POLLIN 2000');
      await r.server('recv 2 1 MSG_OOB');
    },
    differs: { row: 'send(MSG_OOB)', because: 'tcp_bpf_sendmsg does not look at MSG_OOB when it redirects' },
  },
  {
    name: 'MSG_TRUNC throws bytes away',
    run: async (r) => {
      await r.midway();
      await r.client('send 2 100');
      await arrived(r, 'server');
      await r.server('recv 2 40 MSG_TRUNC');
      await r.server('recv 2 60');
    },
    differs: { row: 'MSG_TRUNC', because: '__sk_msg_recvmsg copies whatever the flags say' },
  },
  {
    name: 'splice() from the socket',
    run: async (r) => {
      await r.midway();
      await r.client('send 2 100');
      await arrived(r, 'server');
      await r.server('splice 2 100 MSG_DONTWAIT');
    },
    differs: { row: 'splice()', because: 'tcp_splice_read reads sk_receive_queue only' },
  },
  {
    name: 'MSG_ZEROCOPY completions',
    run: async (r) => {
      await r.client('setsockopt 2 SO_ZEROCOPY 1');
      await r.midway();
      await r.client('send 2 20000 MSG_ZEROCOPY');
      await r.server('recvall 2 20000');
      await r.client('poll 2 POLLERR 1000');
      await r.client('errqueue 2');
    },
  },
];
