/**
 * A child process: talks to Redis over connections of its own and compares every reply.
 * Arguments: PORT, and pipeline, pubsub, monitor or values.
 */
import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { createConnection, type Socket } from 'node:net';

import { content, SIZES } from '../data.js';

type Reply = Buffer | Reply[] | null;

class Redis {
  readonly socket: Socket;
  #received = Buffer.alloc(0);
  #chunks: Buffer[] = [];
  #wake = (): void => undefined;

  constructor(port: number) {
    this.socket = createConnection(port, '127.0.0.1');
    this.socket.on('data', (chunk) => {
      this.#chunks.push(chunk);
      this.#wake();
    });
    this.socket.on('close', () => {
      this.#wake();
    });
  }

  send(...words: (string | Buffer)[]): void {
    const parts = words.flatMap((word) => [`$${Buffer.byteLength(word)}\r\n`, word, '\r\n']);
    this.socket.write(Buffer.concat([`*${words.length}\r\n`, ...parts].map((part) => Buffer.from(part))));
  }

  async #more(): Promise<void> {
    if (this.#chunks.length === 0) {
      if (this.socket.closed) throw new Error('the server has closed the connection');
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    this.#received = Buffer.concat([this.#received, ...this.#chunks]);
    this.#chunks = [];
  }

  async #take(length: number): Promise<Buffer> {
    while (this.#received.length < length) await this.#more();
    const bytes = this.#received.subarray(0, length);
    this.#received = this.#received.subarray(length);
    return bytes;
  }

  async #line(): Promise<string> {
    for (;;) {
      const end = this.#received.indexOf('\r\n');
      if (end >= 0) return (await this.#take(end + 2)).toString('latin1').slice(0, -2);
      await this.#more();
    }
  }

  async reply(): Promise<Reply> {
    const line = await this.#line();
    const rest = line.slice(1);
    if (line.startsWith('$')) {
      if (rest === '-1') return null;
      return (await this.#take(Number(rest) + 2)).subarray(0, -2);
    }
    if (line.startsWith('*')) {
      const replies: Reply[] = [];
      for (let n = 0; n < Number(rest); n++) replies.push(await this.reply());
      return replies;
    }
    if (line.startsWith('-')) throw new Error(rest);
    return Buffer.from(rest);
  }

  async call(...words: (string | Buffer)[]): Promise<Reply> {
    this.send(...words);
    return this.reply();
  }

  async close(): Promise<void> {
    this.socket.end();
    if (!this.socket.closed) await once(this.socket, 'close');
  }
}

const [port = '0', what = ''] = process.argv.slice(2);
const connect = (): Redis => new Redis(Number(port));
const ok = Buffer.from('OK');

/** Request and response, so that a pair is promoted. */
async function warmUp(redis: Redis): Promise<void> {
  for (let n = 0; n < 50; n++) {
    assert.deepEqual(await redis.call('ECHO', `warm ${n}`), Buffer.from(`warm ${n}`));
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

const tasks: Record<string, () => Promise<void>> = {
  async values() {
    const redis = connect();
    await warmUp(redis);
    const sizes = [...SIZES, ...Array.from({ length: 300 }, () => randomInt(1, 2 ** randomInt(1, 20)))];
    for (const [n, size] of sizes.entries()) {
      const value = content(size, n);
      assert.deepEqual(await redis.call('SET', 'value', value), ok);
      assert.ok((await redis.call('GET', 'value')) instanceof Buffer);
      redis.send('GET', 'value');
      assert.ok(value.equals((await redis.reply()) as Buffer), `value ${n} of ${size} bytes`);
      // A stream is left alone; a request of its own keeps this a conversation.
      assert.deepEqual(await redis.call('STRLEN', 'value'), Buffer.from(String(size)));
    }
    await redis.close();
  },

  async pipeline() {
    const redis = connect();
    await warmUp(redis);
    for (let round = 0; round < 20; round++) {
      const values = Array.from({ length: 1000 }, (_, n) => content(randomInt(1, 2000), round * 1000 + n));
      for (const [n, value] of values.entries()) redis.send('SET', `p${n}`, value);
      for (const n of values.keys()) redis.send('GET', `p${n}`);
      for (const n of values.keys()) assert.deepEqual(await redis.reply(), ok, `SET ${n}`);
      for (const [n, value] of values.entries()) assert.ok(value.equals((await redis.reply()) as Buffer), `GET ${n}`);
      await warmUp(redis);
    }
    await redis.close();
  },

  async pubsub() {
    const publisher = connect();
    const subscribers = Array.from({ length: 8 }, connect);
    await warmUp(publisher);
    for (const subscriber of subscribers) {
      await warmUp(subscriber);
      await subscriber.call('SUBSCRIBE', 'news');
    }
    const count = 3000;
    const listening = subscribers.map(async (subscriber) => {
      for (let n = 0; n < count; n++) {
        const [kind, channel, message] = (await subscriber.reply()) as Buffer[];
        assert.equal(`${String(kind)} ${String(channel)}`, 'message news');
        assert.ok(content(1 + (n % 3000), n).equals(message!), `message ${n}`);
      }
      await subscriber.close();
    });
    for (let n = 0; n < count; n++) {
      assert.deepEqual(await publisher.call('PUBLISH', 'news', content(1 + (n % 3000), n)), Buffer.from('8'));
    }
    await Promise.all(listening);
    await publisher.close();
  },

  async monitor() {
    const [watcher, redis] = [connect(), connect()];
    await warmUp(watcher);
    await warmUp(redis);
    assert.deepEqual(await watcher.call('MONITOR'), ok);
    const count = 5000;
    const watching = (async () => {
      for (let n = 0; n < count; n++) assert.match(String(await watcher.reply()), new RegExp(`"ECHO" "seen ${n}"$`));
    })();
    for (let n = 0; n < count; n++) {
      assert.deepEqual(await redis.call('ECHO', `seen ${n}`), Buffer.from(`seen ${n}`));
    }
    await watching;
    await watcher.close();
    await redis.close();
  },
};

await tasks[what]!();
console.log('right');
