/** A child process: GET /SIZE/WHICH answers with that content, PUT anything with the hash of the body. Argument: PORT. */
import { createHash } from 'node:crypto';
import { createServer } from 'node:http';

import { content } from '../data.js';

const server = createServer((request, response) => {
  if (request.method === 'PUT') {
    const hash = createHash('sha256');
    request.on('data', (chunk: Buffer) => hash.update(chunk));
    request.on('end', () => response.end(hash.digest('hex')));
    return;
  }
  const [, size = '0', which = '0'] = (request.url ?? '').split('/');
  response.end(content(Number(size), Number(which)));
});
server.keepAliveTimeout = 60_000;
server.listen(Number(process.argv[2]), '127.0.0.1', () => {
  console.log('listening');
});
