/**
 * A child process: one connection that is kept alive, one request after the other, every byte of the answers compared.
 * Arguments: PORT, then GET/SIZE/WHICH or PUT/SIZE/WHICH of test/apps/data.ts.
 */
import assert from 'node:assert/strict';
import { Agent, type IncomingMessage, request } from 'node:http';

import { content, sha256 } from '../../apps/data.js';

const [port = '', ...asked] = process.argv.slice(2);
const agent = new Agent({ keepAlive: true, maxSockets: 1 });

for (const what of asked) {
  const [method = '', size = '', which = ''] = what.split('/');
  const expected = content(Number(size), Number(which));
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    request({ port, agent, method, path: `/${size}/${which}`, host: '127.0.0.1' }, resolve)
      .on('error', reject)
      .end(method === 'PUT' ? expected : undefined);
  });
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk as Buffer);
  const body = Buffer.concat(chunks);
  assert.ok(method === 'PUT' ? String(body) === sha256(expected) : body.equals(expected), `${what}: other bytes came`);
}
agent.destroy();
console.log(`${String(asked.length)} right`);
