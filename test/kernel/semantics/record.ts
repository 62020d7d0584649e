/** Runs one case and writes down what its two ends saw. */
import assert from 'node:assert/strict';

import { type Answer, Connection } from '../support/endpoint.js';
import type { Case, Started, Who } from './case.js';

/** What may differ between two runs of the same program. */
const VOLATILE = new Set([
  ...['microseconds', 'maxMicroseconds', 'averageMicroseconds', 'calls', 'again'],
  ...['where', 'tag', 'byte', 'port', 'localPort', 'peerPort'],
  // Of the whole connection: what the case did to them is noted by the case.
  ...['bytesSent', 'bytesAcked', 'bytesReceived', 'segmentsIn', 'segmentsOut', 'retransmits', 'unacked', 'stream'],
]);

function observable(answer: Answer): string {
  return JSON.stringify(Object.fromEntries(Object.entries(answer).filter(([key]) => !VOLATILE.has(key))));
}

/** What a form of a run does at the points that a case names. */
export interface Hooks {
  midway?: () => Promise<void>;
  inserted?: () => Promise<void>;
  left?: () => Promise<void>;
}

/** The command or the name of a note, and what came of it. */
export interface Line {
  command: string;
  answer: string;
}

/** Runs a case; `lines` grows as it goes, for one that never ends. */
export async function record(test: Case, connection: Connection, hooks: Hooks, lines: Line[] = []): Promise<Line[]> {
  const write = (command: string, answer: Answer): Answer => {
    lines.push({ command, answer: observable(answer) });
    return answer;
  };
  const step = async (who: Who, command: string): Promise<Answer> =>
    write(`${who} ${command}`, await connection[who].run(command));
  const start = async (who: Who, tag: string, command: string): Promise<Started> => {
    const { answer } = await connection[who].background(tag, command);
    return { answer, finish: async () => write(`${who} ${command} in a thread`, await answer) };
  };
  let midways = 0;
  await test.run({
    client: (command) => step('client', command),
    server: (command) => step('server', command),
    start,
    park: async (who, tag, command) => {
      const started = await start(who, tag, command);
      await connection[who].do(`parked ${tag}`);
      return started;
    },
    note: (what, value) => lines.push({ command: what, answer: JSON.stringify(value) }),
    settle: async () => {
      // Either handle may have been closed.
      await connection.client.run('settle 2');
      await connection.server.run('settle 2');
    },
    midway: async () => {
      midways++;
      if (midways === 1) await hooks.midway?.();
    },
    inserted: async () => {
      await hooks.inserted?.();
    },
    left: async () => {
      await hooks.left?.();
    },
    connection,
  });
  assert.ok(midways > 0, 'the case has no midway point');
  return lines;
}
