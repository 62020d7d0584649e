/**
 * `up --adopt`: pairs of connections that were established before the datapath was attached, or that identify missed.
 *
 * The two ends are found by their sequence numbers (match.ts). What must hold before a pair is like any other is that
 * observe's count of received bytes is TCP's, and stays so: it is taken from TCP while the socket is locked and has
 * nothing unread, and believed if nothing was sent or received until no thread can be in a receive that began before
 * (settle.ts). A connection that is never quiet for so long, some tens of milliseconds, stays on TCP.
 */
import { relative } from 'node:path';

import type { Logger } from 'pino';

import type { Datapath } from '../datapath/datapath.js';
import { decodeControl } from '../datapath/pair-table.js';
import { type Descriptor, establishedInodes, findDescriptors, programOf } from '../explain/host.js';
import { cgroupRoot, inCgroupNamespace } from '../probe/host.js';
import type { Borrower } from './borrow.js';
import { isUnmoved, matchSockets, type Match, nextStep, type SeenSocket } from './match.js';
import { AdoptProgram, type Answer, makeBorrower, type Order } from './program.js';
import { settle } from './settle.js';

/** When connections are looked for, seconds after the start: what is not quiet now may be so later. */
const ROUNDS = [0, 1, 2, 4, 8, 16, 32, 64];
/** How long a round waits for threads that run, milliseconds. */
const SETTLE = 3000;

export interface RoundOptions {
  datapath: Datapath;
  /** The compiled bpf/adopt.bpf.c. */
  objectFile: string;
  /** What the datapath is attached to. */
  cgroupDir: string;
  /** See makeBorrower(). */
  borrower: Borrower;
  /** Ends the round: it rejects, and does nothing more. */
  signal?: AbortSignal;
}

export interface AdoptOptions extends Omit<RoundOptions, 'borrower' | 'signal'> {
  /** The compiled probe/slipstream-borrow.c. */
  borrowProgram: string;
  log: Logger;
}

/** What a round came to. */
export interface Round {
  /** Pairs that are like any other now. */
  adopted: number;
  /** Pairs that were found, and were not quiet for long enough. */
  restless: number;
  /** Processes whose connections could not be judged: they were busy all the time. */
  busy: ReadonlySet<number>;
  /** Why there is no sense in another round. */
  obstacle: 'callbacks' | 'table_full' | undefined;
}

const OBSTACLES = {
  callbacks: 'this kernel can be asked for the end of a connection by its handshake only (6.12 is the first that can)',
  table_full: 'the pair table is full: raise --max-pairs',
};

/** Looks for connections again and again for a minute. */
export class Adoption {
  readonly #options: AdoptOptions;
  readonly #borrower: Borrower;
  readonly #end = new AbortController();
  /** What was logged. */
  readonly #errors = new Set<string>();
  readonly #busy = new Set<number>();
  #timer: NodeJS.Timeout | undefined;
  #round: Promise<void> = Promise.resolve();
  #adopted = 0;

