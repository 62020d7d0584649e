/** A datapath that an earlier ABI version of this project has pinned: it can be drained and removed, nothing else. */
import { existsSync, readdirSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';

import { BpfLink, BpfMap, NativeError } from '../../addon/index.js';
import { UserError } from '../errors.js';
import { contractBreach, Drainable, DRAIN_CONTRACT, DrainSettings, DrainTable } from './drainable.js';
import { Layout } from './layout.js';

export class OlderDatapath extends Drainable {
  readonly #pinDir: string;
  readonly #close: () => void;

  private constructor(pinDir: string, layout: Layout, maps: BpfMap[], links: BpfLink[]) {
    const [pairs, sockets, settings] = maps as [BpfMap, BpfMap, BpfMap];
    const [promote] = links as [BpfLink];
    super(
      new DrainTable(layout, pairs.mmap(), pairs.info().maxEntries),
      new DrainSettings(layout, settings.mmap()),
      sockets,
      promote,
    );
    this.#pinDir = pinDir;
    this.#close = (): void => {
      for (const handle of [...maps, ...links]) handle.close();
    };
  }

  /** @throws UserError if it does not keep the drain contract, or its layout can't be read. */
  static open(pinDir: string): OlderDatapath {
    const version = pinnedAbiVersion(pinDir);
    const refuse = (why: string, cause?: unknown): UserError =>
      new UserError(
        `the datapath pinned in ${pinDir}, of ABI version ${String(version)}, can't be drained by this version: ${why}; ` +
          'run "slipstream-bpf down" of the version that loaded it',
        undefined,
        { cause },
      );
    const pins = [...DRAIN_CONTRACT.maps, ...DRAIN_CONTRACT.links.map((name) => `link_${name}`)];
    const missing = pins.find((name) => !existsSync(join(pinDir, name)));
    if (missing !== undefined) throw refuse(`${missing} is not pinned there`);
    const maps = DRAIN_CONTRACT.maps.map((name) => BpfMap.open(join(pinDir, name)));
    const links = DRAIN_CONTRACT.links.map((name) => BpfLink.open(join(pinDir, `link_${name}`)));
    try {
      const [pairs, , settings] = maps as [BpfMap, BpfMap, BpfMap];
      const layout = new Layout(pairs);
      const breach = contractBreach(layout) ?? wrongSize(layout, { pair: pairs, settings });
      if (breach !== undefined) throw refuse(`it has no ${breach}`);
      return new OlderDatapath(pinDir, layout, maps, links);
    } catch (error) {
      for (const handle of [...maps, ...links]) handle.close();
      if (!(error instanceof NativeError)) throw error;
      throw refuse(
        error.code === 'EPERM' ? 'reading its layout needs CAP_SYS_ADMIN' : `its layout is unknown (${error.message})`,
        error,
      );
    }
  }

  /** Detaches and unpins; the directory stays. Call with an empty sockmap: sockets left in it lose data. */
  remove(): void {
    removeForeignPins(this.#pinDir);
    this.close();
  }

  close(): void {
    this.#close();
  }
}

/**
 * Has the pinned program called for no connection any more when this returns. Unpinning it has the kernel do that when it
 * finds the time (bpf_link_put).
 */
export function detachPinned(pinDir: string): void {
  try {
    const link = BpfLink.open(join(pinDir, 'link_identify'));
    link.detach();
    link.close();
  } catch (error) {
    // Not pinned, or nothing that can be detached: unpinning must do.
    if (!(error instanceof NativeError)) throw error;
  }
}

/** Removes the pins of whatever version: the directory holds nothing else. */
export function removeForeignPins(pinDir: string): void {
  detachPinned(pinDir);
  for (const name of readdirSync(pinDir)) unlinkSync(join(pinDir, name));
}

/** Settings.abi_version is the first member in every version; 0: loading was not complete. */
export function pinnedAbiVersion(pinDir: string): number {
  if (!existsSync(join(pinDir, 'settings'))) return 0;
  const map = BpfMap.open(join(pinDir, 'settings'));
  const version = map.lookup(Buffer.alloc(4))?.readUInt32LE() ?? 0;
  map.close();
  return version;
}

function wrongSize(layout: Layout, maps: Record<'pair' | 'settings', BpfMap>): string | undefined {
  const wrong = Object.entries(maps).find(([struct, map]) => layout.size(struct) !== map.info().valueSize);
  return wrong && `${wrong[0]} of ${String(wrong[1].info().valueSize)} bytes`;
}
