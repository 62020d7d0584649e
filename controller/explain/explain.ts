/** `explain`: puts what the datapath, the policy and the host know of a connection together. */
import type { CgroupNames } from '../datapath/cgroups.js';
import type { Datapath } from '../datapath/datapath.js';
import { type PairRecord, SIDES, type State, STATES } from '../datapath/pair-table.js';
import {
  type CompiledPolicy,
  decide,
  type Decision,
  decidePair,
  type End,
  excludedProgram,
} from '../policy/evaluate.js';
import { decodeMeasurement } from '../decisions/measurement.js';
import type { LearnedPrograms } from '../policy/learned.js';
import type { Action } from '../policy/schema.js';
import { type GateFacts, gateFacts } from '../probe/findings.js';
import { type DirectionRow, type EndRow, formatEndpoint, formatProgram, innermostNames, toRow } from '../view/pairs.js';
import { find, type FoundConnection, socketOf } from './find.js';
import { findHolders, type Holder, type HostView, readHost, socketsOf } from './host.js';
import { judgeListener, judgePair, judgeUnpaired, type Judgement } from './judge.js';
import { type HostSocket, same } from './proc-net.js';
import { describeTarget, type Target } from './target.js';

/** How an end receives, as far as it was seen. */
export interface Reads {
  receives: number;
  bytes: number;
  /** `nonblocking`, `blocking`, `waitall`, …: what enum evidence names. */
  evidence: string[];
}

export interface EndExplanation extends EndRow {
  /** State of its socket; null if it could not be seen. */
  socket: string | null;
  /** Other processes that hold the same socket. */
  sharedWith: number;
  /** What it was seen to do; null for connections that are not paired. */
  reads: Reads | null;
  /** What it sends; null likewise. */
  sends: DirectionRow | null;
  /** What the policy says of this end alone; null if the policy is not known. */
  policy: { rule: string; action: Action } | null;
}

export interface Explanation extends Judgement {
  kind: 'pair' | 'connection' | 'listener';
  /** Null for what is not paired. */
  pair: {
    id: string;
    state: State;
    ageSeconds: number;
    /** Since the last promotion; null while it is not promoted. */
    promotedSeconds: number | null;
    promotions: number;
    /** Changes of the receiving side, of those that make a candidate. */
    turns: number;
    turnsWanted: number;
  } | null;
  /** Of a connection that is not paired, the two are in this order only if a listener tells. */
  client: EndExplanation | null;
  server: EndExplanation | null;
  /** Addresses are changed on the way. */
  translated: boolean;
}

export interface ExplainResult {
  target: string;
  attachedCgroup: string | null;
  loadedSeconds: number;
  controllerRunning: boolean;
  /** What the sentences go by; null if it is not known. */
  policy: { file: string | null; hash: string; since: string | null } | null;
  /** What could not be seen. */
  notes: string[];
  connections: Explanation[];
}

export interface ExplainContext {
  datapath: Datapath;
  cgroups: CgroupNames;
  policy: { compiled: CompiledPolicy; file: string | null; hash: string; since: string | null } | undefined;
  learned: LearnedPrograms;
  controllerRunning: boolean;
}

export function explain(wanted: Target, context: ExplainContext): ExplainResult {
  const { datapath, cgroups, policy } = context;
  const { settings } = datapath;
  const records = [...datapath.pairs.slots(...STATES.filter((state) => state !== 'free'))].flatMap(
    ([slot, control]) => datapath.pairs.read(slot, control) ?? [],
  );
  const host = readHost();
  const { target, inodes, notes } = resolveNumber(wanted, host, records);
  const found = find(target, host, records, inodes);
  const explainer = new Explainer(context, host, findHolders(inodesOf(found, host)));
  if (found.timeWait > 0) notes.push(`${String(found.timeWait)} closed connections in TIME-WAIT are left out`);
  if (policy === undefined) {
    notes.push('the policy in force is not known: no controller has left it in --state-dir, give --policy FILE');
  }
  return {
    target: describeTarget(target),
    attachedCgroup: cgroups.path(settings.attachedCgroup) ?? null,
    loadedSeconds: explainer.loadedSeconds,
    controllerRunning: context.controllerRunning,
    policy: policy === undefined ? null : { file: policy.file, hash: policy.hash, since: policy.since },
    notes,
    connections: [
      ...found.pairs.map((record) => explainer.pair(record)),
      ...found.connections.map((connection) => explainer.connection(connection)),
      ...found.listeners.map((socket) => explainer.listener(socket)),
    ],
  };
}

