/** Why a connection is or is not accelerated, and what would change it, in words. Pure. */
import type { PairRecord, State } from '../datapath/pair-table.js';
import { type ExcludedProgram, type PairDecision } from '../policy/evaluate.js';
import type { LearnedProgram } from '../policy/learned.js';
import { quote } from '../policy/words.js';
import { type FindingId, MEANING } from '../probe/findings.js';
import { formatDuration } from '../view/pairs.js';
import type { Whereabouts } from './find.js';
import type { SocketState } from './proc-net.js';

/** What decides. */
export const DECIDERS = [
  'policy',
  'kernel',
  'program',
  'reader',
  'traffic',
  'socket',
  'memory',
  'place',
  'datapath',
] as const;
export type Decider = (typeof DECIDERS)[number];

export const VERDICTS = [
  'accelerated',
  'partly',
  'pending',
  'watched',
  'refused',
  'returning',
  'stalled',
  'broken',
  'remote',
  'outside',
  'older',
  'missed',
  'hidden',
  'closing',
  'listener',
] as const;
export type VerdictName = (typeof VERDICTS)[number];

export interface Judgement {
  verdict: VerdictName;
  decidedBy: Decider;
  /** The rule, kernel finding, program or reason by its name; null if there is none. */
  name: string | null;
  /** One or two sentences. */
  because: string;
  /** What would change it; null where nothing needs to. */
  change: string | null;
}

export interface PairFacts {
  record: PairRecord;
  /** Of the client and the server: program and process, for sentences. */
  names: readonly [string, string];
  /** What each reader was seen to do, in words. */
  evidence: readonly [readonly string[], readonly string[]];
  /** Undefined if the policy in force is not known. */
  decision: PairDecision | undefined;
  excluded: readonly [ExcludedProgram | undefined, ExcludedProgram | undefined];
  learned: readonly [LearnedProgram | undefined, LearnedProgram | undefined];
  /** What of the kernel gate forbids every promotion. */
  kernelRefusal: FindingId | undefined;
  controllerRunning: boolean;
  paused: boolean;
  /** "bench --port" measures the pairs of a port of it, and a controller does what that asks. */
  measured: boolean;
  /** Turns each way that make a candidate. */
  turnsWanted: number;
  /** CLOCK_MONOTONIC, nanoseconds. */
  nowNs: bigint;
}

const NEVER = 2n ** 63n;

/** What a message's way over TCP was due to: as the end of a sentence. */
const PASSES: Readonly<Record<string, string>> = {
  untracked: 'its socket has lost what the datapath kept with it',
  state: 'it was not promoted, or not any more',
  held: 'the controller holds this direction on TCP',
  reader: 'its reader was seen to receive in a way that the direct path serves differently',
  stream: 'this side talks without hearing the other, which TCP carries faster',
  shutdown: 'one side has shut its half down',
  not_established: 'an end is no longer established',
  zerocopy: 'its sender has set SO_ZEROCOPY',
  low_water_mark: 'its reader has set SO_RCVLOWAT above 1',
  memory: 'memory for TCP is short',
  fence: 'the first message after promotion always does',
  order: 'TCP bytes before it were not read yet',
  accounting: 'its reader took bytes by another call than recv, such as splice',
  backlog: 'its reader is behind by the limit',
  peer: 'the other end could not be recognized',
  lost: 'the other end had left the sockmap',
  keepalive: 'one a second does, for the timers of NAT and keepalive',
};

/** In which a pair can be while "bench" has it on TCP. */
const MEASURED_STATES: ReadonlySet<State> = new Set(['observed', 'approved', 'draining', 'leaving']);

type Told = Pick<Judgement, 'decidedBy' | 'because' | 'change'> & { name?: string };

