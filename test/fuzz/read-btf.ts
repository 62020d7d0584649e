/** Reads every type of the object file named by the argument, again for each line of its input. */
import { createInterface } from 'node:readline';

import { BpfObject } from '../../addon/index.js';

const STRUCTS = ['pair', 'direction', 'reader', 'settings', 'counters', 'event', 'address', 'total', 'endpoint'];
const ENUMS = ['pass_reason', 'refusal_reason', 'evidence', 'notice', 'event_type', 'gate_finding', ''];

function attempt(read: () => unknown): void {
  try {
    read();
  } catch {
    // refused in so many words
  }
}

console.log('ready');
for await (const line of createInterface({ input: process.stdin })) {
  let object: BpfObject | undefined;
  attempt(() => (object = BpfObject.open((process.argv.at(-1) ?? '') + line)));
  console.log('opened');
  for (const name of STRUCTS) attempt(() => object?.structLayout(name));
  for (const name of ENUMS) attempt(() => object?.enumValues(name));
  object?.close();
  console.log('read');
}
