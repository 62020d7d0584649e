/** What tcp_bpf does otherwise than TCP, each with a row in docs/guarantees.md. */
import { arrived, type Case, NOT_COMPLETED, nothingHappens, type Recorder } from '../case.js';
import { noUring } from './bytes.js';

const LEAVES = 'the first `recv(MSG_WAITALL)`';
const BLOCKED = 'blocking `recv()` and a signal';
const BOUNDARY = 'a receive that ends where the redirected queue ends';

const RESET = '`send()` after a reset while redirected data waits';

/** TCP reports the reset once. */
const AFTER_RESET = {
  'server write 2 20': [/EPIPE.*sigpipe/, /ECONNRESET/],
  'server write 2 10': [/EPIPE.*sigpipe/, /ECONNRESET/],
  'server send 2 10 MSG_NOSIGNAL': [/EPIPE/, /ECONNRESET/],
  'server recv 2 10': [/"returned":0/, /ECONNRESET/],
} as const;

/** A receive of all that is there, of two messages of which the second went over TCP. */
const short = (size: number): readonly [RegExp, RegExp] => [
  new RegExp(`"returned":${String(2 * size)},`),
  new RegExp(`"returned":${String(size)},`),
];

/** Less than 500: what a fence or a message to keep the way open carried, and what was acknowledged late. */
const LESS = /^([0-4]?\d)?\d$/;

/** How far a counter of TCP_INFO moved while the client sent so much. */
async function counted(r: Recorder, counter: string): Promise<void> {
  const read = async (): Promise<number> => Number((await r.connection.client.do('state 2'))[counter]);
  const before = await read();
  for (let i = 0; i < 5; i++) {
    await r.client('send 2 100');
    await r.server('recvall 2 100');
  }
  await r.settle();
  r.note(counter, (await read()) - before);
}

/** The kernel begins to stamp packets some time after the first socket asked for it. */
async function untilStamped(r: Recorder): Promise<void> {
  const { client, server, port } = r.connection;
  await client.do(`connect 5 127.0.0.1 ${String(port)}`);
  await server.do('accept 1 5');
  await server.do('setsockopt 5 SO_TIMESTAMPNS 1');
  for (let stamped: unknown; stamped !== true;) {
    await client.do('send 5 1');
    stamped = (await server.do('recv 5 1'))['timestamp'];
  }
}

