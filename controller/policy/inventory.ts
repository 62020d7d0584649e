/** `policy init`: the cgroups of this host that talk to each other, and a policy with a rule for each. Pure. */
import { OUTLOOKS, type Outlook } from '../decisions/outlook.js';
import { shortName } from '../view/short-name.js';
import { compilePolicy, excludedProgram } from './evaluate.js';
import { namesOf, type Name } from './names.js';
import { defaultPolicy } from './schema.js';
import { depthOf, freeName, literalPattern, literalProgram, writePolicy } from './write.js';

export interface InventoryEnd {
  /** Path below the cgroup v2 root. */
  cgroup: string | null;
  program: string | null;
  /** This end's own. */
  port: number;
}

/** A connection with both ends on this host. */
export interface InventoryConnection {
  client: InventoryEnd;
  server: InventoryEnd;
  /** What the datapath makes of it; null where it does not know the connection. */
  seen: { outlook: Outlook; reason: string | null } | null;
}

/** A cgroup with an end of a local connection. */
export interface Workload {
  cgroup: string;
  programs: string[];
  /** Of the server's ends. */
  ports: number[];
  connections: number;
  /** Other cgroups at the far ends. */
  peers: string[];
  seen: Record<Outlook, number>;
  /** Of those that are refused. */
  reasons: Record<string, number>;
}

/** Inner cgroups first, as a rule stands for what is below its cgroup as well; then those with the most connections. */
export function takeInventory(connections: readonly InventoryConnection[]): Workload[] {
  const found = new Map<
    string,
    { workload: Workload; programs: Set<string>; ports: Set<number>; peers: Set<string> }
  >();
  for (const { client, server, seen } of connections) {
    const places = new Set([client.cgroup, server.cgroup].flatMap((cgroup) => cgroup ?? []));
    for (const cgroup of places) {
      const entry = found.get(cgroup) ?? {
        workload: {
          cgroup,
          programs: [],
          ports: [],
          connections: 0,
          peers: [],
          seen: { accelerated: 0, would: 0, stream: 0, young: 0, refused: 0 },
          reasons: {},
        },
        programs: new Set(),
        ports: new Set(),
        peers: new Set(),
      };
      found.set(cgroup, entry);
      const { workload, programs, ports, peers } = entry;
      workload.connections++;
      for (const end of [client, server]) {
        if (end.cgroup === cgroup && end.program !== null) programs.add(end.program);
        if (end.cgroup !== cgroup && end.cgroup !== null) peers.add(end.cgroup);
      }
      if (server.cgroup === cgroup) ports.add(server.port);
      if (seen !== null) workload.seen[seen.outlook]++;
      if (seen?.reason != null) workload.reasons[seen.reason] = (workload.reasons[seen.reason] ?? 0) + 1;
    }
  }
  return [...found.values()]
    .map(({ workload, programs, ports, peers }) => ({
      ...workload,
      programs: [...programs].sort(),
      ports: [...ports].sort((a, b) => a - b),
      peers: [...peers].sort(),
    }))
    .sort(
      (a, b) =>
        depthOf(b.cgroup) - depthOf(a.cgroup) || b.connections - a.connections || a.cgroup.localeCompare(b.cgroup),
    );
}

/** @param comment lines in front of everything @param watched whether a datapath was asked */
export function inventoryPolicy(
  workloads: readonly Workload[],
  action: 'observe' | 'accelerate',
  comment: readonly string[],
  watched: boolean,
): string {
  const taken = new Set<string>();
  const compiled = compilePolicy(defaultPolicy);
  return writePolicy({
    comment,
    defaults: { action: 'observe' },
    rulesComment: [
      'The first rule that matches an end decides for it; a connection gets the stricter answer of its two ends.',
    ],
    rules: workloads.map((workload) => {
      const name = freeName(shortName(workload.cgroup), taken);
      taken.add(name);
      const kept = workload.programs.flatMap((program) => {
        const excluded = excludedProgram(compiled, program);
        return excluded === undefined ? [] : [`Stays on TCP whatever is said here: ${excluded.reason}`];
      });
      // The root stands for everything: then the programs say who is meant.
      const isRoot = workload.cgroup === '/';
      return {
        comment: [...describe(workload, watched), ...kept],
        rule: {
          name: isRoot ? freeName('no cgroup of their own', taken) : name,
          cgroup: literalPattern(workload.cgroup),
          ...(isRoot && workload.programs.length > 0 ? { programs: workload.programs.map(literalProgram) } : {}),
          action,
        },
      };
    }),
  });
}

/** Names in a list that would be longer. */
const SHOWN = 8;

function describe(workload: Workload, watched: boolean): string[] {
  const { cgroup, programs, ports, connections, peers, seen, reasons } = workload;
  const runs = programs.length === 0 ? 'Its programs can not be seen' : `Runs ${some(programs)}`;
  const count = `${String(connections)} local connection${connections === 1 ? '' : 's'}`;
  const far = peers.length === 0 ? 'with itself' : `with ${some(peers.map(shortName))}`;
  const serves = ports.length === 0 ? '' : ` Serves port${ports.length === 1 ? '' : 's'} ${some(ports.map(String))}.`;
  const known = OUTLOOKS.reduce((all, outlook) => all + seen[outlook], 0);
  return [
    `${describeName(cgroup)}${runs}: ${count}, ${far}.${serves}`,
    ...(watched ? [observed(seen, reasons, known)] : []),
  ];
}

/** `Unit redis.service. `; of a plain cgroup nothing. */
function describeName(cgroup: string): string {
  const last = namesOf(cgroup)
    .filter(({ kind }) => kind !== 'slice')
    .at(-1);
  return last === undefined ? '' : `${spell(last)}. `;
}

function spell(name: Name): string {
  switch (name.kind) {
    case 'container':
      return `Container ${name.id.slice(0, 12)}${name.engine === null ? '' : ` (${name.engine})`}`;
    case 'pod':
      return `Pod ${name.uid}`;
    default:
      return `Unit ${name.name}`;
  }
}

function observed(seen: Workload['seen'], reasons: Workload['reasons'], known: number): string {
  if (known === 0) return 'Observed: none of them, they are older than the datapath.';
  const words: Record<Outlook, string> = {
    accelerated: 'accelerated',
    would: 'would be accelerated',
    stream: 'one-way streams, which stay on TCP',
    young: 'with too little traffic to tell',
    refused: `refused (${Object.keys(reasons).join(', ')})`,
  };
  const parts = OUTLOOKS.filter((outlook) => seen[outlook] > 0).map(
    (outlook) => `${String(seen[outlook])} ${words[outlook]}`,
  );
  return `Observed: ${parts.join(', ')}.`;
}

function some(names: readonly string[]): string {
  const shown = names.slice(0, SHOWN).join(', ');
  return names.length <= SHOWN ? shown : `${shown} and ${String(names.length - SHOWN)} more`;
}
