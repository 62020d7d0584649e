/**
 * A child process: sets and gets values of random sizes over one connection and
 * compares every byte. Arguments: PORT COUNT. Prints one line a checked value.
 */
import { randomBytes, randomInt } from 'node:crypto';
import { createConnection } from 'node:net';

const [port = '0', count = '0'] = process.argv.slice(2);
const socket = createConnection(Number(port), '127.0.0.1');
let received = Buffer.alloc(0);
let wake = (): void => undefined;
socket.on('data', (chunk) => {
  received = Buffer.concat([received, chunk]);
  wake();
});

async function read(length: number): Promise<Buffer> {
  while (received.length < length) await new Promise<void>((resolve) => (wake = resolve));
  const bytes = received.subarray(0, length);
  received = received.subarray(length);
  return bytes;
}

async function expectBytes(expected: Buffer, what: string): Promise<void> {
  const bytes = await read(expected.length);
  if (!bytes.equals(expected)) throw new Error(`${what}: ${String(expected.length)} bytes differ`);
}

for (let n = 0; n < Number(count); n++) {
  const value = randomBytes(randomInt(1, 2 ** randomInt(1, 19)));
  const header = `$${String(value.length)}\r\n`;
  socket.write(`*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${header}`);
  socket.write(value);
  socket.write('\r\n');
  await expectBytes(Buffer.from('+OK\r\n'), `SET ${String(n)}`);
  socket.write('*2\r\n$3\r\nGET\r\n$1\r\nk\r\n');
  await expectBytes(Buffer.concat([Buffer.from(header), value, Buffer.from('\r\n')]), `GET ${String(n)}`);
}
socket.end('QUIT\r\n');
await expectBytes(Buffer.from('+OK\r\n'), 'QUIT');
console.log(`${count} values are right`);