export const DIFFERENT: readonly Case[] = [
  {
    name: 'a receive of no bytes from an empty socket',
    silent: true,
    run: async (r) => {
      await r.midway();
      await r.server('recv 2 0');
    },
    differs: { row: '`recv()` of 0 bytes', answers: { 'server recv 2 0': [/EAGAIN/, /"returned":0/] } },
  },
  {
    name: 'close with unread data resets the peer',
    run: async (r) => {
      await r.midway();
      await r.client('send 2 100');
      await arrived(r, 'server');
      await r.server('close 2');
      await r.client('poll 2 POLLRDHUP|POLLHUP 5000');
      await r.client('recv 2 10');
    },
    differs: {
      row: 'close with unread redirected data',
      answers: {
        'client poll 2 POLLRDHUP|POLLHUP 5000': [/"POLLHUP","POLLERR"/, /\["POLLRDHUP"\]/],
        'client recv 2 10': [/ECONNRESET/, /"returned":0/],
      },
    },
  },
  {
    name: 'SIOCOUTQ while the peer does not read',
    run: async (r) => {
      await r.server('setsockopt 2 SO_RCVBUF 2304');
      await r.midway();
      await r.settle();
      // More than the receiver's window, less than the backlog limit.
      await r.connection.client.do('fill 2 8192 400K');
      const { value } = await r.connection.client.do('ioctl 2 SIOCOUTQ');
      r.note('SIOCOUTQ is above 0', Number(value) > 0);
    },
    differs: { row: '`SIOCOUTQ`, `TCP_INFO` byte counts', answers: { 'SIOCOUTQ is above 0': [/true/, /false/] } },
  },
  {
    name: 'TCP_INFO: bytes sent',
    run: async (r) => {
      await r.midway();
      await counted(r, 'bytesSent');
    },
    differs: { row: '`SIOCOUTQ`, `TCP_INFO` byte counts', answers: { bytesSent: [/^500$/, LESS] } },
  },
  {
    name: 'TCP_INFO: bytes acknowledged',
    run: async (r) => {
      await r.midway();
      await counted(r, 'bytesAcked');
    },
    differs: { row: '`SIOCOUTQ`, `TCP_INFO` byte counts', answers: { bytesAcked: [/^500$/, LESS] } },
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
    // With the redirected queue alone, what differs is bytes in the other one: none here on kernels that count it.
    differs: { row: '`FIONREAD`', answers: { 'server ioctl 2 FIONREAD': [/"value":\d+/, /"value":0/] } },
  },
  {
    name: 'FIONREAD of bytes that came over TCP',
    prevented: { passes: 'zerocopy' },
    run: async (r) => {
      await r.midway();
      // The simplest way to a message that is not redirected.
      await r.client('setsockopt 2 SO_ZEROCOPY 1');
      await r.client('send 2 100');
      await arrived(r, 'server');
      await r.server('ioctl 2 FIONREAD');
      await r.server('recv 2 100');
    },
    differs: { row: '`FIONREAD`', answers: { 'server ioctl 2 FIONREAD': [/"value":100/, /"value":0/] } },
  },
  {
    name: 'urgent data',
    run: async (r) => {
      await r.server('owner 2');
      await r.midway();
      await r.connection.server.do('signals');
      await r.client('send 2 1 MSG_OOB');
      await r.server('poll 2 POLLPRI|POLLIN 5000');
      r.note('SIGURG', (await r.connection.server.do('signals'))['urgent']);
      await r.server('ioctl 2 SIOCATMARK');
      await r.server('recv 2 1 MSG_OOB');
    },
    differs: {
      row: '`send(MSG_OOB)`',
      answers: {
        'server poll 2 POLLPRI|POLLIN 5000': [/POLLPRI/, /\["POLLIN"\]/],
        SIGURG: [/^1$/, /^0$/],
        'server ioctl 2 SIOCATMARK': [/"value":1/, /"value":0/],
        // Redirected inline, it is the stream's next byte, taken by the flag that asks for another one.
        'server recv 2 1 MSG_OOB': [/"flags":\["MSG_OOB"\]/, /"flags":\[\]|EINVAL/],
      },
    },
  },
  {
    name: 'urgent data before promotion',
    prevented: { refusal: 'reader' },
    run: async (r) => {
      await r.connection.client.do('verify 2 0');
      await r.connection.server.do('verify 2 0');
      await r.client('send 2 1 MSG_OOB');
      await r.server('poll 2 POLLPRI|POLLIN 5000');
      await r.server('recv 2 1 MSG_OOB');
      // The byte is no part of the stream.
      await r.connection.server.do('offset 2 received=1');
      await r.midway();
      await r.client('send 2 1');
      await arrived(r, 'server');
      await r.server('recv 2 1');
    },
    differs: {
      row: '`send(MSG_OOB)`',
      answers: {
        'server poll 2 POLLPRI|POLLIN 5000': [/POLLPRI/, /\["POLLIN"\]/],
        'server recv 2 1 MSG_OOB': [/"flags":\["MSG_OOB"\]/, /"flags":\[\]|EINVAL/],
      },
    },
  },
  {
    name: 'MSG_TRUNC throws bytes away, the second time at the latest',
    prevented: { refusal: 'reader', demotion: 'reader' },
    run: async (r) => {
      await r.client('send 2 100');
      await arrived(r, 'server');
      await r.server('recv 2 100 MSG_TRUNC');
      await r.midway();
      await r.client('send 2 70');
      await arrived(r, 'server');
      await r.server('recv 2 70 MSG_TRUNC');
    },
    differs: { row: LEAVES, answers: { 'server recv 2 100 MSG_TRUNC': [/"copied":false/, /"copied":true/] } },
  },
  {
    name: 'MSG_WAITALL without blocking',
    prevented: { refusal: 'reader', demotion: 'reader' },
    run: async (r) => {
      await r.client('send 2 50');
      await arrived(r, 'server');
      await r.server('recv 2 100 MSG_WAITALL');
      await r.midway();
      await r.client('send 2 50');
      await arrived(r, 'server');
      await r.server('recv 2 50 MSG_WAITALL');
    },
  },
  {
    name: 'MSG_WAITALL that blocks, the second time at the latest',
    blocking: true,
    prevented: { refusal: 'reader', demotion: 'reader' },
    run: async (r) => {
      for (const tag of ['first', 'second']) {
        const waiting = await r.park('server', tag, `recv 2 ${tag === 'first' ? '100' : '80'} MSG_WAITALL`);
        await r.client('send 2 40');
        await nothingHappens(r, 'client');
        await r.client('send 2 40');
        // What a short receive left.
        if (tag === 'first') await r.client('send 2 20');
        const { returned = 0 } = await waiting.finish();
        if (tag === 'first' && returned < 100) await r.connection.server.do(`recvall 2 ${String(100 - returned)}`);
        if (tag === 'first') await r.midway();
      }
    },
    differs: {
      row: LEAVES,
      answers: { 'server recv 2 100 MSG_WAITALL in a thread': [/"returned":100,/, /"returned":40,/] },
    },
  },
  {
    name: 'a signal interrupts a blocked receive',
    blocking: true,
    run: async (r) => {
      await r.server('sigaction SIGUSR1 interrupt');
      await r.midway();
      await r.client('send 2 10');
      await r.server('recv 2 10');
      const waiting = await r.park('server', 'waiting', 'recv 2 10');
      await r.server('signal waiting SIGUSR1');
      await waiting.finish();
    },
    differs: { row: BLOCKED, answers: { 'server recv 2 10 in a thread': [/EINTR/, /EAGAIN/] } },
  },
  {
    name: 'a signal with SA_RESTART lets a blocked receive go on',
    blocking: true,
    run: async (r) => {
      await r.server('sigaction SIGUSR1 restart');
      await r.midway();
      await r.client('send 2 10');
      await r.server('recv 2 10');
      const waiting = await r.park('server', 'waiting', 'recv 2 10');
      await r.server('signal waiting SIGUSR1');
      await nothingHappens(r, 'server');
      await r.client('send 2 10');
      await waiting.finish();
    },
    differs: { row: BLOCKED, answers: { 'server recv 2 10 in a thread': [/"returned":10,/, /EAGAIN/] } },
  },
  {
    name: 'SIGSTOP and SIGCONT during a blocked receive',
    blocking: true,
    run: async (r) => {
      await r.midway();
      await r.client('send 2 10');
      await r.server('recv 2 10');
      const waiting = await r.park('server', 'waiting', 'recv 2 10');
      const { child } = r.connection.server;
      child.signal('SIGSTOP');
      await nothingHappens(r, 'client');
      child.signal('SIGCONT');
      await nothingHappens(r, 'server');
      await r.client('send 2 10');
      await waiting.finish();
    },
    differs: { row: BLOCKED, answers: { 'server recv 2 10 in a thread': [/"returned":10,/, /EAGAIN/] } },
  },
  {
    name: 'a reset during a blocked receive',
    blocking: true,
    run: async (r) => {
      await r.midway();
      await r.client('send 2 10');
      await r.server('recv 2 10');
      const waiting = await r.park('server', 'waiting', 'recv 2 10');
      await r.client('setsockopt 2 SO_LINGER 0');
      await r.client('close 2');
      await waiting.finish();
      await r.server('recv 2 10');
      await r.server('recv 2 10');
    },
    differs: {
      row: BLOCKED,
      answers: {
        'server recv 2 10 in a thread': [/ECONNRESET/, /EAGAIN/],
        'server recv 2 10': [/"returned":0/, /ECONNRESET/],
      },
    },
  },
  {
    name: 'own SHUT_RD during a blocked receive',
    blocking: true,
    silent: true,
    run: async (r) => {
      await r.midway();
      const waiting = await r.park('server', 'waiting', 'recv 2 100');
      await r.server('shutdown 2 rd');
      await waiting.finish();
      await r.server('recv 2 100');
    },
    differs: { row: BLOCKED, answers: { 'server recv 2 100 in a thread': [/"returned":0/, /EAGAIN/] } },
  },
  {
    name: 'sends after a reset that no receive has reported',
    run: async (r) => {
      await r.midway();
      await r.server('send 2 10');
      await r.client('recvall 2 10');
      await r.client('setsockopt 2 SO_LINGER 0');
      await r.client('close 2');
      await r.server('poll 2 POLLHUP 5000');
      await r.server('send 2 10');
      await r.server('write 2 10');
      await r.server('send 2 10 MSG_NOSIGNAL');
      await r.server('recv 2 10');
      await r.server('write 2 20');
    },
  },
  {
    name: 'sends after a reset, with data that waits',
    run: async (r) => {
      await r.midway();
      await r.server('send 2 10');
      await r.client('recvall 2 10');
      // The first may be the fence.
      for (let i = 0; i < 2; i++) await r.client('send 2 10');
      await arrived(r, 'server');
      await r.client('setsockopt 2 SO_LINGER 0');
      await r.client('close 2');
      await r.server('poll 2 POLLHUP 5000');
      await r.server('send 2 10');
      await r.server('write 2 10');
      await r.server('send 2 10 MSG_NOSIGNAL');
      await r.server('recv 2 10');
      await r.server('write 2 20');
    },
    differs: { row: RESET, answers: AFTER_RESET },
  },
  {
    name: 'a blocked receive while another thread takes the data',
    blocking: true,
    run: async (r) => {
      await r.midway();
      const readers = [await r.park('server', 'one', 'recv 2 10'), await r.park('server', 'two', 'recv 2 10')];
      await r.client('send 2 10');
      await Promise.race(readers.map(({ answer }) => answer));
      await nothingHappens(r, 'server');
      await r.client('send 2 10');
      const answers = await Promise.all(readers.map(({ answer }) => answer));
      r.note('both receives', answers.map(({ returned, errno }) => String(errno ?? returned)).sort());
    },
    differs: {
      row: BLOCKED,
      answers: { 'both receives': [/\["10","10"\]/, /\["10","EAGAIN"\]/], 'server poll 2 POLLIN 30': [/./, /./] },
    },
  },
  {
    name: 'splice() from the socket, then at its end',
    run: async (r) => {
      await r.midway();
      await r.client('send 2 100');
      await arrived(r, 'server');
      await r.server('splice 2 60 MSG_DONTWAIT');
      await r.client('shutdown 2 wr');
      await r.settle();
      await r.server('splice 2 100 MSG_DONTWAIT');
    },
    differs: {
      row: '`splice()` or `TCP_ZEROCOPY_RECEIVE`',
      answers: {
        'server splice 2 60 MSG_DONTWAIT': [/"returned":60/, /EAGAIN/],
        'server splice 2 100 MSG_DONTWAIT': [/"returned":40/, /"returned":0/],
      },
    },
  },
  {
    name: 'splice() from the socket before promotion',
    prevented: { refusal: 'accounting' },
    run: async (r) => {
      await r.client('send 2 100');
      await arrived(r, 'server');
      await r.server('splice 2 100 MSG_DONTWAIT');
      await r.midway();
      await r.client('send 2 100');
      await arrived(r, 'server');
      await r.server('splice 2 100 MSG_DONTWAIT');
    },
    differs: {
      row: '`splice()` or `TCP_ZEROCOPY_RECEIVE`',
      answers: { 'server splice 2 100 MSG_DONTWAIT': [/"returned":100/, /EAGAIN/] },
    },
  },
  {
    name: 'TCP_ZEROCOPY_RECEIVE',
    run: async (r) => {
      await r.midway();
      await r.client('send 2 5000');
      await arrived(r, 'server');
      await r.server('zcrecv 2 8192');
    },
    differs: {
      row: '`splice()` or `TCP_ZEROCOPY_RECEIVE`',
      answers: { 'server zcrecv 2 8192': [/"(hint|copied)":5000/, /"mapped":0,"copied":0,"hint":0/] },
    },
  },
  {
    name: 'SO_PEEK_OFF',
    run: async (r) => {
      await r.server('setsockopt 2 SO_PEEK_OFF 0');
      await r.midway();
      await r.client('send 2 100');
      await arrived(r, 'server');
      // With the offset the second does not begin where the stream is.
      await r.connection.server.do('verify 2 0');
      await r.server('recv 2 40 MSG_PEEK');
      await r.server('getsockopt 2 SO_PEEK_OFF');
      await r.server('recv 2 80 MSG_PEEK');
      await r.connection.server.do('verify 2 1');
      await r.server('recv 2 100');
    },
    differs: {
      row: '`MSG_PEEK`, `SO_PEEK_OFF`',
      answers: {
        'server getsockopt 2 SO_PEEK_OFF': [/"value":40/, /"value":0/],
        'server recv 2 80 MSG_PEEK': [/"returned":60,/, /"returned":80,/],
      },
    },
  },
  {
    name: 'MSG_PEEK of redirected bytes with TCP bytes behind them',
    run: async (r) => {
      await r.midway();
      await r.client('send 2 100');
      await arrived(r, 'server');
      await r.client('setsockopt 2 SO_ZEROCOPY 1');
      await r.client('send 2 100');
      await r.settle();
      await r.server('recv 2 1000 MSG_PEEK');
      await r.server('recvall 2 200');
    },
    differs: { row: '`MSG_PEEK`, `SO_PEEK_OFF`', answers: { 'server recv 2 1000 MSG_PEEK': short(100) } },
  },
  {
    name: 'a receive across redirected and TCP bytes, after a half close',
    run: async (r) => {
      await r.midway();
      await r.client('send 2 100');
      await arrived(r, 'server');
      await r.server('shutdown 2 wr');
      await r.settle();
      await r.client('send 2 100');
      await r.settle();
      await r.server('recv 2 1000');
      await r.connection.server.run('recv 2 1000');
      await r.server('recv 2 1000');
    },
    differs: { row: BOUNDARY, answers: { 'server recv 2 1000': short(100) } },
  },
  {
    name: 'a receive across redirected and TCP bytes, after the backlog limit',
    run: async (r) => {
      await r.midway();
      const { bytes = 0 } = await r.client('sendall 2 11000 chunk=10');
      await r.settle();
      const { returned = 0 } = await r.connection.server.do('recv 2 20000');
      r.note('one receive took all', returned === bytes);
      await r.connection.server.do(`recvall 2 ${String(bytes - returned)}`);
    },
    differs: { row: BOUNDARY, answers: { 'one receive took all': [/true/, /false/] } },
  },
  {
    name: 'TCP_INQ and receive timestamps',
    run: async (r) => {
      await r.server('setsockopt 2 TCP_INQ 1');
      await r.server('setsockopt 2 SO_TIMESTAMPNS 1');
      await untilStamped(r);
      await r.midway();
      await r.client('send 2 100');
      await arrived(r, 'server');
      await r.server('recv 2 40');
      await r.server('recv 2 60');
    },
    differs: {
      row: '`SIOCOUTQ`, `TCP_INFO` byte counts',
      answers: {
        'server recv 2 40': [/"inq":60/, /^(?!.*inq)/],
        'server recv 2 60': [/"inq":0/, /^(?!.*inq)/],
      },
    },
  },
  {
    name: 'MSG_MORE and TCP_CORK hold bytes back',
    run: async (r) => {
      await r.midway();
      await r.client('send 2 10 MSG_MORE');
      await r.server('poll 2 POLLIN 30');
      await r.client('send 2 10');
      await r.server('recvall 2 20');
      await r.client('setsockopt 2 TCP_CORK 1');
      await r.client('send 2 10');
      await r.server('poll 2 POLLIN 30');
      await r.client('setsockopt 2 TCP_CORK 0');
      await r.server('recvall 2 10');
    },
    differs: { row: 'Nagle, `TCP_CORK`', answers: { 'server poll 2 POLLIN 30': [/"returned":0/, /"returned":1/] } },
  },
  {
    name: 'segments on the way, which NAT and conntrack go by',
    run: async (r) => {
      await r.midway();
      const read = async (): Promise<unknown> => (await r.connection.client.do('state 2'))['segmentsOut'];
      await r.settle();
      const before = await read();
      await r.client('send 2 100');
      await r.server('recvall 2 100');
      await r.settle();
      r.note('segments were sent', (await read()) !== before);
    },
    differs: { row: 'keepalive and idle timers', answers: { 'segments were sent': [/true/, /false/] } },
  },
  {
    name: 'MSG_ZEROCOPY once SO_ZEROCOPY is set on a promoted socket: completions are numbered by calls',
    prevented: { passes: 'zerocopy' },
    run: async (r) => {
      await r.midway();
      await r.client('setsockopt 2 SO_ZEROCOPY 1');
      for (const size of [100000, 1000]) {
        await r.client(`send 2 ${String(size)} MSG_ZEROCOPY`);
        await r.server(`recvall 2 ${String(size)}`);
        await r.client('poll 2 POLLERR 1000');
        await r.client('errqueue 2');
      }
    },
    differs: {
      row: '`MSG_ZEROCOPY`',
      answers: { 'client errqueue 2': [/"first":([01]),"last":\1,/, /"first":\d+,"last":\d+,/] },
      failing: { zerocopy: NOT_COMPLETED },
    },
  },
  {
    // Promoted while it sits in its receive, it gets all it asked for: nothing is redirected past it.
    name: 'MSG_WAITALL that has blocked since before promotion',
    blocking: true,
    run: async (r) => {
      await r.midway();
      await r.client('send 2 10');
      await r.server('recv 2 10');
      await r.server('send 2 10');
      await r.client('recv 2 10');
      await r.client('send 2 10');
      await r.server('recv 2 10');
      const waiting = await r.park('server', 'waiting', 'recv 2 100 MSG_WAITALL');
      await r.server('send 2 10');
      await r.client('recv 2 10');
      await r.inserted();
      await r.client('send 2 50');
      await nothingHappens(r, 'client');
      await r.client('send 2 50');
      await waiting.finish();
    },
    differs: {
      row: LEAVES,
      answers: { 'server recv 2 100 MSG_WAITALL in a thread': [/"returned":100,/, /"returned":50,/] },
    },
  },
  {
    name: 'kTLS',
    silent: true,
    needs: async ({ client }) => {
      const { errno } = await client.run('setsockopt 2 TCP_ULP tls');
      return errno === undefined ? undefined : `this kernel has no kTLS: ${errno}`;
    },
    run: async (r) => {
      await r.midway();
      await r.client('setsockopt 2 TCP_ULP tls');
      await r.client('setsockopt 2 TLS_TX 0');
    },
    differs: {
      row: 'kTLS',
      answers: {
        // Which of the two it is depends on the release; after the first there is no second.
        'client setsockopt 2 TCP_ULP tls': [/"returned":0/, /EINVAL/],
        'client setsockopt 2 TLS_TX 0': [/"returned":0/, /EINVAL|ENOPROTOOPT/],
      },
    },
  },
  {
    name: 'io_uring: zero-copy send',
    needs: noUring,
    run: async (r) => {
      await r.client('uring 2 sendzc 1000');
      await r.midway();
      await r.client('uring 2 sendzc 2000');
      // What was refused was not sent.
      await r.client('poll 2 POLLOUT 0');
    },
    silent: true,
    differs: {
      row: '`IORING_OP_SEND_ZC`',
      answers: {
        'client uring 2 sendzc 1000': [/"returned":1000/, /EOPNOTSUPP/],
        'client uring 2 sendzc 2000': [/"returned":2000/, /EOPNOTSUPP/],
      },
    },
  },
];
