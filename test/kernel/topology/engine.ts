/** Containers of runc on a bridge, with ports published as an engine does it. */
import { existsSync } from 'node:fs';

import { Container, type ContainerOptions, whyNoContainers } from '../support/container.js';
import type { Sandbox } from '../support/sandbox.js';
import { must, publishFromBridge } from './filter.js';
import { BridgedHost } from './network.js';

/** Where servers in containers listen, and what the host publishes it as. */
export const PORT = 80;
export const PUBLISHED = 8080;

export class Engine {
  readonly host: BridgedHost;
  readonly #sandbox: Sandbox;

  /** @param name of its host, unique in the sandbox */
  constructor(sandbox: Sandbox, name = 'host') {
    this.#sandbox = sandbox;
    this.host = new BridgedHost(sandbox, name);
  }

  /** Why there can be none, if so. */
  static missing(): string | undefined {
    return (
      whyNoContainers() ??
      (existsSync('/proc/sys/net/bridge/bridge-nf-call-iptables')
        ? undefined
        : 'this kernel has no bridge-nf-call-iptables, or its module br_netfilter is not loaded')
    );
  }

  /** A container with this network; without a name for it, with one of its own that is still empty. */
  container(name: string, netns?: string, options: Omit<ContainerOptions, 'netns'> = {}): Container {
    return new Container(this.#sandbox, name, { ...options, ...(netns !== undefined && { netns }) });
  }

  publish(address: string, published = PUBLISHED, port = PORT): void {
    must(publishFromBridge(this.host.netns, published, { address, port }));
  }
}
