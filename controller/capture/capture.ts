/**
 * `capture`: the payload of promoted pairs as pcapng.
 *
 * Where whoever takes the packets is slow, records stay in the kernel's ring buffer until that is full, and then are lost
 * and counted; senders never wait.
 */
import { hostname, release } from 'node:os';

import { Datapath } from '../datapath/datapath.js';
import type { CgroupNames } from '../datapath/cgroups.js';
import { UserError } from '../errors.js';
import { openDatapath } from '../view/reader.js';
import { Output } from './output.js';
import { enhancedPacket, interfaceDescription, interfaceStatistics, sectionHeader } from './pcapng.js';
import { Selection, type SelectionOptions } from './selection.js';
import { type Candidate, type CapturedPacket, formatSocket, pairId, type PairName, Streams } from './streams.js';
import { Tap } from './tap.js';

export interface CaptureOptions extends SelectionOptions {
  pinDir: string;
  /** A file, or `-` for standard output. */
  output: string;
  /** Bytes kept of each message; 0 and more. */
  snaplen: number;
  /** Packets after which it ends; may be Infinity. */
  count: number;
  /** Seconds after which it ends. */
  duration: number | undefined;
}

export interface CaptureEnvironment {
  /** The datapath's, for its types. */
  objectFile: string;
  captureObjectFile: string;
  version: string;
  /** For people. */
  say: (line: string) => void;
  /** Ends it. */
  stop: AbortSignal;
}

/** By enum direction_path. */
const INTERFACES = [
  ['tcp', 'messages of promoted connections that went over TCP, where others see them, too'],
  ['direct', 'messages that went straight to the reader, with sequence numbers as if TCP had carried them'],
] as const;

/** How often it is made sure that the datapath is still there, milliseconds. */
const CHECK_INTERVAL = 500;

/** @throws UserError if there is no datapath, another capture runs, or the output fails. */
export async function capture(options: CaptureOptions, environment: CaptureEnvironment): Promise<void> {
  const selection = new Selection(options);
  const { pair } = selection;
  // Before anything is opened: what is pinned later may be another datapath, or none.
  const program = Datapath.pinnedProgramId(options.pinDir);
  const { datapath, cgroups } = openDatapath(options.pinDir, environment.objectFile);
  try {
    if (pair !== undefined && !isThere(datapath, pair)) {
      throw new UserError(`there is no pair ${pairId(pair)}: "slipstream-bpf pairs" lists those there are`);
    }
    const tap = new Tap(datapath, environment.captureObjectFile, options.snaplen);
    try {
      const output = new Output(options.output);
      await new Capture(options, environment, datapath, cgroups, selection, tap, output).run(program);
    } finally {
      tap.close();
    }
  } finally {
    datapath.close();
  }
}

class Capture {
  readonly #options: CaptureOptions;
  readonly #environment: CaptureEnvironment;
  readonly #datapath: Datapath;
  readonly #cgroups: CgroupNames;
  readonly #tap: Tap;
  readonly #output: Output;
  readonly #streams: Streams;
  readonly #written: [number, number] = [0, 0];
  readonly #startNs = timeOfDayNs();
  /** From CLOCK_MONOTONIC to the time of day, as it was at the start. */
  readonly #offsetNs = this.#startNs - process.hrtime.bigint();
  /** Blocks for the next write. */
  #blocks: Buffer[] = [];
  #end: (error?: UserError) => void = () => undefined;

