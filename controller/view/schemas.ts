/**
 * The shapes of what commands print with --json. docs/schemas holds them as JSON Schema; `npm run schemas` writes those.
 * Nothing is validated at run time: the tests do, on real outputs.
 */
import { z } from 'zod';

import { OUTLOOKS } from '../decisions/outlook.js';
import { STATES } from '../datapath/pair-table.js';
import type { ExplainResult } from '../explain/explain.js';
import { DECIDERS, VERDICTS } from '../explain/judge.js';
import type { LearnedProgram } from '../policy/learned.js';
import { actions, streamings } from '../policy/schema.js';
import type { TrialResult } from '../policy/trial.js';
import type { PortBenchResult } from '../measure/measure.js';
import type { BenchResult } from '../probe/bench.js';
import type { Diagnosis } from '../probe/doctor.js';
import type { PairRow } from './pairs.js';
import type { Status } from './status.js';
import type { Suggestion } from './suggestion.js';

const count = z.int().nonnegative();
const seconds = z.number();
const byReason = z.record(z.string(), count);
const port = z.int().min(0).max(65_535);
const state = z.enum(STATES);
const when = z.string().describe('ISO 8601');

const endShape = {
  address: z.string(),
  port,
  remoteAddress: z.string().describe('Of the peer, as this end sees it'),
  remotePort: port,
  pid: z.int().positive().nullable().describe('Of the process that last received; null before the first receive'),
  program: z.string().nullable().describe('As in /proc/PID/comm'),
  cgroup: z.string().nullable().describe('Path below the cgroup v2 root; null once it is gone'),
  unit: z.string().nullable().describe('The innermost unit of systemd in that path'),
  container: z
    .strictObject({ id: z.string(), engine: z.enum(['containerd', 'cri-o', 'docker', 'nerdctl', 'podman']).nullable() })
    .nullable()
    .describe('The innermost'),
  pod: z
    .strictObject({ uid: z.string(), qos: z.enum(['besteffort', 'burstable', 'guaranteed']).nullable() })
    .nullable()
    .describe('The innermost'),
  netns: count.describe('Inode of the network namespace'),
};

const direction = z.strictObject({
  path: z.enum(['tcp', 'direct']).describe('tcp unless the state is inserted'),
  redirectedBytes: count,
  redirectedMessages: count,
  passedMessages: count.describe('Sent over TCP while promoted'),
  lastPass: z.string().nullable().describe('Why the last of these used TCP'),
  stalledSeconds: seconds.nullable().describe('Its reader has taken nothing for so long; null unless it has stalled'),
});

const pair = z.strictObject({
  id: z.string().describe('SLOT.GENERATION'),
  state,
  ageSeconds: seconds,
  promotions: count,
  stream: z.boolean().describe('Promoted as a stream, which was measured to be faster redirected'),
  adopted: z.boolean().describe('Established before the datapath was there; the age counts from the adoption'),
  reason: z.string().nullable().describe('Why it is not promoted, was taken back, or what is wrong with it'),
  client: z.strictObject(endShape),
  server: z.strictObject(endShape),
  toServer: direction,
  toClient: direction,
});

const status = z.strictObject({
  version: z.string(),
  pinDir: z.string(),
  loaded: z.boolean(),
  datapath: z
    .strictObject({
      version: z.string(),
      abiVersion: count,
      controllerRunning: z.boolean(),
      paused: z.boolean(),
      measurement: z
        .strictObject({ port, path: z.enum(['tcp', 'direct']) })
        .nullable()
        .describe('The port whose pairs "bench --port" measures, and the path that they use at the moment'),
      attachedCgroup: z.string().nullable(),
      gate: z.strictObject({ failed: z.array(z.string()), unknown: z.array(z.string()) }),
      loadedSeconds: seconds,
      maxPairs: count,
      pairs: z.record(state, count),
      pairsTotal: count,
      promotions: count,
      redirectedBytes: count,
      redirectedMessages: count,
      passed: byReason,
      refusals: byReason,
      demotions: byReason,
      unpaired: byReason,
      eventsLost: count,
    })
    .exactOptional()
    .describe('Absent while nothing is loaded'),
});

const learnedProgram = z.strictObject({
  program: z.string(),
  cgroup: z.string(),
  cause: z.enum(['stalled', 'uncounted', 'overtaken']),
  at: when,
  kernel: z.string(),
});