export function judgePair(facts: PairFacts): Judgement {
  const { record, names, controllerRunning, paused } = facts;
  const { state } = record.control;
  const senderOf = (wrong: (direction: PairRecord['directions'][number]) => boolean): number =>
    record.directions.findIndex(wrong);
  const cut = senderOf(({ overtaken }) => overtaken);
  if (cut >= 0) {
    return {
      verdict: 'broken',
      decidedBy: 'reader',
      name: 'overtaken',
      because: `${names[cut === 0 ? 1 : 0]} took TCP bytes before redirected ones (splice?), so the stream towards it was cut: sends to it fail with EACCES.`,
      change: 'The programs must reconnect; put that program under exclude.programs of the policy.',
    };
  }
  const stalled = senderOf(({ stalledNs }) => stalledNs !== 0n);
  if (stalled >= 0) {
    return {
      verdict: 'stalled',
      decidedBy: 'reader',
      name: 'stalled',
      because: `${names[stalled === 0 ? 1 : 0]} takes nothing of the data that was redirected to it. Nothing is lost: it finds them when it reads.`,
      change:
        'See what that program does (stopped, busy, or reading by splice); its program is not accelerated again until "learned --forget".',
    };
  }
  if (facts.measured && record.demotion === 'measured' && MEASURED_STATES.has(state) && record.refusal === 'none') {
    return {
      verdict: 'pending',
      ...decided(demotion(record.demotion)),
      because:
        '"bench --port" measures it: it is on TCP for a moment, and on the direct path again in the next window.',
    };
  }
  switch (state) {
    case 'inserted':
      return judgeInserted(record);
    case 'half':
    case 'joining':
      return {
        verdict: 'pending',
        decidedBy: 'traffic',
        name: state,
        because: 'The handshake is still under way: the server has not taken its end yet.',
        change: null,
      };
    case 'candidate':
    case 'approved':
      return {
        verdict: 'pending',
        decidedBy: controllerRunning ? 'traffic' : 'datapath',
        name: state,
        because: controllerRunning
          ? 'It has shown request and response, and is being promoted.'
          : 'It has shown request and response, and waits for a controller, which does not run.',
        change: controllerRunning ? null : 'Start a controller with "slipstream-bpf up".',
      };
    case 'draining':
    case 'leaving':
      return {
        verdict: 'returning',
        ...decided(demotion(record.demotion)),
        because: `It goes back to TCP: ${demotion(record.demotion).because} It leaves the sockmap when its readers have taken what was redirected to them.`,
      };
    case 'closed':
    case 'free':
      return {
        verdict: 'closing',
        decidedBy: 'socket',
        name: state,
        because: 'Both ends have closed.',
        change: null,
      };
    case 'observed':
      break;
  }
  if (record.refusal !== 'none') {
    const told = refusal(record.refusal, facts);
    return { verdict: 'refused', ...decided(told), because: told.because };
  }
  const wait = record.retryNs > facts.nowNs && record.retryNs < NEVER ? record.retryNs - facts.nowNs : 0n;
  if (record.demotion !== 'none' && (wait > 0n || record.retryNs === NEVER)) {
    const told = demotion(record.demotion);
    const again = wait > 0n ? ` It is not tried again for ${formatDuration(Number(wait) / 1e9)}.` : '';
    return { verdict: 'refused', ...decided(told), because: `It was taken back to TCP: ${told.because}${again}` };
  }
  if (paused || !controllerRunning) {
    return {
      verdict: 'watched',
      decidedBy: 'datapath',
      name: paused ? 'paused' : 'controller',
      because: paused
        ? 'The datapath is being taken down, so nothing is promoted any more.'
        : 'It is watched, but no controller runs: nothing new is promoted without one.',
      change: 'Start a controller with "slipstream-bpf up".',
    };
  }
  return judgeWatched(facts);
}

const decided = (told: Told): Pick<Judgement, 'decidedBy' | 'name' | 'change'> => ({
  decidedBy: told.decidedBy,
  name: told.name ?? null,
  change: told.change,
});

function judgeInserted(record: PairRecord): Judgement {
  const onTcp = record.directions.filter(({ path }) => path === 'tcp');
  if (onTcp.length === 0) {
    return {
      verdict: 'accelerated',
      decidedBy: 'traffic',
      name: null,
      because: record.stream
        ? "Its stream was measured to be faster redirected: messages go from send() straight into the reader's queue."
        : "Both directions redirect: messages go from send() straight into the reader's queue.",
      change: null,
    };
  }
  const [{ lastPass } = { lastPass: undefined }] = onTcp;
  const which =
    onTcp.length === 2
      ? 'both directions'
      : record.directions[0].path === 'tcp'
        ? 'messages to the server'
        : 'messages to the client';
  const why = lastPass === undefined ? 'nothing was sent since' : (PASSES[lastPass] ?? lastPass);
  return {
    verdict: 'partly',
    decidedBy:
      lastPass === 'memory'
        ? 'memory'
        : lastPass === 'reader' || lastPass === 'accounting' || lastPass === 'backlog'
          ? 'reader'
          : 'traffic',
    name: lastPass ?? null,
    because: `It is promoted, and at the moment ${which} use TCP: ${why}.`,
    change: 'This is decided message by message; it goes back to TCP altogether if most messages use it.',
  };
}

