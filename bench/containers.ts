/** Two containers of runc, of which one reaches the other through a published port. */
import { join } from 'node:path';

import { Container } from '../test/kernel/support/container.js';
import type { Child, Sandbox } from '../test/kernel/support/sandbox.js';
import { publishPort } from '../test/kernel/topology/filter.js';
import { type ContainerHost, HOST_TO_CLIENT, makeContainerHost, SERVER } from '../test/kernel/topology/network.js';

const PORT = 7000;
const PUBLISHED = 8080;

const networks = new WeakMap<Sandbox, ContainerHost>();
let made = 0;

/** The namespaces, which all runs of a sandbox share. */
function networkOf(sandbox: Sandbox): ContainerHost {
  const known = networks.get(sandbox);
  if (known !== undefined) return known;
  const network = makeContainerHost(sandbox);
  const problem = publishPort(network.host, PUBLISHED, { address: SERVER, port: PORT });
  if (problem !== undefined) throw new Error(problem);
  networks.set(sandbox, network);
  return network;
}

export class BetweenContainers {
  /** Where the server listens. */
  readonly server = { address: SERVER, port: PORT };
  /** Where the client connects to. */
  readonly published = { address: HOST_TO_CLIENT, port: PUBLISHED };
  readonly #sandbox: Sandbox;
  readonly #containers: Record<'server' | 'client', Container>;

  /** @param cgroup both containers get their own below this directory */
  constructor(sandbox: Sandbox, cgroup: string) {
    const network = networkOf(sandbox);
    const run = String(made++);
    const make = (role: 'server' | 'client'): Container =>
      new Container(sandbox, `${role}-${run}`, { netns: network[role], cgroup: join(cgroup, `${role}-${run}`) });
    this.#sandbox = sandbox;
    this.#containers = { server: make('server'), client: make('client') };
  }

  /** Starts the one program of a container. */
  start(role: 'server' | 'client', program: string, args: string[]): Child {
    return this.#sandbox.spawn(program, args, { container: this.#containers[role], cgroup: null });
  }

  remove(): void {
    this.#containers.client.remove();
    this.#containers.server.remove();
  }
}