const problem = z.strictObject({ file: z.string(), line: count, column: count, message: z.string() });
const settings = {
  action: z.enum(actions),
  blockingReaders: z.boolean(),
  promoteAfter: count,
  backlog: count.describe('Bytes'),
  streams: z.enum(streamings),
};
const policyCheck = z.strictObject({
  file: z.string(),
  hash: z.string().describe('First 12 hexadecimal digits of the SHA-256 of the parsed policy'),
  warnings: z.array(problem),
  policy: z
    .looseObject({
      version: z.literal(1),
      defaults: z.strictObject(settings),
      rules: z.array(z.looseObject({ name: z.string(), action: settings.action.optional() })),
      exclude: z.strictObject({ programs: z.array(z.string()) }),
    })
    .describe('Complete: sizes in bytes, ports as ranges, conditions as lists'),
});

const place = {
  line: z.int().positive().nullable().describe('Of the rule in the file; null for defaults that it does not have'),
  column: z.int().positive().nullable(),
};
const trialSettings = { ...settings, rule: z.string(), ...place };
const trial = z.strictObject({
  file: z.string(),
  hash: z.string(),
  ends: z
    .array(
      z.strictObject({
        cgroup: z.string().nullable(),
        port: port.nullable(),
        program: z.string().nullable(),
        learned: z.boolean().nullable().describe('Whether this program was learned to be unsafe; null if not known'),
        ...trialSettings,
        unknown: z
          .enum(['cgroup', 'program'])
          .nullable()
          .describe('What is not known, if the rule decides only because it may apply'),
        passedOver: z.array(
          z.strictObject({
            rule: z.string(),
            ...place,
            state: z.enum(['holds', 'fails', 'unknown']),
            because: z.string(),
          }),
        ),
        excluded: z
          .strictObject({
            program: z.string(),
            source: z.enum(['built-in', 'policy']),
            hazard: z.enum(['splice', 'fionread']).nullable(),
            reason: z.string(),
          })
          .nullable(),
        helperPort: port.nullable().describe('Port of a conntrack helper that the rule does not name'),
      }),
    )
    .min(1)
    .max(2),
  pair: z.strictObject(trialSettings).nullable().describe('The stricter of both ends; null with one end'),
  outcome: z.enum(actions),
  reason: z.string().nullable().describe('As slipstream_refusals_total has it; null if it may be accelerated'),
  because: z.string(),
});

const outlooks = z.record(z.enum(OUTLOOKS), count);
const trafficGroup = z.strictObject({
  client: z.strictObject({ cgroup: z.string().nullable(), programs: z.array(z.string()) }),
  server: z.strictObject({ cgroup: z.string().nullable(), programs: z.array(z.string()) }),
  port: port.describe("The server's own"),
  dialled: port.describe('What the client dials; another one where it is translated'),
  namespaces: z.boolean().describe('Whether an end is in another network namespace than the other'),
  pairs: count,
  outlooks,
  reasons: byReason.describe('Why pairs are refused'),
  messagesPerSecond: z.number().describe('Receives of both ends'),
  bytesPerSecond: z.number(),
  turnShare: z.number().min(0).max(1).nullable().describe('Part of the receives that answered the other side'),
  would: z.strictObject({
    messagesPerSecond: z.number(),
    bytesPerSecond: z.number(),
    savedCpu: z.number().nullable().describe('Estimate, microseconds of CPU time a second; null without --measure'),
    clientPrograms: z.array(z.string()),
    serverPrograms: z.array(z.string()),
  }),
});
const suggestion = z.strictObject({
  seconds,
  loadedSeconds: seconds,
  controllerRunning: z.boolean(),
  unseen: count.describe('Connections that came and went between two looks'),
  measured: z
    .array(
      z.strictObject({
        size: count.describe('Bytes of a message'),
        tcp: z.number().describe('Microseconds of CPU time for a round trip'),
        direct: z.number(),
      }),
    )
    .nullable()
    .describe('With --measure'),
  groups: z.array(trafficGroup),
  rules: count.describe('That the suggested policy has more than the one in force'),
  also: z.array(trafficGroup).describe('What these rules stand for as well'),
  left: z.array(trafficGroup).describe('What no rule can be written for'),
  output: z.string().nullable(),
});

const diagnosis = z.strictObject({
  able: z.boolean(),
  kernel: z.string(),
  checks: z.array(
    z.strictObject({
      id: z.string(),
      status: z.enum(['ok', 'warn', 'fail']),
      detail: z.string(),
      remedy: z.string().exactOptional(),
    }),
  ),
});