function judgeWatched({ record, turnsWanted }: PairFacts): Judgement {
  const { window, ends } = record;
  const receives = ends[0].receives + ends[1].receives;
  const bytes = ends[0].receivedBytes + ends[1].receivedBytes;
  const base = { verdict: 'watched', decidedBy: 'traffic', name: null } as const;
  if (receives === 0) {
    return {
      ...base,
      because: 'Nothing was received on it yet.',
      change: 'Traffic: it is promoted after some requests and answers.',
    };
  }
  // Several windows that came to nothing.
  if (receives > 8 * turnsWanted) {
    return {
      ...base,
      because: `Its traffic is not request and response: ${String(receives)} receives, ${formatCount(bytes / receives)} bytes each, without the pattern that is always faster on the direct path.`,
      change:
        'It is promoted by itself when the two sides alternate in messages of up to 64 KiB, or when a stream is measured to be faster redirected.',
    };
  }
  return {
    ...base,
    because: `It is young: ${String(Math.floor(window.turns / 2))} of ${String(turnsWanted)} requests and answers were seen.`,
    change: 'More of them; the number is promoteAfter in the policy.',
  };
}

const formatCount = (count: number): string => String(Math.round(count));

function demotion(reason: string): Told {
  switch (reason) {
    case 'stream':
      return {
        decidedBy: 'traffic',
        name: reason,
        because: 'its traffic turned into a stream, which TCP carries faster.',
        change: 'It is tried again by itself after a pause that doubles from a second to ten minutes.',
      };
    case 'slower':
      return {
        decidedBy: 'traffic',
        name: reason,
        because: 'its stream was measured on both ways, and TCP carries it as fast or faster.',
        change: 'It is measured again by itself after a pause that doubles from a second to ten minutes.',
      };
    case 'policy':
      return {
        decidedBy: 'policy',
        name: reason,
        because: 'the policy changed.',
        change: 'Another policy; it takes effect on reload.',
      };
    case 'program':
      return {
        decidedBy: 'program',
        name: reason,
        because: 'a program that is not accelerated reads from it.',
        change: 'See exclude.programs of the policy, and "slipstream-bpf learned".',
      };
    case 'reader':
      return {
        decidedBy: 'reader',
        name: reason,
        because: 'a reader began to receive in a way that the direct path serves differently.',
        change: 'A new connection whose readers do not.',
      };
    case 'accounting':
      return {
        decidedBy: 'reader',
        name: reason,
        because: 'a reader took bytes by another call than recv, such as splice.',
        change: 'A new connection whose readers do not.',
      };
    case 'measured':
      return {
        decidedBy: 'datapath',
        name: reason,
        because: '"bench --port" measured it on TCP.',
        change: 'It goes back by itself when the measurement ends.',
      };
    case 'forged':
      return {
        decidedBy: 'datapath',
        name: reason,
        because: FORGED,
        change: 'Look for who has CAP_NET_ADMIN or CAP_NET_RAW in a container; a new connection is judged anew.',
      };
    case 'memory':
      return {
        decidedBy: 'memory',
        name: reason,
        because: 'memory for its sockets was nearly used up.',
        change: 'A higher limit (memory.max of the cgroup, net.ipv4.tcp_mem); it is tried again by itself.',
      };
    default:
      return {
        decidedBy: 'datapath',
        name: reason,
        because: 'the datapath was asked to let go of it.',
        change: 'Start a controller with "slipstream-bpf up".',
      };
  }
}

const FORGED = 'Two clients claimed its handshake with the same numbers: one of them is a forgery.';

