/** What a case of the suite is, and what most of them need. */
import type { FindingId } from '../../../controller/probe/findings.js';
import type { Answer, Connection } from '../support/endpoint.js';

export type Who = 'client' | 'server';

export function otherEnd(who: Who): Who {
  return who === 'client' ? 'server' : 'client';
}

/** A command that runs in a thread. */
export interface Started {
  /** Waits for its answer and writes it down. */
  finish: () => Promise<Answer>;
  /** Its answer, not written down. */
  answer: Promise<Answer>;
}

/** Runs commands and writes their answers down. */
export interface Recorder {
  client: (command: string) => Promise<Answer>;
  server: (command: string) => Promise<Answer>;
  /** Starts a command in a thread. */
  start: (who: Who, tag: string, command: string) => Promise<Started>;
  /** The same, and waits until it sleeps in its call. */
  park: (who: Who, tag: string, command: string) => Promise<Started>;
  /** Writes something down that was found out by other means. */
  note: (what: string, value: unknown) => void;
  /** Waits until both ends have all that was sent, end of stream and reset included. */
  settle: () => Promise<void>;
  /** The point where the pair is promoted when that is to happen in mid-case. */
  midway: () => Promise<void>;
  /** Waits until the pair is promoted, where the case itself has made it a candidate. */
  inserted: () => Promise<void>;
  /** Waits until the pair has left the sockmap, where the case has given reason. */
  left: () => Promise<void>;
  connection: Connection;
}

/** A pair that the datapath keeps from harm, so that the records are equal. */
export interface Prevention {
  /** Why it is not promoted in mid-case. */
  refusal?: string;
  /** Why it goes back to TCP when it was promoted before. */
  demotion?: string;
  /** Why its messages use TCP when it was promoted before. */
  passes?: string;
}

/** Where TCP and tcp_bpf cannot be made equal. */
export interface Difference {
  /** Begin of the first cell of a row of docs/guarantees.md. */
  row: string;
  /** Which answers may differ: what TCP says, and what a promoted socket says. */
  answers: Answers;
  /** In their place where the kernel fails a finding of the gate. */
  failing?: Readonly<Partial<Record<FindingId, Answers>>>;
}

export type Answers = Readonly<Record<string, readonly [plain: RegExp, promoted: RegExp]>>;

export interface Case {
  name: string;
  /** Both ends block. */
  blocking?: boolean;
  /** The way between the ends; default: loopback. */
  through?: 'nat';
  /** Why the case says nothing on this machine, if so; run on plain TCP. */
  needs?: (connection: Connection) => Promise<string | undefined>;
  run: (r: Recorder) => Promise<void>;
  /** Nothing is sent that could be redirected. */
  silent?: boolean;
  prevented?: Prevention;
  /** Absent: the records are equal. */
  differs?: Difference;
}

export const ALL_EVENTS = 'POLLIN|POLLOUT|POLLPRI|POLLRDHUP|POLLHUP|POLLERR';

/** Awaits what was sent, so that both runs look at the same state. */
export async function arrived(r: Recorder, who: Who): Promise<void> {
  await r[who]('poll 2 POLLIN 5000');
}

/** Time for something that must not happen. */
export async function nothingHappens(r: Recorder, who: Who): Promise<void> {
  await r[who]('poll 2 POLLIN 30');
}

/** Of MSG_ZEROCOPY, where the kernel fails the gate's finding. */
export const NOT_COMPLETED: Answers = {
  'client poll 2 POLLERR 1000': [/"POLLERR"/, /"returned":0/],
  'client errqueue 2': [/"zerocopy":true/, /EAGAIN/],
};
