/** Shutdown, close and reset, seen from both ends. */
import { ALL_EVENTS, arrived, type Case, otherEnd, type Recorder, type Who } from '../case.js';

const STATE = `poll 2 ${ALL_EVENTS} 0`;

/** Two sends, with and without the signal, until nothing changes any more. */
async function sends(r: Recorder, who: Who): Promise<void> {
  for (const command of ['send 2 10 MSG_NOSIGNAL', 'send 2 10', 'write 2 10']) {
    await r[who](command);
    await r.settle();
  }
  await r[who](STATE);
}

/** EPIPE and SIGPIPE after what both ends did, the client first. */
function* pipes(): Generator<Case> {
  for (const own of ['nothing', 'rd', 'wr', 'rdwr'] as const) {
    for (const peer of ['nothing', 'rd', 'wr', 'rdwr', 'close'] as const) {
      if (own === 'nothing' && peer === 'nothing') continue;
      yield {
        name: `EPIPE and SIGPIPE: the client has shut down ${own}, the server ${peer}`,
        run: async (r) => {
          await r.midway();
          await r.client('send 2 10');
          await r.server('recvall 2 10');
          if (own !== 'nothing') await r.client(`shutdown 2 ${own}`);
          await r.settle();
          if (peer === 'close') await r.server('close 2');
          else if (peer !== 'nothing') await r.server(`shutdown 2 ${peer}`);
          await r.settle();
          await r.client(STATE);
          await sends(r, 'client');
          if (peer !== 'close') {
            await r.server(STATE);
            await sends(r, 'server');
            for (let i = 0; i < 3; i++) await r.server('recv 2 20');
          }
          for (let i = 0; i < 3; i++) await r.client('recv 2 20');
          await r.client('getsockopt 2 SO_ERROR');
          await r.client('shutdown 2 rdwr');
        },
      };
    }
  }
}

/** A reset by either end, with data that waits at one end, the other, or both. */
function* resets(): Generator<Case> {
  for (const who of ['client', 'server'] as const) {
    const peer = otherEnd(who);
    for (const queued of ['nowhere', 'at the peer', 'at the end that resets', 'at both ends'] as const) {
      yield {
        name: `RST by the ${who}, data waits ${queued}`,
        silent: queued === 'nowhere',
        run: async (r) => {
          await r.midway();
          if (queued === 'at the peer' || queued === 'at both ends') {
            await r[who]('send 2 100');
            await arrived(r, peer);
          }
          if (queued === 'at the end that resets' || queued === 'at both ends') {
            await r[peer]('send 2 100');
            await arrived(r, who);
          }
          await r[who]('setsockopt 2 SO_LINGER 0');
          await r[who]('close 2');
          await r[peer]('poll 2 POLLHUP 5000');
          await r[peer](STATE);
          for (let i = 0; i < 4; i++) await r[peer]('recv 2 60');
          await r[peer]('send 2 60 MSG_NOSIGNAL');
          await r[peer]('send 2 60');
          await r[peer](STATE);
        },
      };
    }
  }
}

/** connect() to AF_UNSPEC ends a connection with a reset and makes the socket new. */
function* disconnects(): Generator<Case> {
  for (const unread of [false, true]) {
    yield {
      name: `connect() to AF_UNSPEC with ${unread ? 'unread data' : 'everything read'}: nothing old reaches the next peer`,
      run: async (r) => {
        const { client, server, port } = r.connection;
        await r.client('send 2 10');
        await r.server('recvall 2 10');
        await r.midway();
        await r.client('send 2 10');
        await arrived(r, 'server');
        if (unread) {
          // The first may be the fence.
          for (let i = 0; i < 2; i++) await r.server('send 2 30');
          await r.settle();
          await r.client('recv 2 20');
        }
        await r.client('disconnect 2');
        await r.client('state 2');
        await r.client('recv 2 10');
        await r.client('send 2 10 MSG_NOSIGNAL');
        await r.client(STATE);
        await r.server('poll 2 POLLHUP 5000');
        await r.server('recv 2 4');
        await r.server('recv 2 10');
        await r.server('recv 2 10');
        await r.client('names 2');
        r.note('connect', (await client.run(`connect 2 127.0.0.1 ${String(port)}`)).errno);
        await r.client('poll 2 POLLOUT 5000');
        await r.server('accept 1 3');
        await r.server('nonblock 3 1');
        // Both streams begin anew.
        await client.do('offset 2 sent=0 received=0');
        await r.client('recv 2 10');
        await r.client('send 2 50');
        await server.do('poll 3 POLLIN 5000');
        await r.server('recv 3 100');
        await r.server('send 3 40');
        await arrived(r, 'client');
        await r.client('recv 2 100');
      },
    };
  }
}

export const CLOSING: readonly Case[] = [
  ...pipes(),
  ...resets(),
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
    name: 'data, then close: everything is read, then the end',
    run: async (r) => {
      await r.midway();
      await r.client('send 2 100');
      await r.client('send 2 100');
      await r.client('close 2');
      await r.server('poll 2 POLLRDHUP 5000');
      await r.server(STATE);
      await r.server('recv 2 150');
      await r.server('recv 2 150');
      await r.server('recv 2 150');
      await r.server(STATE);
    },
  },
  {
    name: 'EPIPE and SIGPIPE after own shutdown, with and without MSG_NOSIGNAL',
    run: async (r) => {
      await r.client('send 2 10');
      await r.midway();
      await r.client('send 2 10');
      await r.client('shutdown 2 wr');
      await r.client('send 2 10 MSG_NOSIGNAL');
      await r.client('send 2 10');
      await r.server('recvall 2 20');
    },
  },
  {
    name: 'own SHUT_RD: what is queued, and what comes later',
    run: async (r) => {
      await r.midway();
      await r.client('send 2 10');
      await arrived(r, 'server');
      await r.server('shutdown 2 rd');
      await r.server('recv 2 4');
      await r.server('recv 2 10');
      await r.server('recv 2 10');
      await r.client('send 2 20');
      await r.settle();
      await r.server('recv 2 50');
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
      await r.client('send 2 10');
      await r.server('recvall 2 10');
      await r.server('close 2');
      await arrived(r, 'client');
      await r.client('recv 2 10');
      await r.client('send 2 10 MSG_NOSIGNAL');
      await r.client('poll 2 POLLERR 5000');
      await r.client('poll 2 POLLIN|POLLOUT|POLLERR|POLLHUP 0');
      await r.client('send 2 10 MSG_NOSIGNAL');
      await r.client('send 2 10');
      await r.client('recv 2 10');
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
    name: 'SO_LINGER above 0 waits as long while the peer does not read',
    run: async (r) => {
      await r.midway();
      await r.client('setsockopt 2 SO_LINGER 1');
      const filled = await r.connection.client.do('fill 2 8192 64M');
      const closing = await r.client('close 2');
      r.note('close() took the second that it was given', Number(closing['microseconds']) > 900_000);
      await r.connection.server.do(`recvall 2 ${String(filled.bytes)}`);
      await arrived(r, 'server');
      await r.server('recv 2 10');
    },
  },
  ...disconnects(),
];