function refusal(reason: string, facts: PairFacts): Told {
  const { names, evidence, decision, excluded, learned, kernelRefusal } = facts;
  const rule =
    decision === undefined
      ? 'a rule of the policy'
      : `the policy's ${decision.rule === 'defaults' ? 'defaults say' : `rule ${quote(decision.rule)} says`}`;
  const byPolicy = (action: string, change: string): Told => ({
    decidedBy: 'policy',
    ...(decision !== undefined && decision.action !== 'accelerate' && { name: decision.rule }),
    because:
      decision?.action === 'accelerate'
        ? `The policy that was in force when it was judged said action: ${action}.`
        : `${capital(rule)}${decision === undefined ? ` says` : ''} action: ${action}.`,
    change,
  });
  const readers = ([0, 1] as const)
    .filter((side) => evidence[side].length > 0)
    .map((side) => `${names[side]} receives ${evidence[side].join(', ')}`)
    .join('; ');
  const side = excluded[0] !== undefined ? 0 : 1;
  const knownSide = learned[0] !== undefined ? 0 : 1;
  switch (reason) {
    case 'forged':
      return {
        decidedBy: 'datapath',
        name: reason,
        because: FORGED,
        change: 'Look for who has CAP_NET_ADMIN or CAP_NET_RAW in a container; a new connection is judged anew.',
      };
    case 'policy':
      return byPolicy('tcp', 'Give both ends action: accelerate; it takes effect when the file is saved.');
    case 'observe':
      return byPolicy('observe', 'It would be promoted: give both ends action: accelerate.');
    case 'kernel':
      return {
        decidedBy: 'kernel',
        name: kernelRefusal ?? 'kernel',
        because: `The kernel gate's finding ${quote(kernelRefusal ?? 'known_bug')} forbids promotion: ${MEANING[kernelRefusal ?? 'known_bug'].consequence}.`,
        change: `${capital(MEANING[kernelRefusal ?? 'known_bug'].remedy)}.`,
      };
    case 'program':
      return {
        decidedBy: 'program',
        name: excluded[side]?.program ?? reason,
        because:
          `${names[side]} is on the list of programs that are left on TCP${excluded[side] === undefined ? '' : `: ${excluded[side].reason}`}`.replace(
            /[^.]$/,
            '$&.',
          ),
        change:
          excluded[side]?.hazard === undefined
            ? 'Take it off exclude.programs of the policy.'
            : `A kernel that passes the self-test ${quote(excluded[side].hazard)} of "doctor".`,
      };
    case 'learned':
      return {
        decidedBy: 'program',
        name: learned[knownSide]?.program ?? reason,
        because: `${names[knownSide]} is a program that left redirected data unread before${learned[knownSide] === undefined ? '' : ` (${learned[knownSide].cause}, ${learned[knownSide].at})`}.`,
        change: `"slipstream-bpf learned --forget ${learned[knownSide]?.program ?? 'NAME'}", if it is cured.`,
      };
    case 'blocking':
      return {
        decidedBy: 'reader',
        name: reason,
        because: `A reader blocks in recv(), where a signal would make it return EAGAIN: ${readers}.`,
        change:
          'blockingReaders: true in a rule for it, if the program has one reading thread and handles EAGAIN, or takes no signals.',
      };
    case 'reader':
      return {
        decidedBy: 'reader',
        name: reason,
        because: `A reader uses what the direct path serves differently: ${readers}.`,
        change: 'Nothing for this connection: only a program that receives without it.',
      };
    case 'accounting':
      return {
        decidedBy: 'reader',
        name: reason,
        because:
          'Bytes have left a socket by another way than recv (splice, zero-copy receive, a reader in the kernel), or a receive was just under way.',
        change: 'It is tried again by itself; if this stays, the program can not be accelerated.',
      };
    case 'low_water_mark':
      return {
        decidedBy: 'socket',
        name: reason,
        because: 'A reader has set SO_RCVLOWAT above 1.',
        change: 'A program that leaves SO_RCVLOWAT alone.',
      };
    case 'zerocopy':
      return {
        decidedBy: 'socket',
        name: reason,
        because: 'A sender has set SO_ZEROCOPY.',
        change: 'A program that sends without MSG_ZEROCOPY.',
      };
    case 'ulp':
      return {
        decidedBy: 'socket',
        name: reason,
        because: 'A socket has an upper layer protocol, such as TLS in the kernel.',
        change: 'A program that leaves TLS to its library.',
      };
    case 'busy':
      return {
        decidedBy: 'socket',
        name: reason,
        because: "A socket is in somebody else's sockmap, or carries somebody else's data.",
        change: 'Only one of the two can have it: see "bpftool map" for the other.',
      };
    case 'memory':
      return {
        decidedBy: 'memory',
        name: reason,
        because: 'Less than 2 MiB are left below the limit on memory of an end, or of TCP.',
        change: 'A higher limit (memory.max of the cgroup, net.ipv4.tcp_mem); it is tried again by itself.',
      };
    default:
      return {
        decidedBy: 'socket',
        name: reason,
        because: `A socket could not be put into the sockmap (${reason.replaceAll('_', ' ')}).`,
        change: 'It is tried again by itself where that can help.',
      };
  }
}

