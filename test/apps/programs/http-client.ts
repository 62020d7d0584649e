/**
 * A child process: asks over connections that are kept alive, several at once, and compares every byte.
 * Arguments: URL, get (URL/SIZE/WHICH is content()) or put (answered with the hash) or store (PUT, then GET); ROUNDS.
 */
import assert from 'node:assert/strict';
import { Agent, type IncomingMessage, request } from 'node:http';

import { content, sha256, SIZES } from '../data.js';

const [url = '', what = '', rounds = '1'] = process.argv.slice(2);
const CLIENTS = 6;
const agent = new Agent({ keepAlive: true, maxSockets: CLIENTS });

async function ask(method: string, path: string, body?: Buffer): Promise<Buffer> {
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    const headers = body === undefined ? {} : { 'content-length': body.length };
    request(url + path, { agent, method, headers }, resolve)
      .on('error', reject)
      .end(body);
  });
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk as Buffer);
  assert.ok([200, 201, 204].includes(response.statusCode ?? 0), `${method} ${path}: ${String(response.statusCode)}`);
  return Buffer.concat(chunks);
}

const tasks: Record<string, (size: number, which: number, client: number) => Promise<void>> = {
  async get(size, which) {
    const body = await ask('GET', `/${size}/${which}`);
    assert.ok(body.equals(content(size, which)), `GET of ${size} bytes, ${which}: ${body.length} came, or others`);
  },
  async put(size, which) {
    const body = content(size, which);
    assert.equal(String(await ask('PUT', '/', body)), sha256(body), `PUT of ${size} bytes, ${which}`);
  },
  async store(size, which, client) {
    const body = content(size, which);
    await ask('PUT', `/stored-${client}-${which}`, body);
    const back = await ask('GET', `/stored-${client}-${which}`);
    assert.ok(back.equals(body), `GET after PUT of ${size} bytes, ${which}: ${back.length} came, or others`);
  },
};

let asked = 0;
async function client(number: number): Promise<void> {
  for (let round = 0; round < Number(rounds); round++) {
    for (const [n, size] of SIZES.entries()) {
      // Small ones in a row first: request and response is what is promoted.
      for (let small = 0; small < 10; small++) await tasks[what]!(SIZES[small % 4]!, small % 4, number);
      await tasks[what]!(size, n, number);
      asked++;
    }
  }
}

await Promise.all(Array.from({ length: CLIENTS }, (_, number) => client(number)));
agent.destroy();
console.log(`${asked} right`);
