/**
 * `bench`: ping-pong over TCP and over the datapath, in turns, on connections of its own. Like the kernel gate it loads
 * the datapath unpinned for a private cgroup; no other connection of the host is touched.
 */
import { rmdirSync } from 'node:fs';

import { EXIT, UserError } from '../errors.js';
import { Datapath } from '../datapath/datapath.js';
import { SIDES } from '../datapath/pair-table.js';
import { gateFacts, MEANING } from './findings.js';
import { Failed, GateError, type GateOptions, gateCgroup, insertPairs, runGate } from './gate.js';
import { GateSockets, SocketsAnswer, SocketsError } from './gate-sockets.js';

/** Bytes of a request and of its answer. */
const SIZES = [64, 1024, 16_384];
/** Each path is measured so often with each size, in turns. */
const ROUNDS = 3;
const BACKLOG = 1024 * 1024;
const TCP = 0;
const DIRECT = 1;

/** One path with one size: medians of its rounds. */
export interface BenchPath {
  roundTripsPerSecond: number;
  /** Of a round trip, microseconds. */
  p50: number;
  p99: number;
  /** CPU time of both programs for a round trip, microseconds. */
  cpu: number;
}

export interface BenchRow {
  /** Bytes of a message. */
  size: number;
  tcp: BenchPath;
  slipstream: BenchPath;
  /** Round trips: slipstream to TCP. */
  ratio: number;
  /** Part of the messages that was redirected, 0 to 1. */
  redirected: number;
}

export interface BenchResult {
  kernel: string;
  seconds: number;
  /** Whether the connections had a network namespace of their own. */
  privateNetwork: boolean;
  rows: BenchRow[];
}

/**
 * @param seconds how long to measure in all
 * @throws UserError (exit code 3) if this kernel can't, or (1) if it could not be carried out
 */
export async function bench(options: GateOptions, seconds: number, signal: AbortSignal): Promise<BenchResult> {
  const kernel = await passGate(options);
  const cgroup = gateCgroup(options);
  const timeout = seconds * 1000 + 30_000;
  let datapath: Datapath | undefined;
  let sockets: GateSockets | undefined;
  let timer: NodeJS.Timeout | undefined;
  const abort = (): void => {
    sockets?.abort('it was interrupted');
  };
  try {
    datapath = Datapath.load({
      objectFile: options.objectFile,
      pinDir: undefined,
      cgroupDir: cgroup.dir,
      maxPairs: 16,
      version: 'bench',
    });
    sockets = await GateSockets.start(options.socketsProgram, cgroup.made ? cgroup.dir : undefined);
    signal.addEventListener('abort', abort);
    timer = setTimeout(() => sockets?.abort('it took too long'), timeout);
    const [network, ...ports] = (await sockets.command('open 2')).split(' ');
    // An instance that is attached above would promote it, too.
    for (const side of SIDES) await sockets.command(`plain ${String(TCP)} ${String(side)}`);
    const [pair] = await insertPairs(datapath, [Number(ports[DIRECT])], BACKLOG);
    const slot = pair?.slot ?? 0;
    const milliseconds = Math.max(1, Math.floor((seconds * 1000) / (SIZES.length * ROUNDS * 2)));
    const rows: BenchRow[] = [];
    for (const size of SIZES) rows.push(await measure(sockets, datapath, slot, size, milliseconds));
    return { kernel, seconds, privateNetwork: network === 'private', rows };
  } catch (error) {
    if (error instanceof SocketsError || error instanceof SocketsAnswer || error instanceof Failed) {
      throw new UserError(`the measurement was not finished: ${error.message}`, EXIT.failed, { cause: error });
    }
    throw error;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', abort);
    await sockets?.stop();
    datapath?.remove();
    if (cgroup.made) rmdirSync(cgroup.dir);
  }
}

/** @returns the kernel's name */
async function passGate(options: GateOptions): Promise<string> {
  try {
    const { kernel, masks } = await runGate(options);
    const { refusal } = gateFacts(masks);
    if (refusal === undefined) return kernel.name;
    throw new UserError(
      `kernel ${kernel.name} does not pass the kernel gate (${refusal}): ${MEANING[refusal].consequence}, ${MEANING[refusal].remedy}`,
      EXIT.unsupported,
    );
  } catch (error) {
    if (!(error instanceof GateError)) throw error;
    throw new UserError(`the kernel gate could not be run: ${error.message}`, EXIT.unsupported, { cause: error });
  }
}

async function measure(
  sockets: GateSockets,
  datapath: Datapath,
  slot: number,
  size: number,
  milliseconds: number,
): Promise<BenchRow> {
  const runs: [BenchPath[], BenchPath[]] = [[], []];
  const redirected = (): number =>
    SIDES.reduce<number>((sum, side) => sum + datapath.pairs.redirectedMessages(slot, side), 0);
  let messages = 0;
  const before = redirected();
  for (let round = 0; round < ROUNDS; round++) {
    for (const path of [TCP, DIRECT] as const) {
      const answer = await sockets.command(`pingpong ${String(path)} 0 ${String(size)} ${String(milliseconds)}`);
      const [count = 0, nanoseconds = 1, p50 = 0, p99 = 0, cpu = 0] = answer.split(' ').map(Number);
      runs[path].push({
        roundTripsPerSecond: (count * 1e9) / nanoseconds,
        p50: p50 / 1000,
        p99: p99 / 1000,
        cpu: cpu / count / 1000,
      });
      if (path === DIRECT) messages += 2 * count;
    }
  }
  const [tcp, slipstream] = [middle(runs[TCP]), middle(runs[DIRECT])];
  return {
    size,
    tcp,
    slipstream,
    ratio: slipstream.roundTripsPerSecond / tcp.roundTripsPerSecond,
    redirected: (redirected() - before) / messages,
  };
}

/** Each figure's median over the rounds. */
function middle(runs: readonly BenchPath[]): BenchPath {
  const median = (of: (run: BenchPath) => number): number =>
    runs.map(of).sort((a, b) => a - b)[Math.floor(runs.length / 2)] ?? NaN;
  return {
    roundTripsPerSecond: median((run) => run.roundTripsPerSecond),
    p50: median((run) => run.p50),
    p99: median((run) => run.p99),
    cpu: median((run) => run.cpu),
  };
}
