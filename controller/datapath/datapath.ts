/**
 * The loaded programs, their maps and links, and the pins that keep them.
 *
 * Everything is pinned in one bpffs directory, so the datapath lives on when its
 * controller is killed. `settings.abi_version` is written last: a directory
 * without it is the rest of an interrupted start and holds no promoted socket.
 */
import { existsSync, mkdirSync, readdirSync, rmdirSync, unlinkSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';

import { BpfLink, BpfMap, BpfObject, NativeError, cgroupId, possibleCpus } from '../../addon/index.js';
import { UserError } from '../errors.js';
import { type PromotionSource, promotionSource, receiveSource } from '../probe/kernel.js';
import { Drainable } from './drainable.js';
import { Layout, Records } from './layout.js';
import { detachPinned, pinnedAbiVersion } from './older.js';
import { PairTable } from './pair-table.js';
import { ControllerCounters, DEFAULT_TUNING, Settings } from './settings.js';

/** Must equal SLIPSTREAM_ABI_VERSION in bpf/abi.h; a unit test compares them. */
export const ABI_VERSION = 6;

const MAP_NAMES = [
  'pairs',
  'free_slots',
  'resting_slots',
  'sockets',
  'endpoints',
  'handshakes',
  'settings',
  'counters',
  'controller',
  'totals',
  'events',
] as const;
type MapName = (typeof MAP_NAMES)[number];
type Maps = Record<MapName, BpfMap>;

/** In the order of attachment: what feeds others comes last. */
const LINK_NAMES = ['promote', 'observe', 'identify'] as const;
/** Where several programs are needed to see every receive, those after the first. */
const MORE_LINK_NAMES = ['observe_inet6', 'observe_second', 'observe_third'] as const;
type Links = Record<(typeof LINK_NAMES)[number], BpfLink> & Partial<Record<string, BpfLink>>;

export interface LoadOptions {
  /** The compiled object file. */
  objectFile: string;
  /** Directory in a bpffs; made if absent. Undefined: everything ends with this process. */
  pinDir: string | undefined;
  /** Directory of a cgroup v2; connections with both ends at or below it are found. */
  cgroupDir: string;
  /** Size of the pair table, 1 to 1048576. */
  maxPairs: number;
  /** Version of this project. */
  version: string;
  /** Default: what the kernel has. */
  promotion?: PromotionSource | undefined;
}

/** Sums over CPUs of struct counters. */
export interface DatapathCounters {
  pairs: number;
  closedPairs: number;
  candidates: number;
  eventsLost: number;
  totalsLost: number;
  releaseFailed: number;
  /** Messages refused because TCP bytes had overtaken redirected ones. */
  dropped: number;
  passed: Record<string, number>;
  unpaired: Record<string, number>;
}

/** Redirected traffic of one sending cgroup. */
export interface Total {
  bytes: number;
  messages: number;
}

/** What a pin directory holds; `older` and `newer` are of another ABI version. */
export type PinState = 'absent' | 'partial' | 'complete' | 'older' | 'newer';

const linkPin = (pinDir: string, name: string): string => join(pinDir, `link_${name}`);

export class Datapath extends Drainable<PairTable, Settings> {
  /** Undefined: not pinned. */
  readonly pinDir: string | undefined;
  readonly layout: Layout;
  readonly controllerCounters: ControllerCounters;
  readonly #maps: Maps;
  readonly #links: Links;

  private constructor(pinDir: string | undefined, layout: Layout, maps: Maps, links: Links) {
    super(
      new PairTable(layout, maps.pairs.mmap(), maps.pairs.info().maxEntries),
      new Settings(layout, maps.settings.mmap()),
      maps.sockets,
      links.promote,
    );
    this.pinDir = pinDir;
    this.layout = layout;
    this.#maps = maps;
    this.#links = links;
    this.controllerCounters = new ControllerCounters(layout, maps.controller.mmap());
  }

  /** What is pinned there, without touching it. */
  static pinState(pinDir: string): PinState {
    if (!existsSync(pinDir) || readdirSync(pinDir).length === 0) return 'absent';
    const version = pinnedAbiVersion(pinDir);
    if (version !== 0 && version !== ABI_VERSION) return version < ABI_VERSION ? 'older' : 'newer';
    const names = [...MAP_NAMES.map((name) => join(pinDir, name)), ...LINK_NAMES.map((name) => linkPin(pinDir, name))];
    return names.every((name) => existsSync(name)) && version !== 0 ? 'complete' : 'partial';
  }

  /** Id of the sockops program whose link is pinned there, if one is. */
  static pinnedProgramId(pinDir: string): number | undefined {
    const path = linkPin(pinDir, 'identify');
    if (!existsSync(path)) return undefined;
    let link: BpfLink;
    try {
      link = BpfLink.open(path);
    } catch (error) {
      // Another process has just taken it away.
      if (error instanceof NativeError && error.code === 'ENOENT') return undefined;
      throw error;
    }
    const { programId } = link.info();
    link.close();
    return programId;
  }

  /** Directories beside this one by the ids of the sockops programs whose links are pinned there. */
  static programsPinnedBeside(pinDir: string): Map<number, string> {
    const parent = dirname(resolve(pinDir));
    const found = new Map<number, string>();
    for (const name of existsSync(parent) ? readdirSync(parent) : []) {
      const id = Datapath.pinnedProgramId(join(parent, name));
      if (id !== undefined) found.set(id, join(parent, name));
    }
    return found;
  }

  /**
   * Loads, attaches and pins everything, or leaves nothing behind.
   * @throws NativeError with the verifier's reason; UserError if the host refuses.
   */
  static load(options: LoadOptions): Datapath {
    const { pinDir } = options;
    if (pinDir !== undefined) mkdirSync(pinDir, { recursive: true, mode: 0o700 });
    const object = BpfObject.open(options.objectFile);
    try {
      object.setMaxEntries('pairs', options.maxPairs);
      object.setMaxEntries('free_slots', options.maxPairs);
      object.setMaxEntries('sockets', 2 * options.maxPairs);
      // Where the kernel has neither, loading says so.
      const [source = 'observe', ...more] = receiveSource() ?? [];
      const promotion = options.promotion ?? promotionSource() ?? 'promote';
      for (const name of [promotion, source, ...more]) object.loadProgram(name);
      object.load();
      const maps = Object.fromEntries(MAP_NAMES.map((name) => [name, object.map(name)])) as Maps;
      if (pinDir !== undefined) for (const name of MAP_NAMES) maps[name].pin(join(pinDir, name));
      maps.free_slots.fill(options.maxPairs);
      // The entry that takes what finds no room, or whose cgroup is gone.
      maps.totals.update(Buffer.alloc(8), Buffer.alloc(maps.totals.info().valueSize));
      object.program('redirect').attachSockmap(maps.sockets);
      const links: Links = {
        promote: object.program(promotion).attachIterator(promotion === 'promote' ? maps.endpoints : undefined),
        observe: object.program(source).attachTracepoint(),
        ...Object.fromEntries(more.map((name) => [name, object.program(name).attachTracepoint()])),
        identify: object.program('identify').attachCgroup(options.cgroupDir),
      };
      if (pinDir !== undefined) for (const [name, link] of Object.entries(links)) link?.pin(linkPin(pinDir, name));
      const datapath = new Datapath(pinDir, new Layout(BpfObject.open(options.objectFile)), maps, links);
      datapath.settings.maxPairs = options.maxPairs;
      datapath.settings.attachedCgroup = cgroupId(options.cgroupDir);
      datapath.settings.loadedNs = process.hrtime.bigint();
      datapath.settings.version = options.version;
      datapath.settings.tune(DEFAULT_TUNING);
      datapath.settings.abiVersion = ABI_VERSION;
      // Its descriptor of the map `capture` would keep what a killed capture left there.
      object.close();
      return datapath;
    } catch (error) {
      object.close();
      if (pinDir !== undefined) Datapath.removePins(pinDir);
      throw error;
    }
  }

  /**
   * Takes over what an earlier controller pinned.
   * @throws UserError if the pins are of another ABI version.
   */
  static adopt(objectFile: string, pinDir: string): Datapath {
    requireAbi(pinDir);
    const object = BpfObject.open(objectFile);
    const maps = Object.fromEntries(MAP_NAMES.map((name) => [name, BpfMap.open(join(pinDir, name))])) as Maps;
    const names = [...LINK_NAMES, ...MORE_LINK_NAMES].filter((name) => existsSync(linkPin(pinDir, name)));
    const links = Object.fromEntries(names.map((name) => [name, BpfLink.open(linkPin(pinDir, name))])) as Links;
    return new Datapath(pinDir, new Layout(object), maps, links);
  }

  /** Removes pins; whatever nobody else holds is freed by the kernel. The directory, and its lock, stay. */
  static removePins(pinDir: string): void {
    if (!existsSync(pinDir)) return;
    detachPinned(pinDir);
    for (const name of [...MORE_LINK_NAMES, ...LINK_NAMES].reverse()) unlinkIfThere(linkPin(pinDir, name));
    for (const name of MAP_NAMES) unlinkIfThere(join(pinDir, name));
  }

  /** Removes the pins and their directory. */
  static removePinDir(pinDir: string): void {
    Datapath.removePins(pinDir);
    if (existsSync(pinDir) && readdirSync(pinDir).length === 0) rmdirSync(pinDir);
  }

  /**
   * Where a capture puts its program: empty as long as none runs. Undefined if the programs were loaded by a version
   * without. Close it, or that of a killed capture stays there.
   */
  captureProgram(): BpfMap | undefined {
    return this.#maps.sockets.sockmapProgramMap('capture');
  }

  /** Lets another object's programs use the maps of this datapath. */
  shareMaps(object: BpfObject): void {
    const shared = new Set(object.mapNames());
    for (const name of MAP_NAMES) if (shared.has(name)) object.reuseMap(name, this.#maps[name]);
  }

  /** The ring buffer of struct event. */
  get events(): BpfMap {
    return this.#maps.events;
  }

  counters(): DatapathCounters {
    const value = this.#maps.counters.lookup(Buffer.alloc(4)) ?? Buffer.alloc(0);
    const stride = Math.ceil(this.layout.size('counters') / 8) * 8;
    const cpus = possibleCpus();
    const records = new Records(
      value.buffer.slice(value.byteOffset, value.byteOffset + value.length) as ArrayBuffer,
      stride,
    );
    const sum = (path: string): number => {
      const field = this.layout.field('counters', path);
      let total = 0;
      for (let cpu = 0; cpu < cpus; cpu++) total += records.get(cpu, field);
      return total;
    };
    const byReason = (member: string, labels: string[]): Record<string, number> =>
      Object.fromEntries(labels.map((label, index) => [label, sum(`${member}[${String(index)}]`)]));
    return {
      pairs: sum('pairs'),
      closedPairs: sum('closed_pairs'),
      candidates: sum('candidates'),
      eventsLost: sum('events_lost'),
      totalsLost: sum('totals_lost'),
      releaseFailed: sum('release_failed'),
      dropped: sum('dropped'),
      passed: byReason('passed', this.layout.labels('pass_reason')),
      unpaired: byReason('unpaired', this.layout.labels('unpaired_reason')),
    };
  }

  /** Redirected by pairs that have closed, by sending cgroup id; 0 is "gone". */
  closedTotals(): Map<bigint, Total> {
    const totals = new Map<bigint, Total>();
    for (const key of this.#maps.totals.keys()) {
      const value = this.#maps.totals.lookup(key);
      if (value !== undefined) totals.set(key.readBigUInt64LE(), this.#decodeTotal(value));
    }
    return totals;
  }

  /** Moves a vanished cgroup's count to id 0, so that the map stays small. */
  foldTotal(id: bigint): void {
    const key = Buffer.alloc(8);
    key.writeBigUInt64LE(id);
    const value = this.#maps.totals.lookupAndDelete(key);
    if (value === undefined) return;
    const gone = this.#maps.totals.lookup(Buffer.alloc(8)) ?? Buffer.alloc(value.length);
    for (let at = 0; at < value.length; at += 8) {
      gone.writeBigUInt64LE(gone.readBigUInt64LE(at) + value.readBigUInt64LE(at), at);
    }
    this.#maps.totals.update(Buffer.alloc(8), gone);
  }

  /** Detaches and unpins. Call with an empty sockmap: sockets left in it lose data. */
  remove(): void {
    this.#links.identify.detach();
    if (this.pinDir !== undefined) Datapath.removePinDir(this.pinDir);
    this.close();
  }

  /** Closes this process's handles; pinned things stay. */
  close(): void {
    for (const link of Object.values(this.#links)) link?.close();
    for (const name of MAP_NAMES) this.#maps[name].close();
  }

  #decodeTotal(value: Buffer): Total {
    const read = (member: string): number => Number(value.readBigUInt64LE(this.layout.field('total', member).offset));
    return { bytes: read('bytes'), messages: read('messages') };
  }
}

/** @throws UserError if what is pinned there is of another ABI version. */
export function requireAbi(pinDir: string): void {
  const pinned = pinnedAbiVersion(pinDir);
  if (pinned === ABI_VERSION || pinned === 0) return;
  const is = `the datapath pinned in ${pinDir} has ABI version ${String(pinned)} and this version reads ${String(ABI_VERSION)}`;
  throw new UserError(
    pinned < ABI_VERSION
      ? `${is}: "slipstream-bpf up" of this version drains and replaces it, "down" drains and removes it`
      : `${is}: a later version loaded it; use that, or run its "slipstream-bpf down" first`,
  );
}

function unlinkIfThere(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}

/** True for errors of the native seam. */
export function isNativeError(error: unknown): error is NativeError {
  return error instanceof NativeError;
}
