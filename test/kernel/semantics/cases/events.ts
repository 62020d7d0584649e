/** Waiting: poll, select, epoll, signals. */
import { ALL_EVENTS, arrived, type Case } from '../case.js';

export const EVENTS: readonly Case[] = [
  {
    name: 'poll() before and after everything',
    run: async (r) => {
      const events = `poll 2 ${ALL_EVENTS} 0`;
      await r.server(events);
      await r.client('send 2 10');
      await arrived(r, 'server');
      await r.server(events);
      await r.midway();
      await r.server('recv 2 4');
      await r.server(events);
      await r.server('recv 2 6');
      await r.server(events);
      await r.client('send 2 10');
      await arrived(r, 'server');
      await r.server(events);
      await r.server('recv 2 10');
      await r.client(events);
      await r.client('close 2');
      await arrived(r, 'server');
      await r.server(events);
    },
  },
  {
    name: 'poll() that waits',
    run: async (r) => {
      await r.midway();
      const data = await r.park('server', 'data', `poll 2 POLLIN|POLLRDHUP 5000`);
      await r.client('send 2 10');
      await data.finish();
      await r.server('recv 2 10');
      const end = await r.park('server', 'end', `poll 2 POLLRDHUP 5000`);
      await r.client('shutdown 2 wr');
      await end.finish();
    },
  },
  {
    name: 'select()',
    run: async (r) => {
      await r.server('select 2 0');
      await r.client('send 2 10');
      await arrived(r, 'server');
      await r.server('select 2 0');
      await r.midway();
      await r.server('recv 2 10');
      await r.server('select 2 0');
      await r.client('send 2 10');
      await arrived(r, 'server');
      await r.server('select 2 0');
      await r.server('recv 2 10');
      await r.client('close 2');
      await arrived(r, 'server');
      await r.server('select 2 0');
      await r.server('recv 2 10');
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
    name: 'epoll, edge-triggered: data that nobody took, then more',
    run: async (r) => {
      await r.midway();
      await r.server('epolladd 2 EPOLLIN|EPOLLET');
      await r.connection.server.run('epollwait 0');
      for (let i = 0; i < 3; i++) {
        await r.client('send 2 10');
        await r.server('epollwait 5000');
        await r.server('epollwait 0');
      }
      await r.server('recvall 2 30');
      await r.server('epollwait 0');
    },
  },
  {
    name: 'epoll, one-shot',
    run: async (r) => {
      await r.server('epolladd 2 EPOLLIN|EPOLLONESHOT');
      await r.midway();
      await r.connection.server.run('epollwait 0');
      await r.server('epolladd 2 EPOLLIN|EPOLLONESHOT');
      await r.client('send 2 10');
      await r.server('epollwait 5000');
      await r.client('send 2 10');
      await r.settle();
      await r.server('epollwait 0');
      await r.server('epolladd 2 EPOLLIN|EPOLLONESHOT');
      await r.server('epollwait 0');
      await r.server('recvall 2 20');
      await r.server('epolladd 2 EPOLLIN|EPOLLONESHOT');
      await r.server('epollwait 0');
    },
  },
  {
    name: 'epoll, level-triggered: until everything was read',
    run: async (r) => {
      await r.server('epolladd 2 EPOLLIN|EPOLLRDHUP');
      await r.midway();
      await r.client('send 2 10');
      await r.server('epollwait 5000');
      await r.server('recv 2 4');
      await r.server('epollwait 0');
      await r.server('recv 2 6');
      await r.server('epollwait 0');
      await r.client('close 2');
      await r.server('epollwait 5000');
      await r.server('recv 2 6');
      await r.server('epollwait 0');
    },
  },
  {
    name: 'EPOLLEXCLUSIVE: one of two that wait',
    run: async (r) => {
      await r.server('epolladd 2 EPOLLIN|EPOLLEXCLUSIVE set=1');
      await r.server('epolladd 2 EPOLLIN|EPOLLEXCLUSIVE set=2');
      await r.midway();
      const one = await r.park('server', 'one', 'epollwait 5000 set=1');
      const two = await r.park('server', 'two', 'epollwait 5000 set=2');
      let woken = 0;
      for (const { answer } of [one, two]) void answer.then(() => woken++);
      await r.client('send 2 10');
      await Promise.race([one.answer, two.answer]);
      await r.server('epollwait 30');
      r.note('woken by one message', woken);
      await r.client('send 2 10');
      await one.finish();
      await two.finish();
      await r.server('recvall 2 20');
    },
  },
  {
    name: 'a full connection: EAGAIN, no POLLOUT, and writable again after reading',
    run: async (r) => {
      await r.midway();
      const filled = await r.connection.client.do('fill 2 8192 64M');
      r.note('full', filled['full']);
      await r.client('send 2 10');
      await r.client('poll 2 POLLOUT 0');
      await r.client('select 2 0');
      await r.connection.server.do(`recvall 2 ${String(filled.bytes)}`);
      await r.client('poll 2 POLLOUT 5000');
      await r.client('send 2 10');
      await r.server('recvall 2 10');
    },
  },
  {
    name: 'O_NONBLOCK off and on again',
    run: async (r) => {
      await r.server('recv 2 10');
      await r.midway();
      await r.server('nonblock 2 0');
      const waiting = await r.park('server', 'waiting', 'recv 2 10');
      await r.client('send 2 10');
      await waiting.finish();
      await r.server('nonblock 2 1');
      await r.server('recv 2 10');
      await r.client('send 2 10');
      await arrived(r, 'server');
      await r.server('nonblock 2 0');
      await r.server('recv 2 10');
      await r.server('recv 2 10 MSG_DONTWAIT');
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
      const waiting = await r.start('server', 'waiting', 'recv 2 10');
      await waiting.finish();
    },
  },
  {
    name: 'SO_SNDTIMEO on a blocking socket that is full',
    blocking: true,
    run: async (r) => {
      await r.midway();
      await r.client('setsockopt 2 SO_SNDTIMEO 50');
      // Again until the receiver's kernel has taken all that it will take.
      let all = 0;
      for (let last = 1; last > 0;) {
        last = (await r.connection.client.do('fill 2 8192 64M')).bytes ?? 0;
        all += last;
        await r.connection.client.run('poll 2 POLLOUT 60');
      }
      // What the receiver's kernel still takes meanwhile, by a window probe or a late softirq, makes room for a part of
      // a message, and send(2) then returns that part; only one that copies nothing says EAGAIN.
      let answer = await r.connection.client.run('send 2 100000');
      for (; (answer.returned ?? 0) > 0; answer = await r.connection.client.run('send 2 100000'))
        all += answer.returned ?? 0;
      r.note('full', [answer.returned, answer.errno]);
      await r.connection.server.do(`recvall 2 ${String(all)}`);
      await r.client('poll 2 POLLOUT 5000');
      await r.client('send 2 10');
      await r.server('recv 2 10');
    },
  },
  {
    name: 'a blocked receive: data, then the end',
    blocking: true,
    run: async (r) => {
      await r.midway();
      const data = await r.park('server', 'data', 'recv 2 100');
      await r.client('send 2 10');
      await data.finish();
      const end = await r.park('server', 'end', 'recv 2 100');
      await r.client('shutdown 2 wr');
      await end.finish();
    },
  },
  {
    name: 'a blocked receive that began before promotion',
    blocking: true,
    run: async (r) => {
      await r.midway();
      // The fourth turn makes a candidate, and the server's next receive has begun before it.
      await r.client('send 2 10');
      await r.server('recv 2 10');
      await r.server('send 2 10');
      await r.client('recv 2 10');
      await r.client('send 2 10');
      await r.server('recv 2 10');
      const waiting = await r.park('server', 'waiting', 'recv 2 100');
      await r.server('send 2 10');
      await r.client('recv 2 10');
      await r.inserted();
      await r.client('send 2 20');
      await waiting.finish();
      const again = await r.park('server', 'again', 'recv 2 100');
      await r.client('send 2 30');
      await again.finish();
    },
  },
  {
    name: 'SIGIO for each arrival',
    run: async (r) => {
      await r.server('owner 2');
      await r.midway();
      await r.connection.server.do('signals');
      await r.client('send 2 10');
      await arrived(r, 'server');
      r.note('SIGIO', Number((await r.connection.server.do('signals'))['io']) > 0);
      await r.server('recv 2 10');
    },
  },
];