export interface UnpairedFacts {
  state: SocketState;
  whereabouts: Whereabouts;
  /** Whether translated addresses could be followed. */
  tracked: boolean;
  /** The other end as this one sees it. */
  remote: string;
  /** Program and process of the ends that are here, with their cgroup; null: unknown. */
  ends: readonly { name: string; cgroup: string | null; ageSeconds: number | null }[];
  /** Path of the cgroup that the datapath is attached to; null: gone. */
  attached: string | null;
  loadedSeconds: number;
  /** Why connections were not paired since loading, by reason. */
  unpaired: Readonly<Record<string, number>>;
}

/** Reasons of the kernel side for a connection between two ends that are here. */
const LOCAL_REASONS = ['table_full', 'repair', 'mptcp', 'storage', 'released', 'paused'];

export function judgeUnpaired(facts: UnpairedFacts): Judgement {
  const { state, whereabouts, remote, ends, attached, loadedSeconds, unpaired } = facts;
  const outside = ends.find(({ cgroup }) => cgroup !== null && attached !== null && !isBelow(cgroup, attached));
  const loaded = `the datapath was loaded (${formatDuration(loadedSeconds)} ago)`;
  if (state !== 'established') {
    return {
      verdict: 'closing',
      decidedBy: 'socket',
      name: state,
      because: `It is in state ${state.toUpperCase()}: connections are paired while they are established.`,
      change: null,
    };
  }
  if (whereabouts === 'elsewhere') {
    return {
      verdict: 'remote',
      decidedBy: 'place',
      name: 'remote',
      because:
        `The other end, ${remote}, is not on this host` +
        (facts.tracked ? '.' : ', unless its address is translated, which could not be looked up here.'),
      change: 'Nothing: only connections with both ends on this host can be accelerated.',
    };
  }
  if (outside !== undefined) {
    return {
      verdict: 'outside',
      decidedBy: 'place',
      name: 'cgroup',
      because: `${outside.name} is in the cgroup ${outside.cgroup ?? '?'}, outside the attached ${attached ?? '?'}: both ends must be at or below it.`,
      change:
        'Take the datapath down and start it with a --cgroup that holds both ends; connections made after that are found.',
    };
  }
  if (whereabouts !== 'here') {
    return {
      verdict: 'hidden',
      decidedBy: 'place',
      name: whereabouts,
      because:
        whereabouts === 'hidden'
          ? `The other end's address, ${remote}, is this host's, but none of the processes that can be seen has its socket.`
          : 'More than one socket of this host could be its other end, so which one can not be told.',
      change:
        "Run it in the host's PID namespace; a connection that is handed on by a program in user space is two connections, each explained by its own port.",
    };
  }
  const younger = ends.find(({ ageSeconds }) => ageSeconds !== null && ageSeconds < loadedSeconds);
  const counted = LOCAL_REASONS.filter((reason) => (unpaired[reason] ?? 0) > 0).map(
    (reason) => `${String(unpaired[reason])} ${reason}`,
  );
  const causes =
    counted.length > 0 ? ` Since then, connections between local ends were not paired for: ${counted.join(', ')}.` : '';
  if (younger === undefined) {
    return {
      verdict: 'older',
      decidedBy: 'datapath',
      name: 'established before',
      because: `Both ends are here and not in the pair table. Most likely it was established before ${loaded}: the kernel keeps no date that would prove it.${causes}`,
      change: 'Let the programs reconnect (restarting one of the two is enough), or start with "up --adopt".',
    };
  }
  return {
    verdict: 'missed',
    decidedBy: 'datapath',
    name: counted.length > 0 ? (LOCAL_REASONS.find((reason) => (unpaired[reason] ?? 0) > 0) ?? null) : null,
    because:
      `Both ends are here and not in the pair table, although ${younger.name} was started after ${loaded}. Its handshake was not ` +
      `recognized, which happens with SYN cookies, Fast Open, Multipath TCP, a full pair table, or two handshakes at one moment; ` +
      `or it has its socket from an older process.${causes}`,
    change:
      (unpaired['table_full'] ?? 0) > 0
        ? 'Start with a larger --max-pairs after "down", then let the programs reconnect.'
        : 'Let the programs reconnect.',
  };
}

export function judgeListener(name: string, decision: PairDecision | undefined): Judgement {
  const says =
    decision === undefined
      ? ''
      : ` For its end of a connection the policy's ${decision.rule === 'defaults' ? 'defaults say' : `rule ${quote(decision.rule)} says`} ${decision.action}.`;
  return {
    verdict: 'listener',
    decidedBy: 'place',
    name: null,
    because: `${name} listens here.${says}`,
    change: null,
  };
}

function isBelow(path: string, above: string): boolean {
  return above === '/' || path === above || path.startsWith(`${above}/`);
}

const capital = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);