  constructor(
    options: CaptureOptions,
    environment: CaptureEnvironment,
    datapath: Datapath,
    cgroups: CgroupNames,
    selection: Selection,
    tap: Tap,
    output: Output,
  ) {
    this.#options = options;
    this.#environment = environment;
    this.#datapath = datapath;
    this.#cgroups = cgroups;
    this.#tap = tap;
    this.#output = output;
    this.#streams = new Streams({
      wants: (pair) => selection.wants(pair, (id) => cgroups.path(id, true)),
      skip: (pair) => {
        tap.skip(pair);
      },
      exists: (pair) => isThere(datapath, pair),
      describe: (pair) => this.#describe(pair),
      write: (packet) => {
        this.#write(packet);
      },
      warn: environment.say,
    });
  }

  /**
   * Resolves when it has ended as it should.
   * @param program identity of the datapath, see {@link Datapath.pinnedProgramId}
   */
  async run(program: number | undefined): Promise<void> {
    const { version, say } = this.#environment;
    this.#blocks.push(sectionHeader(`slipstream-bpf ${version}`, `Linux ${release()} on ${hostname()}`));
    this.#blocks.push(...INTERFACES.map(([name, description]) => interfaceDescription(name, description)));
    this.#flush();
    this.#tap.start((records) => {
      for (const record of records) this.#streams.accept(record);
      this.#flush();
    });
    say('capturing promoted connections; Ctrl-C ends it');
    const error = await this.#untilEnd(program);
    await this.#tap.finish(() => this.#output.failed || this.#isFull);
    this.#finish();
    await this.#output.end();
    const lost = this.#tap.lost[0] + this.#tap.lost[1];
    say(
      `${String(this.#written[0] + this.#written[1])} packets of ${String(this.#streams.pairs)} pairs written, ` +
        `${String(lost)} messages lost because they were not taken in time`,
    );
    if (error !== undefined) throw error;
    this.#output.check();
  }

  /** Why it ended, if that is an error. */
  async #untilEnd(program: number | undefined): Promise<UserError | undefined> {
    const { stop } = this.#environment;
    const timers: NodeJS.Timeout[] = [];
    const error = await new Promise<UserError | undefined>((resolve) => {
      this.#end = resolve;
      const end = (): void => {
        resolve(undefined);
      };
      if (stop.aborted || this.#isFull || this.#output.failed) end();
      stop.addEventListener('abort', end, { once: true });
      this.#output.onFailure(end);
      if (this.#options.duration !== undefined) timers.push(setTimeout(end, this.#options.duration * 1000));
      const check = (): void => {
        const pinned = Datapath.pinnedProgramId(this.#options.pinDir);
        if (pinned === undefined || pinned !== program) {
          resolve(new UserError('the capture has ended: the datapath was taken down'));
        } else if (!this.#tap.attached) {
          resolve(new UserError('the capture has ended: another one has taken its place'));
        }
      };
      timers.push(setInterval(check, CHECK_INTERVAL));
    });
    for (const timer of timers) clearTimeout(timer);
    return error;
  }

  get #isFull(): boolean {
    return this.#written[0] + this.#written[1] >= this.#options.count;
  }

  #write({ timeNs, direct, bytes, originalLength, comment }: CapturedPacket): void {
    const before = this.#written[0] + this.#written[1];
    if (before >= this.#options.count) return;
    const path = direct ? 1 : 0;
    this.#written[path]++;
    this.#blocks.push(
      enhancedPacket({ interface: path, timeNs: timeNs + this.#offsetNs, bytes, originalLength, comment }),
    );
    if (before + 1 >= this.#options.count) this.#end();
  }

  #finish(): void {
    const endNs = timeOfDayNs();
    const { lost } = this.#tap;
    for (const path of [0, 1] as const) {
      this.#blocks.push(
        interfaceStatistics({
          interface: path,
          startNs: this.#startNs,
          endNs,
          received: this.#written[path],
          dropped: lost[path],
        }),
      );
    }
    this.#flush();
  }

  #flush(): void {
    if (this.#blocks.length === 0) return;
    const bytes = Buffer.concat(this.#blocks);
    this.#blocks = [];
    const more = this.#output.write(bytes, () => {
      this.#tap.resume();
    });
    if (!more) this.#tap.pause();
  }

  #describe({ slot, generation, ends: [client, server], cgroups }: Candidate): string {
    const record = this.#datapath.pairs.read(slot);
    const [clientName, serverName] = [0, 1].map((side) => {
      const end = record?.control.generation === generation ? record.ends[side] : undefined;
      const cgroup = this.#cgroups.path(cgroups[side === 0 ? 0 : 1]) ?? '(gone)';
      const process = end === undefined || end.pid === 0 ? '?' : `${end.program}(${String(end.pid)})`;
      return `${process} in ${cgroup}`;
    });
    const translated =
      formatSocket(client.local) !== formatSocket(server.remote) ||
      formatSocket(client.remote) !== formatSocket(server.local);
    const seen = `${formatSocket(server.remote)} > ${formatSocket(server.local)}`;
    return (
      `pair ${pairId({ slot, generation })}: client ${clientName ?? '?'}, server ${serverName ?? '?'}` +
      (translated ? `; translated on the way: the server's own addresses are ${seen}` : '') +
      '; from the middle of the connection'
    );
  }
}

function isThere(datapath: Datapath, { slot, generation }: PairName): boolean {
  if (slot >= datapath.pairs.capacity) return false;
  const control = datapath.pairs.control(slot);
  return control.generation === generation && control.state !== 'free';
}

/** Nanoseconds since 1970, to about a microsecond. */
function timeOfDayNs(): bigint {
  return BigInt(Math.round(performance.timeOrigin * 1e3 + performance.now() * 1e3)) * 1000n;
}
