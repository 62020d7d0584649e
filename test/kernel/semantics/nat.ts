/** A server behind a published port, and a client in another namespace. */
import type { ConnectionOptions } from '../support/endpoint.js';
import type { Sandbox } from '../support/sandbox.js';
import { publishPort } from '../topology/filter.js';
import { HOST_TO_CLIENT, makeContainerHost, SERVER } from '../topology/network.js';

export const PUBLISHED_PORT = 8080;
const SERVER_PORT = 80;

const made = new WeakMap<Sandbox, ConnectionOptions | string>();

/** How to connect there, or why that can't be done; made once a sandbox. */
export function natted(sandbox: Sandbox): ConnectionOptions | string {
  const known = made.get(sandbox);
  if (known !== undefined) return known;
  const namespaces = makeContainerHost(sandbox);
  const options: ConnectionOptions = {
    listen: SERVER,
    port: SERVER_PORT,
    address: HOST_TO_CLIENT,
    connectPort: PUBLISHED_PORT,
    client: { netns: namespaces.client },
    server: { netns: namespaces.server },
  };
  const result = publishPort(namespaces.host, PUBLISHED_PORT, { address: SERVER, port: SERVER_PORT }) ?? options;
  made.set(sandbox, result);
  return result;
}
