/** One socket with several users: descriptors, processes, threads. */
import type { Answer } from '../../support/endpoint.js';
import { arrived, type Case, type Recorder, type Started } from '../case.js';

/** Four threads send at once, two receive; what arrived in all goes into the record. */
async function crowd(r: Recorder, wait: string): Promise<void> {
  const readers = [await r.start('server', 'r1', `tally 2 ${wait}`), await r.start('server', 'r2', `tally 2 ${wait}`)];
  const writers: Started[] = [];
  for (let mark = 1; mark <= 4; mark++) {
    writers.push(await r.start('client', `w${String(mark)}`, `marks 2 100 64 ${String(mark)}`));
  }
  for (const writer of writers) await writer.finish();
  await r.client('shutdown 2 wr');
  const answers = await Promise.all(readers.map(({ answer }) => answer));
  r.note('ends', answers.map(({ returned, errno }) => errno ?? returned).sort());
  r.note('bytes by sender', total(answers));
}

function total(answers: Answer[]): Record<string, number> {
  const sum: Record<string, number> = {};
  for (const { tally } of answers as (Answer & { tally: Record<string, number> })[]) {
    for (const [mark, count] of Object.entries(tally)) sum[mark] = (sum[mark] ?? 0) + count;
  }
  return sum;
}

export const SHARED: readonly Case[] = [
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
    name: 'fork: parent and child read and write, and the last one closes',
    run: async (r) => {
      await r.server('fork child');
      await r.client('send 2 100');
      await arrived(r, 'server');
      await r.server('in child recv 2 40');
      await r.midway();
      await r.server('recv 2 60');
      await r.client('send 2 100');
      await arrived(r, 'server');
      await r.server('in child recv 2 50');
      await r.server('recv 2 50');
      await r.server('in child send 2 30');
      await r.server('send 2 30');
      await r.client('recvall 2 60');
      await r.server('close 2');
      await r.client('send 2 100');
      await r.server('in child recvall 2 100');
      await r.client(`poll 2 POLLIN|POLLRDHUP 0`);
      await r.server('in child close 2');
      await arrived(r, 'client');
      await r.client('recv 2 10');
    },
  },
  {
    name: 'fork: own shutdown in the child is the parent’s, too',
    run: async (r) => {
      await r.client('fork child');
      await r.midway();
      await r.client('send 2 10');
      await r.client('in child shutdown 2 wr');
      await r.client('send 2 10');
      await r.server('recvall 2 10');
      await r.server('recv 2 10');
    },
  },
  {
    name: 'SCM_RIGHTS: another process goes on where this one stopped',
    run: async (r) => {
      await r.server('fork child');
      await r.server('in child close 2');
      await r.client('send 2 100');
      await arrived(r, 'server');
      await r.server('recv 2 30');
      await r.midway();
      await r.client('send 2 100');
      await r.settle();
      await r.server('pass 2 child 7');
      await r.server('close 2');
      await r.server('in child recv 7 100');
      await r.server('in child recv 7 100');
      await r.server('in child send 7 50');
      await arrived(r, 'client');
      await r.client('recv 2 100');
      await r.client('send 2 50');
      await r.server('in child poll 7 POLLIN 5000');
      await r.server('in child recv 7 100');
      await r.server('in child close 7');
      await arrived(r, 'client');
      await r.client('recv 2 10');
    },
  },
  {
    name: 'several processes accept on one socket, and serve',
    run: async (r) => {
      const { client, server, port } = r.connection;
      await r.midway();
      await r.server('fork one');
      await r.server('fork two');
      const accepts = [
        await r.start('server', 'a1', 'in one accept 1 5'),
        await r.start('server', 'a2', 'in two accept 1 5'),
      ];
      for (const handle of [5, 6]) {
        await client.do(`connect ${String(handle)} 127.0.0.1 ${String(port)}`);
        await client.do(`nonblock ${String(handle)} 1`);
      }
      for (const accept of accepts) await accept.finish();
      for (const name of ['one', 'two']) await server.do(`in ${name} nonblock 5 1`);
      const serving = [
        await r.start('server', 's1', 'in one echo 5 200 64'),
        await r.start('server', 's2', 'in two echo 5 200 64'),
      ];
      await r.client('ask 5 200 64');
      await r.client('ask 6 200 64');
      for (const served of serving) await served.finish();
    },
  },
  {
    name: 'four threads write and two read one socket',
    run: async (r) => {
      await r.midway();
      await crowd(r, '');
    },
  },
  {
    name: 'two threads that block in receives of one socket',
    blocking: true,
    prevented: { refusal: 'blocking', demotion: 'reader' },
    run: async (r) => {
      // Both have read: evidence enough.
      for (const tag of ['one', 'two']) {
        const reader = await r.park('server', tag, 'recv 2 10');
        await r.client('send 2 10');
        await reader.finish();
      }
      await r.midway();
      await r.client('send 2 10');
      await r.server('recv 2 10');
    },
  },
  {
    name: 'four threads write, two block in receives',
    blocking: true,
    prevented: { refusal: 'blocking', demotion: 'reader' },
    run: async (r) => {
      for (const tag of ['one', 'two']) {
        const reader = await r.park('server', tag, 'recv 2 10');
        await r.client('send 2 10');
        await reader.finish();
      }
      await r.midway();
      await r.left();
      await crowd(r, 'wait=block');
    },
  },
];