const explainedEnd = z.strictObject({
  ...endShape,
  socket: z.string().nullable().describe('State of the socket; null if it could not be seen'),
  sharedWith: count.describe('Other processes that hold the same socket'),
  reads: z
    .strictObject({
      receives: count,
      bytes: count,
      evidence: z.array(z.string()).describe('What enum evidence of bpf/abi.h names, in lower case'),
    })
    .nullable(),
  sends: direction.nullable(),
  policy: z.strictObject({ rule: z.string(), action: z.enum(actions) }).nullable(),
});

const explanation = z.strictObject({
  target: z.string(),
  attachedCgroup: z.string().nullable(),
  loadedSeconds: seconds,
  controllerRunning: z.boolean(),
  policy: z
    .strictObject({ file: z.string().nullable(), hash: z.string(), since: when.nullable() })
    .nullable()
    .describe('Null if the policy in force is not known'),
  notes: z.array(z.string()),
  connections: z.array(
    z.strictObject({
      kind: z.enum(['pair', 'connection', 'listener']),
      verdict: z.enum(VERDICTS),
      decidedBy: z.enum(DECIDERS),
      name: z.string().nullable().describe('The rule, kernel finding, program or reason'),
      because: z.string(),
      change: z.string().nullable().describe('What would change it'),
      pair: z
        .strictObject({
          id: z.string(),
          state,
          ageSeconds: seconds,
          promotedSeconds: seconds.nullable(),
          promotions: count,
          turns: count,
          turnsWanted: count,
        })
        .nullable(),
      client: explainedEnd.nullable(),
      server: explainedEnd.nullable(),
      translated: z.boolean(),
    }),
  ),
});

const benchPath = z.strictObject({
  roundTripsPerSecond: z.number(),
  p50: z.number().describe('Microseconds'),
  p99: z.number().describe('Microseconds'),
  cpu: z.number().describe('Microseconds of both programs for a round trip'),
});
const benchResult = z.strictObject({
  kernel: z.string(),
  seconds,
  privateNetwork: z.boolean(),
  rows: z.array(
    z.strictObject({
      size: count.describe('Bytes of a message'),
      tcp: benchPath,
      slipstream: benchPath,
      ratio: z.number(),
      redirected: z.number().min(0).max(1),
    }),
  ),
});

const spread = z
  .strictObject({ median: z.number(), low: z.number(), high: z.number() })
  .describe('Of slipstream to TCP, from neighbouring windows; a quarter of them lies below low, a quarter above high');
const comparedPath = z.strictObject({
  receivesPerSecond: z.number(),
  bytesPerSecond: z.number().describe('Received by both ends'),
  cpu: z.number().nullable().describe('Microseconds of the programs at both ends for 1024 bytes; null if not seen'),
});
const portBenchResult = z.strictObject({
  kernel: z.string(),
  port,
  windows: count,
  windowSeconds: seconds,
  pairs: count.describe('In the window that had the most'),
  programs: z.array(z.strictObject({ program: z.string(), pid: z.int().positive() })),
  tcp: comparedPath.describe('Medians of its windows'),
  slipstream: comparedPath,
  ratio: z.strictObject({ receives: spread, bytes: spread, cpu: spread.nullable() }),
  redirected: z.number().min(0).max(1).describe('Part of the messages of the windows on the direct path'),
});

/** By the command that prints it; the compiler compares each with the type that is printed. */
export const OUTPUTS = {
  status: status satisfies z.ZodType<Status>,
  pairs: z.array(pair satisfies z.ZodType<PairRow>),
  explain: explanation satisfies z.ZodType<ExplainResult>,
  learned: z.array(learnedProgram satisfies z.ZodType<LearnedProgram>),
  'learned-forget': z.strictObject({ forgotten: count }),
  'policy-check': policyCheck,
  'policy-test': trial satisfies z.ZodType<TrialResult>,
  'policy-suggest': suggestion satisfies z.ZodType<Suggestion>,
  doctor: diagnosis satisfies z.ZodType<Diagnosis>,
  bench: benchResult satisfies z.ZodType<BenchResult>,
  'bench-port': portBenchResult satisfies z.ZodType<PortBenchResult>,
} as const;

/** As JSON Schema, draft 2020-12. */
export function outputSchema(name: keyof typeof OUTPUTS): object {
  return { title: `slipstream-bpf ${name.replace('-', ' ')} --json`, ...z.toJSONSchema(OUTPUTS[name]) };
}
