import { hostname } from 'node:os';

import { Datapath } from '../../datapath/datapath.js';
import { STATES } from '../../datapath/pair-table.js';
import { type Inventory, readInventory } from '../../explain/inventory.js';
import { PolicyRecord } from '../../policy/in-force.js';
import { inventoryPolicy, takeInventory } from '../../policy/inventory.js';
import { LearnedPrograms } from '../../policy/learned.js';
import { defaultPolicy } from '../../policy/schema.js';
import { isBpffsDirectory } from '../../probe/host.js';
import { withDatapath } from '../../view/reader.js';
import { pairJudge } from '../../view/traffic.js';
import type { InitArguments } from '../commands/policy-init.js';
import { say } from '../options.js';
import { requireNew, writeNew } from '../output-file.js';
import { objectFile } from '../package-info.js';

export function runPolicyInit({ output, action, 'pin-dir': pinDir, 'state-dir': stateDir }: InitArguments): void {
  if (output !== undefined) requireNew(output);
  const isRoot = process.geteuid?.() === 0;
  const isWatched = isRoot && isBpffsDirectory(pinDir) && Datapath.pinState(pinDir) === 'complete';
  const inventory = isWatched ? readWatched(pinDir, stateDir) : readInventory(undefined);
  const workloads = takeInventory(inventory.connections);
  const notes = limits(inventory, isRoot, isWatched);
  const text = inventoryPolicy(workloads, action, [...HEADER, ...notes.map((note) => `Note: ${note}`)], isWatched);
  for (const note of notes) process.stderr.write(`slipstream-bpf: ${note}\n`);
  if (output === undefined) {
    say(text.trimEnd());
    return;
  }
  writeNew(output, text);
  say(
    `${output}: ${String(workloads.length)} rules, action ${action}; start with "slipstream-bpf up --policy ${output}"`,
  );
}

function readWatched(pinDir: string, stateDir: string): Inventory {
  return withDatapath(pinDir, objectFile(), (reading) => {
    const { datapath } = reading;
    const inForce = new PolicyRecord(stateDir, pinDir, datapath.settings.loadedNs).read();
    const judge = pairJudge(reading, inForce?.policy ?? defaultPolicy, new LearnedPrograms(stateDir));
    const records = [...datapath.pairs.slots(...STATES.filter((state) => state !== 'free'))].flatMap(
      ([slot, control]) => datapath.pairs.read(slot, control) ?? [],
    );
    return readInventory({ records, judge });
  });
}

/** What could not be seen, each a sentence. */
function limits({ connections, hidden }: Inventory, isRoot: boolean, isWatched: boolean): string[] {
  return [
    ...(connections.length === 0 ? ['no connection has both ends here at present, so there are no rules'] : []),
    ...(hidden === 0
      ? []
      : [
          `${String(hidden)} ends of local connections belong to processes that can not be seen ${isRoot ? "here: run this in the host's PID and cgroup namespace" : 'without root: run this with sudo'}`,
        ]),
    ...(isRoot ? [] : ['without root only the network namespaces of your own processes can be seen']),
    ...(isWatched ? [] : ['no datapath was asked what it has observed: none is loaded, or that needs root']),
  ];
}

const HEADER = [
  `Written by "slipstream-bpf policy init" on ${hostname()}, ${new Date().toISOString().slice(0, 10)}, from the connections of that moment.`,
  '',
  '1. Start with it as it is: "up --policy FILE" counts what it could accelerate, and touches nothing.',
  '2. After some time "policy suggest" says what would be accelerated, and why the rest would not.',
  '3. Write action: accelerate where you want it. The file is reloaded when it changes.',
  '"policy check FILE" finds mistakes, "policy test FILE --cgroup PATH" says which rule decides. docs/policy.md has all keys.',
];
