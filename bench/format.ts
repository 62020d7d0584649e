/** The results as JSON: `npm run bench -- --json FILE`. Its JSON Schema is docs/schemas/benchmarks.json. */
import { z } from 'zod';

import { PATHS, PLACEMENTS } from './place.js';

const ratio = z.number().nonnegative();

const measured = {
  workload: z.string(),
  path: z.enum(PATHS),
  size: z.int().nullable().describe('bytes of a message; null where there is no such thing'),
  placement: z.enum(PLACEMENTS),
  clients: z.int(),
  detail: z.string().nullable().describe('what else tells the row from its namesakes'),
  unit: z.string(),
  higherIsBetter: z.boolean().describe('false for times'),
};

const compared = {
  ratio: ratio.describe('median over the rounds of slipstream/tcp (tcp/slipstream for times): above 1 is faster'),
  ratioLow: ratio.describe('95 % bootstrap interval of the ratio'),
  ratioHigh: ratio,
  runs: z.int().describe('rounds; each measures every column once'),
  cpuRatio: ratio
    .nullable()
    .describe('median of CPU seconds a unit of work, both ends, slipstream/tcp: below 1 is cheaper'),
  redirectedMessages: z.int().describe('in all rounds of the column slipstream, counted by the datapath'),
};

export const rowSchema = z.strictObject({
  ...measured,
  tcp: z.number().describe('medians of the rounds, in the unit; null: not measured'),
  slipstream: z.number(),
  naive: z.number().nullable(),
  unix: z.number().nullable(),
  ...compared,
  naiveRatio: ratio.nullable(),
  unixRatio: ratio.nullable(),
  note: z.string().nullable().describe('why a column is missing, or what was not as it should be'),
});

export const overheadSchema = z.strictObject({
  overhead: z
    .string()
    .describe('what is loaded beside the traffic; its column is called slipstream, that without it tcp'),
  ...measured,
  tcp: z.number(),
  slipstream: z.number(),
  ...compared,
  note: z.string().nullable(),
});

export const scaleSchema = z.strictObject({
  pairs: z.int().describe('open connections'),
  active: z.int().describe('of which so many talk, one after the other'),
  promoted: z.int().describe('pairs in the sockmap'),
  promotionMilliseconds: z.number().describe('mean from the message that made a pair a candidate to its insertion'),
  iteratorMilliseconds: z.number().describe('one run of the iterator, median'),
  tcpMicroseconds: z.number().describe('median round trip of an active pair with nothing loaded'),
  slipstreamMicroseconds: z.number(),
  controllerCpu: z.number().describe('CPUs that the controller keeps busy meanwhile'),
  controllerMegabytes: z.number().describe('its resident memory'),
  metricsMilliseconds: z.number().describe('one GET of /metrics, median'),
  kernelBytesPerPair: z
    .number()
    .nullable()
    .describe('slab memory beyond that of plain TCP, and the maps at this size of table'),
});

export const profileSchema = z.strictObject({
  workload: z.string(),
  program: z.string(),
  runs: z.int(),
  nanoseconds: z.number().describe('mean of a run (kernel.bpf_stats_enabled)'),
});

export const reportSchema = z.strictObject({
  meta: z.strictObject({
    version: z.string(),
    commit: z.string().describe('with "+" where files differ from it'),
    date: z.string(),
    kernel: z.string(),
    cpu: z.string(),
    cpus: z.int(),
    node: z.string(),
    secondsPerRun: z.number(),
    quick: z.boolean(),
  }),
  rows: z.array(rowSchema),
  overhead: z.array(overheadSchema),
  scale: z.array(scaleSchema),
  profile: z.array(profileSchema),
  skipped: z.array(z.strictObject({ row: z.string(), reason: z.string() })),
});

export type Row = z.infer<typeof rowSchema>;
export type Overhead = z.infer<typeof overheadSchema>;
export type Scale = z.infer<typeof scaleSchema>;
export type Profile = z.infer<typeof profileSchema>;
export type Report = z.infer<typeof reportSchema>;

/** What is published in docs/schemas/benchmarks.json. */
export function publishedSchema(): object {
  return z.toJSONSchema(reportSchema);
}
