/** Socket options, addresses, and the states that the kernel shows. */
import { arrived, type Case, NOT_COMPLETED, type Recorder } from '../case.js';
import { PUBLISHED_PORT } from '../nat.js';

/** Which port is which, as their numbers change from run to run. */
async function namePorts(r: Recorder): Promise<void> {
  const { clientPort, seenPort, port } = r.connection;
  const client = await r.client('names 2');
  const server = await r.server('names 2');
  r.note('ports', [
    client['localPort'] === clientPort,
    client['peerPort'] === PUBLISHED_PORT || client['peerPort'] === port,
    server['localPort'] === port,
    server['peerPort'] === seenPort,
  ]);
}

async function names(r: Recorder): Promise<void> {
  await namePorts(r);
  await r.client('send 2 10');
  await r.server('recvall 2 10');
  await r.midway();
  await r.client('send 2 10');
  await r.server('recvall 2 10');
  await namePorts(r);
  await r.server('close 2');
  await arrived(r, 'client');
  await r.client('names 2');
  await r.client('recv 2 10');
}

export const OPTIONS: readonly Case[] = [
  { name: 'getsockname() and getpeername()', run: names },
  { name: 'getsockname() and getpeername() through NAT', through: 'nat', run: names },
  {
    name: 'TCP_INFO: the state, through the whole life',
    run: async (r) => {
      await r.client('state 2');
      await r.midway();
      await r.client('send 2 10');
      await r.server('recvall 2 10');
      await r.client('state 2');
      await r.client('shutdown 2 wr');
      await r.settle();
      await r.client('state 2');
      await r.server('state 2');
      await r.server('recv 2 10');
      await r.server('shutdown 2 wr');
      await r.client('poll 2 POLLHUP 5000');
      await r.client('state 2');
      await r.server('state 2');
    },
  },
  {
    name: 'socket options can be set and read',
    run: async (r) => {
      const options = {
        SO_KEEPALIVE: 1,
        SO_LINGER: 3,
        SO_RCVTIMEO: 2000,
        SO_SNDTIMEO: 2000,
        SO_OOBINLINE: 1,
        TCP_NODELAY: 0,
        TCP_KEEPIDLE: 100,
        TCP_KEEPINTVL: 10,
        TCP_KEEPCNT: 3,
        TCP_USER_TIMEOUT: 30000,
        TCP_NOTSENT_LOWAT: 100000,
        TCP_QUICKACK: 1,
        SO_SNDBUF: 100000,
        SO_RCVBUF: 100000,
      };
      await r.client('getsockopt 2 SO_ERROR');
      await r.client('getsockopt 2 TCP_CONGESTION');
      await r.midway();
      for (const [name, value] of Object.entries(options)) {
        await r.client(`setsockopt 2 ${name} ${String(value)}`);
        await r.client(`getsockopt 2 ${name}`);
      }
      await r.client('send 2 10');
      await r.server('recvall 2 10');
      await r.client('getsockopt 2 SO_ERROR');
      await r.client('ioctl 2 SIOCATMARK');
    },
  },
  {
    name: 'SO_RCVLOWAT holds poll() and receives back',
    prevented: { refusal: 'low_water_mark', passes: 'low_water_mark' },
    run: async (r) => {
      await r.server('setsockopt 2 SO_RCVLOWAT 50');
      await r.midway();
      await r.client('send 2 30');
      await r.server('poll 2 POLLIN 50');
      await r.client('send 2 30');
      await r.server('poll 2 POLLIN 5000');
      await r.server('recv 2 200');
    },
  },
  {
    name: 'SO_RCVLOWAT holds a blocked receive back',
    blocking: true,
    prevented: { refusal: 'low_water_mark', passes: 'low_water_mark' },
    run: async (r) => {
      await r.server('setsockopt 2 SO_RCVLOWAT 50');
      await r.midway();
      const waiting = await r.park('server', 'waiting', 'recv 2 200');
      await r.client('send 2 30');
      await r.client('send 2 30');
      await waiting.finish();
    },
  },
  {
    name: 'MSG_ZEROCOPY completions',
    prevented: { refusal: 'zerocopy', passes: 'zerocopy' },
    run: async (r) => {
      await r.client('setsockopt 2 SO_ZEROCOPY 1');
      await r.midway();
      await r.client('send 2 20000 MSG_ZEROCOPY');
      await r.server('recvall 2 20000');
      await r.client('poll 2 POLLERR 1000');
      await r.client('errqueue 2');
    },
    differs: { row: '`MSG_ZEROCOPY`', answers: {}, failing: { zerocopy: NOT_COMPLETED } },
  },
  {
    name: 'MSG_ZEROCOPY without SO_ZEROCOPY is an ordinary send',
    run: async (r) => {
      await r.midway();
      await r.client('send 2 20000 MSG_ZEROCOPY');
      await r.server('recvall 2 20000');
      await r.client('errqueue 2');
    },
  },
  {
    name: 'keepalive: a probe is answered, and the connection goes on',
    run: async (r) => {
      const { client } = r.connection;
      for (const option of ['SO_KEEPALIVE 1', 'TCP_KEEPIDLE 1', 'TCP_KEEPINTVL 1', 'TCP_KEEPCNT 2']) {
        await r.client(`setsockopt 2 ${option}`);
      }
      await r.midway();
      await r.client('send 2 10');
      await r.server('recvall 2 10');
      await client.run('settle 2');
      const sent = (await client.do('state 2'))['segmentsOut'];
      // With a probe of its own each second the state says so by then.
      await client.do('poll 2 POLLHUP 1500');
      r.note('probes were sent', (await client.do('state 2'))['segmentsOut'] !== sent);
      await r.client('getsockopt 2 SO_ERROR');
      await r.client('send 2 10');
      await r.server('recvall 2 10');
    },
  },
];