  constructor(options: AdoptOptions) {
    this.#options = options;
    this.#borrower = makeBorrower(options.borrowProgram, ({ pid }) => {
      options.log.warn(
        { pid, program: programOf(pid) },
        'a process has had a socket locked for longer than a system call takes: its connections from before are not ' +
          'adopted as long as that lasts',
      );
    });
  }

  start(): void {
    this.#schedule(0);
  }

  /** Ends the round that is under way. */
  async close(): Promise<void> {
    this.#end.abort();
    clearTimeout(this.#timer);
    await this.#round;
  }

  #schedule(index: number): void {
    if (this.#end.signal.aborted) return;
    const [before = 0, after = 0] = index === 0 ? [0, 0] : ROUNDS.slice(index - 1);
    this.#timer = setTimeout(
      () => {
        this.#round = this.#run(index);
      },
      1000 * (after - before),
    );
  }

  async #run(index: number): Promise<void> {
    const { datapath, log } = this.#options;
    const { signal } = this.#end;
    const last = index + 1 === ROUNDS.length;
    let restless = 0;
    try {
      if (datapath.settings.paused) return;
      const round = await adoptRound({ ...this.#options, borrower: this.#borrower, signal });
      restless = round.restless;
      this.#adopted += round.adopted;
      this.#tellBusy(round.busy);
      if (round.adopted > 0) log.info({ adopted: round.adopted, restless }, 'connections adopted');
      if (round.obstacle !== undefined) {
        log.warn({ adopted: this.#adopted }, `no more connections are adopted: ${OBSTACLES[round.obstacle]}`);
        return;
      }
    } catch (error) {
      if (signal.aborted) return;
      this.#warn(String(error), last);
    }
    if (!last) {
      this.#schedule(index + 1);
      return;
    }
    log.info(
      { adopted: this.#adopted, restless },
      'adoption is over: connections from before that were never quiet stay on TCP until they are made anew',
    );
  }

  #tellBusy(pids: ReadonlySet<number>): void {
    for (const pid of pids) {
      if (this.#busy.has(pid)) continue;
      this.#busy.add(pid);
      this.#options.log.info(
        { pid, program: programOf(pid) },
        'a thread of this process was busy in the kernel for seconds: its connections from before are looked at again later',
      );
    }
  }

  /** What fails may not fail again: each error is told once. */
  #warn(error: string, last: boolean): void {
    if (this.#errors.has(error)) return;
    this.#errors.add(error);
    this.#options.log.warn(
      { error },
      `connections from before the start could not be adopted${last ? '' : ': tried again until a minute is over'}`,
    );
  }
}

/** Looks once. @throws NativeError if the program can't be loaded or attached, AbortError */
export async function adoptRound({ datapath, objectFile, cgroupDir, borrower, signal }: RoundOptions): Promise<Round> {
  const round: Round = { adopted: 0, restless: 0, busy: new Set(), obstacle: undefined };
  const descriptors = await findDescriptors(await establishedInodes(signal), {
    below: pathOf(cgroupDir),
    ...(signal !== undefined && { signal }),
  });
  if (descriptors.length === 0) return round;
  const program = new AdoptProgram(datapath, objectFile, cgroupDir, descriptors.length, borrower, signal);
  try {
    const seen = (await program.ask(descriptors)).flatMap(({ socket }) => socket ?? []);
    const tied = await tie(program, descriptors, matchSockets(seen), round);
    if (tied.length === 0) return round;
    const inodes = tied.flatMap(({ ends }) => ends.map(({ descriptor }) => descriptor.inode));
    const settled = await settle(new Set(inodes), SETTLE, signal);
    round.busy = settled.busy;
    const answers = await program.ask(tied.flatMap(({ ends }) => ends.map((end) => end.descriptor)));
    for (const [index, { slot, ends }] of tied.entries()) {
      const unmoved = ends.every(({ socket }, side) => {
        const answer = answers[2 * index + side];
        return answer !== undefined && isUnmoved(socket, answer.socket, answer.counted);
      });
      const control = datapath.pairs.control(slot);
      const whole = answers[2 * index]?.socket?.slot?.control === control.word && control.state === 'joining';
      const counted = settled.all && ends.every(({ descriptor }) => !settled.unsettled.has(descriptor.inode));
      if (counted && unmoved && whole && datapath.pairs.change(slot, control, 'observed') !== undefined) {
        round.adopted++;
        datapath.controllerCounters.adopted();
      } else {
        round.restless++;
      }
    }
    return round;
  } finally {
    program.close();
  }
}

/** As /proc names it; undefined: it is the root, or out of sight. */
function pathOf(cgroupDir: string): string | undefined {
  const path = relative(cgroupRoot(), cgroupDir);
  return path === '' || path.startsWith('..') || inCgroupNamespace() ? undefined : `/${path}`;
}

/** A pair with a slot, as its two sockets were when their counts were taken. */
interface Tied {
  slot: number;
  ends: readonly [TiedEnd, TiedEnd];
}
interface TiedEnd {
  descriptor: Descriptor;
  socket: SeenSocket;
}

/** Takes slots for what has none, and the counts of all: first the clients, then their servers. */
async function tie(
  program: AdoptProgram,
  descriptors: readonly Descriptor[],
  matches: readonly Match[],
  round: Round,
): Promise<Tied[]> {
  const steps = matches
    .map((match) => ({ match, step: nextStep(match, (control) => decodeControl(control).state) }))
    .filter(({ step }) => step.kind !== 'none');
  const target = (socket: SeenSocket, order: Order): Descriptor & { order: Order } => {
    const descriptor = descriptors[socket.index];
    if (descriptor === undefined) throw new RangeError(`no socket ${String(socket.index)}`);
    return { ...descriptor, order };
  };
  const order = (kind: Order['order'], { sequence, expected }: SeenSocket, key: bigint): Order => ({
    order: kind,
    sequence,
    expected,
    key,
    slot: 0,
    control: 0,
  });
  const clients = await program.ask(
    steps.map(({ match: { client, key }, step }) =>
      target(client, order(step.kind === 'claim' ? 'ADOPT_CLIENT' : 'ADOPT_COUNT', client, key)),
    ),
  );
  const halves = steps.flatMap(({ match, step }, index) => {
    const client = done(clients[index], round);
    return client?.slot === undefined ? [] : [{ match, step, client, slot: client.slot }];
  });
  const servers = await program.ask(
    halves.map(({ match: { server, key }, step, slot }) =>
      target(server, {
        ...order(step.kind === 'count' ? 'ADOPT_COUNT' : 'ADOPT_SERVER', server, key),
        slot: slot.slot,
        control: slot.control,
      }),
    ),
  );
  return halves.flatMap(({ match, client, slot }, index): Tied[] => {
    const server = done(servers[index], round);
    const [first, second] = [descriptors[match.client.index], descriptors[match.server.index]];
    if (server === undefined || first === undefined || second === undefined) return [];
    return [
      {
        slot: slot.slot,
        ends: [
          { descriptor: first, socket: client },
          { descriptor: second, socket: server },
        ],
      },
    ];
  });
}

/** The socket, if it did as ordered. */
function done(answer: Answer | undefined, round: Round): SeenSocket | undefined {
  if (answer?.answer === 'done') return answer.socket;
  if (answer?.answer === 'callbacks' || answer?.answer === 'table_full') round.obstacle = answer.answer;
  else round.restless++;
  return undefined;
}
