/** Connections of this host whose two sockets are both here. Pure. */
import { otherEnd } from './find.js';
import type { HostView } from './host.js';
import type { Address, HostSocket } from './proc-net.js';

/** Client and server, as far as a listener tells; else the lower port is the server's. */
export type LocalConnection = readonly [HostSocket, HostSocket];

const OPEN = ['established', 'close-wait', 'fin-wait-1', 'fin-wait-2'];

const text = ({ address, port }: Address): string => `${address} ${String(port)}`;

/** Every established connection once. */
export function localConnections(host: HostView): LocalConnection[] {
  const open = host.sockets.filter(({ state }) => OPEN.includes(state));
  const byAddresses = new Map<string, HostSocket[]>();
  for (const socket of open) {
    const key = `${text(socket.local)} ${text(socket.remote)}`;
    const known = byAddresses.get(key);
    if (known === undefined) byAddresses.set(key, [socket]);
    else known.push(socket);
  }
  const translated = new Set(
    host.translations.flatMap(({ original, reply }) =>
      [original, reply].map(({ from, to }) => `${text(from)} ${text(to)}`),
    ),
  );
  const listening = new Set(
    host.sockets
      .filter(({ state }) => state === 'listen')
      .map(({ netns, local }) => `${String(netns)} ${String(local.port)}`),
  );
  const isServer = ({ netns, local }: HostSocket): boolean => listening.has(`${String(netns)} ${String(local.port)}`);
  const found: LocalConnection[] = [];
  const seen = new Set<HostSocket>();
  for (const socket of open) {
    if (seen.has(socket)) continue;
    const [there, back] = [
      `${text(socket.remote)} ${text(socket.local)}`,
      `${text(socket.local)} ${text(socket.remote)}`,
    ];
    const mirrored = byAddresses.get(there) ?? [];
    const isTranslated = translated.has(there) || translated.has(back);
    if (mirrored.length === 0 && !isTranslated) continue;
    const { other } = otherEnd(socket, isTranslated ? host : { ...host, sockets: mirrored });
    if (other === undefined || seen.has(other)) continue;
    seen.add(socket).add(other);
    const turned = isServer(socket) === isServer(other) ? socket.local.port < other.local.port : isServer(socket);
    found.push(turned ? [other, socket] : [socket, other]);
  }
  return found;
}
