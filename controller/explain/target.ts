/** What `explain` is asked about. */
import { isIP } from 'node:net';

import { EXIT, UserError } from '../errors.js';
import { quote } from '../policy/words.js';
import type { Address } from './proc-net.js';

export type Target =
  | { kind: 'port'; port: number }
  | { kind: 'address'; address: Address }
  | { kind: 'process'; pid: number }
  /** A bare number: a port if something uses it, else a process. */
  | { kind: 'number'; number: number }
  | { kind: 'pair'; slot: number; generation: number };

/** pid_max can be no larger (include/linux/threads.h). */
const LARGEST_PID = 2 ** 22;
const LARGEST_PORT = 65_535;

/** @throws UserError (exit code 2) */
export function parseTarget(text: string): Target {
  const [, slot, generation] = /^(\d{1,7})\.(\d{1,8})$/.exec(text) ?? [];
  if (slot !== undefined) return { kind: 'pair', slot: Number(slot), generation: Number(generation) };
  const [, word, number] = /^(?:(pid|port)[:=])?(\d{1,7})$/.exec(text) ?? [];
  const value = Number(number);
  if (word === 'pid' && value > 0 && value <= LARGEST_PID) return { kind: 'process', pid: value };
  if (word === 'port' && value > 0 && value <= LARGEST_PORT) return { kind: 'port', port: value };
  if (word === undefined && value > LARGEST_PORT && value <= LARGEST_PID) return { kind: 'process', pid: value };
  if (word === undefined && value > 0 && value <= LARGEST_PORT) return { kind: 'number', number: value };
  const [, bracketed, plain, port] = /^(?:\[([^\]]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(text) ?? [];
  const address = bracketed ?? plain ?? '';
  const isAddress = isIP(address) === (bracketed === undefined ? 4 : 6);
  if (isAddress && Number(port) > 0 && Number(port) <= LARGEST_PORT) {
    return { kind: 'address', address: { address: canonical(address), port: Number(port) } };
  }
  throw new UserError(
    `${quote(text)} is no target: give a port (6379), an address and port (10.0.0.1:80, [::1]:80), a process ` +
      '(pid:4711), or a pair as "pairs" names it (3.1)',
    EXIT.usage,
  );
}

function canonical(address: string): string {
  if (!address.includes(':')) return address;
  const plain = new URL(`http://[${address}]/`).hostname.slice(1, -1);
  const [, high, low] = /^::ffff:([0-9a-f]+):([0-9a-f]+)$/.exec(plain) ?? [];
  if (high === undefined || low === undefined) return plain;
  const word = (parseInt(high, 16) << 16) | parseInt(low, 16);
  return [24, 16, 8, 0].map((shift) => (word >>> shift) & 0xff).join('.');
}

export function describeTarget(target: Target): string {
  switch (target.kind) {
    case 'port':
      return `port ${String(target.port)}`;
    case 'number':
      return `port or process ${String(target.number)}`;
    case 'process':
      return `process ${String(target.pid)}`;
    case 'pair':
      return `pair ${String(target.slot)}.${String(target.generation)}`;
    case 'address': {
      const { address, port } = target.address;
      return `${address.includes(':') ? `[${address}]` : address}:${String(port)}`;
    }
  }
}