/** A bare number is a port where something uses it, and else a process. */
function resolveNumber(
  target: Target,
  host: HostView,
  records: readonly PairRecord[],
): { target: Target; inodes: Set<number> | undefined; notes: string[] } {
  if (target.kind === 'process') return { target, inodes: socketsOf(target.pid), notes: [] };
  if (target.kind !== 'number') return { target, inodes: undefined, notes: [] };
  const { number } = target;
  const asPort = find(target, host, records);
  const used = asPort.pairs.length + asPort.connections.length + asPort.listeners.length > 0;
  const inodes = socketsOf(number);
  if (inodes === undefined || used) {
    const notes =
      used && inodes !== undefined ? [`${String(number)} is also a process: write pid:${String(number)} for that`] : [];
    return { target: { kind: 'port', port: number }, inodes: undefined, notes };
  }
  return { target: { kind: 'process', pid: number }, inodes, notes: [] };
}

/** Every socket whose process is to be named. */
function inodesOf({ pairs, connections, listeners }: ReturnType<typeof find>, { sockets }: HostView): Set<number> {
  const all = [
    ...pairs.flatMap(({ ends }) => ends.map((end) => socketOf(end, sockets))),
    ...connections.flatMap(({ socket, other }) => [socket, other]),
    ...listeners,
  ];
  return new Set(all.flatMap((socket) => (socket === undefined || socket.inode === 0 ? [] : [socket.inode])));
}

/** What a socket says of itself. */
type HostAddress = Pick<EndRow, 'address' | 'port' | 'remoteAddress' | 'remotePort' | 'netns'>;

class Explainer {
  readonly loadedSeconds: number;
  readonly #context: ExplainContext;
  readonly #host: HostView;
  readonly #holders: ReadonlyMap<number, readonly Holder[]>;
  readonly #gate: GateFacts;
  readonly #evidence: readonly (readonly [string, number])[];
  readonly #now = process.hrtime.bigint();

  constructor(context: ExplainContext, host: HostView, holders: ReadonlyMap<number, readonly Holder[]>) {
    const { datapath } = context;
    this.#context = context;
    this.#host = host;
    this.#holders = holders;
    this.#gate = gateFacts(datapath.settings.gate);
    this.#evidence = Object.entries(datapath.layout.values('evidence')).map(([name, bit]) => [
      name.replace('EVIDENCE_', '').toLowerCase(),
      bit,
    ]);
    this.loadedSeconds = Number(this.#now - datapath.settings.loadedNs) / 1e9;
  }

  pair(record: PairRecord): Explanation {
    const { cgroups, learned, policy, controllerRunning, datapath } = this.#context;
    const row = toRow(record, cgroups, this.#now);
    const ends = SIDES.map((side): EndExplanation => {
      const end = record.ends[side];
      const socket = socketOf(end, this.#host.sockets);
      const own = side === 0 ? row.client : row.server;
      // Who reads is known to the datapath; who has not read yet, to /proc.
      const named = own.pid === null ? { ...own, ...this.#holder(socket) } : own;
      return {
        ...named,
        socket: socket?.state ?? null,
        sharedWith: this.#sharedWith(socket),
        reads: { receives: end.receives, bytes: end.receivedBytes, evidence: this.#evidenceOf(end.evidence) },
        sends: side === 0 ? row.toServer : row.toClient,
        policy: this.#policyOf(named),
      };
    });
    const [client, server] = ends as [EndExplanation, EndExplanation];
    // The decision goes by who was seen to read, as the controller's does.
    const decision = policy && decidePair(policy.compiled, [policyEnd(row.client), policyEnd(row.server)]);
    const excluded = [row.client, row.server].map(
      ({ program }) => policy && excludedProgram(policy.compiled, program ?? '', this.#gate.hazards),
    );
    const known = [row.client, row.server].map(({ program, cgroup }) =>
      learned.list.find((entry) => entry.program === program && entry.cgroup === cgroup),
    );
    const request = decodeMeasurement(datapath.settings.measurement, this.#now);
    const turnsWanted = record.promoteAfter || datapath.settings.promoteAfter;
    return {
      kind: 'pair',
      ...judgePair({
        record,
        names: [formatProgram(client), formatProgram(server)],
        evidence: [inWords(client.reads), inWords(server.reads)],
        decision,
        excluded: [excluded[0], excluded[1]],
        learned: [known[0], known[1]],
        kernelRefusal: this.#gate.refusal,
        controllerRunning,
        paused: datapath.settings.paused,
        measured: controllerRunning && request !== undefined && datapath.pairs.hasPort(record.slot, request.port),
        turnsWanted,
        nowNs: this.#now,
      }),
      pair: {
        id: row.id,
        state: row.state,
        ageSeconds: row.ageSeconds,
        promotedSeconds: row.state === 'inserted' ? Number(this.#now - record.insertedNs) / 1e9 : null,
        promotions: row.promotions,
        turns: record.window.turns,
        turnsWanted,
      },
      client,
      server,
      translated: isTranslated(client, server),
    };
  }

  connection({ socket, other, whereabouts }: FoundConnection): Explanation {
    const { datapath, cgroups } = this.#context;
    const isServer = this.#host.sockets.some(
      ({ state, netns, local }) => state === 'listen' && netns === socket.netns && local.port === socket.local.port,
    );
    const own = this.#end(socket);
    const far = other === undefined ? null : this.#end(other);
    const [client, server] = isServer ? [far, own] : [own, far];
    return {
      kind: 'connection',
      ...judgeUnpaired({
        state: socket.state,
        whereabouts,
        tracked: this.#host.tracked,
        remote: formatEndpoint(socket.remote.address, socket.remote.port),
        ends: [socket, other].flatMap((one) => (one === undefined ? [] : [this.#facts(one)])),
        attached: cgroups.path(datapath.settings.attachedCgroup) ?? null,
        loadedSeconds: this.loadedSeconds,
        unpaired: datapath.counters().unpaired,
      }),
      pair: null,
      client,
      server,
      translated: client !== null && server !== null && isTranslated(client, server),
    };
  }

  listener(socket: HostSocket): Explanation {
    const server = this.#end(socket);
    const { policy } = this.#context;
    const decision = policy && decide(policy.compiled, policyEnd(server));
    return {
      kind: 'listener',
      ...judgeListener(formatProgram(server), decision),
      pair: null,
      client: null,
      server,
      translated: false,
    };
  }

  #end(socket: HostSocket): EndExplanation {
    const holder = this.#holder(socket) ?? { pid: null, program: null, cgroup: null, ...innermostNames(null) };
    const row: EndRow = {
      address: socket.local.address,
      port: socket.local.port,
      remoteAddress: socket.remote.address,
      remotePort: socket.remote.port,
      ...holder,
      netns: socket.netns,
    };
    return {
      ...row,
      socket: socket.state,
      sharedWith: this.#sharedWith(socket),
      reads: null,
      sends: null,
      policy: this.#policyOf(row),
    };
  }

  /** The first process that holds a socket. */
  #holder(socket: HostSocket | undefined): Omit<EndRow, keyof HostAddress> | undefined {
    const [holder] = this.#holders.get(socket?.inode ?? 0) ?? [];
    return (
      holder && { pid: holder.pid, program: holder.program, cgroup: holder.cgroup, ...innermostNames(holder.cgroup) }
    );
  }

  #sharedWith(socket: HostSocket | undefined): number {
    return Math.max(0, (this.#holders.get(socket?.inode ?? 0)?.length ?? 0) - 1);
  }

  #facts(socket: HostSocket): { name: string; cgroup: string | null; ageSeconds: number | null } {
    const holders = this.#holders.get(socket.inode) ?? [];
    return {
      name: formatProgram(this.#holder(socket) ?? { pid: null, program: null }),
      cgroup: holders[0]?.cgroup ?? null,
      // The oldest of those that share it may have made it.
      ageSeconds: holders.length === 0 ? null : Math.max(...holders.map(({ ageSeconds }) => ageSeconds)),
    };
  }

  #policyOf(row: EndRow): EndExplanation['policy'] {
    const { policy } = this.#context;
    if (policy === undefined) return null;
    const { rule, action }: Decision = decide(policy.compiled, policyEnd(row));
    return { rule, action };
  }

  #evidenceOf(bits: number): string[] {
    return this.#evidence.filter(([, bit]) => (bits & bit) !== 0).map(([name]) => name);
  }
}

function policyEnd({ cgroup, port, remotePort, program }: EndRow): End {
  return { cgroup: cgroup ?? undefined, ports: [port, remotePort], program: program ?? undefined };
}

/** What one end calls its peer is not what the other calls itself, or the other way round. */
function isTranslated(client: EndRow, server: EndRow): boolean {
  const local = ({ address, port }: EndRow): { address: string; port: number } => ({ address, port });
  const remote = (end: EndRow): { address: string; port: number } => ({
    address: end.remoteAddress,
    port: end.remotePort,
  });
  return !same(remote(client), local(server)) || !same(remote(server), local(client));
}

const EVIDENCE: Readonly<Record<string, string>> = {
  nonblocking: 'without blocking',
  blocking: 'blocking',
  blocking_many: 'blocking in more than one thread',
  waitall: 'with MSG_WAITALL',
  out_of_band: 'with MSG_OOB',
  truncate: 'with MSG_TRUNC',
  error_queue: 'from the error queue',
  peek: 'with MSG_PEEK',
};

/** Evidence for a sentence that begins with "receives". */
export function inWords(reads: Reads | null): string[] {
  return (reads?.evidence ?? []).filter((name) => name !== 'forged').map((name) => EVIDENCE[name] ?? name);
}
