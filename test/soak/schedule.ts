/**
 * What the soak does and when, drawn from the seed alone: the same seed gives the
 * same chapters, actions, victims and policies. What the kernel makes of them at
 * which instant is not repeatable.
 */
import { Deck, Random } from './random.js';

/** Kinds of chapter, in the order of a round. */
export type ChapterKind = 'mixed' | 'tiny table' | 'memory' | 'steady';

export interface Chapter {
  kind: ChapterKind;
  seconds: number;
  maxPairs: number;
}

/** What happens to the processes with connections. */
export type EndpointAction =
  | { kind: 'kill'; role: 'client' | 'server'; victim: number }
  | { kind: 'kill both'; place: number }
  | { kind: 'signal'; victim: number; count: number }
  | { kind: 'stop'; victim: number; forMs: number }
  | { kind: 'flood'; count: number; seed: number };

/** What happens to the controller. */
export type ControllerAction =
  | { kind: 'reload'; policy: string; valid: boolean; signal: boolean }
  | { kind: 'kill'; absentMs: number }
  | { kind: 'restart'; absentMs: number; policy: string }
  | { kind: 'down'; killFirst: boolean; absentMs: number };

/** An action and the pause before it. */
export type Timed<T> = T & { afterMs: number };

export const TABLE = 1024;
export const TINY_TABLE = 16;

/** Chapters that fill the time; a long run has long steady ones, in which memory can be seen to grow. */
export function chapters(seconds: number): Chapter[] {
  const steady = seconds >= 300 ? 55 : 16;
  const scale = Math.min(1, seconds / (20 + 10 + 14 + steady));
  const round: Chapter[] = [
    { kind: 'mixed', seconds: 20 * scale, maxPairs: TABLE },
    { kind: 'tiny table', seconds: 10 * scale, maxPairs: TINY_TABLE },
    { kind: 'memory', seconds: 14 * scale, maxPairs: TABLE },
    { kind: 'steady', seconds: steady * scale, maxPairs: TABLE },
  ];
  const all: Chapter[] = [];
  let left = seconds;
  while (left > 1) {
    for (const chapter of round) {
      if (left <= 1) break;
      all.push({ ...chapter, seconds: Math.min(left, chapter.seconds) });
      left -= chapter.seconds;
    }
  }
  return all;
}

/** The endless sequence of what happens to clients and servers. */
export function* endpointActions(seed: number): Generator<Timed<EndpointAction>, never> {
  const random = new Random(seed, 'endpoints');
  const deck = new Deck(random, { client: 14, server: 14, both: 2, signal: 10, stop: 5, flood: 1 });
  for (;;) {
    const afterMs = random.between(60, 420);
    const kind = deck.draw();
    const victim = random.between(0, 999);
    if (kind === 'client' || kind === 'server') yield { kind: 'kill', role: kind, victim, afterMs };
    else if (kind === 'both') yield { kind: 'kill both', place: victim, afterMs };
    else if (kind === 'signal') yield { kind, victim, count: random.between(1, 40), afterMs };
    else if (kind === 'stop') yield { kind, victim, forMs: random.between(20, 1200), afterMs };
    else yield { kind, count: 150_000, seed: random.between(1, 2 ** 30), afterMs };
  }
}

/** The endless sequence of what happens to the controller; steady chapters leave it alone but for its policy. */
export function* controllerActions(seed: number): Generator<Timed<ControllerAction>, never> {
  const random = new Random(seed, 'controller');
  const deck = new Deck(random, { reload: 4, kill: 3, restart: 1, down: 2 });
  for (;;) {
    const afterMs = random.between(100, 1300);
    const kind = deck.draw();
    const valid = random.chance(75);
    const text = valid || kind === 'restart' ? validPolicy(random) : invalidPolicy(random);
    const signal = random.chance(60);
    const absentMs = random.between(0, 1000);
    if (kind === 'reload') yield { kind, policy: text, valid, signal, afterMs };
    else if (kind === 'kill') yield { kind, absentMs, afterMs };
    else if (kind === 'restart') yield { kind, absentMs, policy: text, afterMs };
    else yield { kind, killFirst: signal, absentMs, afterMs };
  }
}

export const FIRST_POLICY = 'version: 1\ndefaults: { blockingReaders: true, promoteAfter: 4 }\n';

export function validPolicy(random: Random): string {
  const action = random.weighted({ accelerate: 88, tcp: 8, observe: 4 });
  const blocking = String(random.chance(88));
  const after = random.pick([2, 3, 4, 8, 16]);
  const backlog = random.pick(['64KiB', '256KiB', '1MiB', '4MiB']);
  const rules = random.chance(20)
    ? `rules:\n  - { name: half, ports: [32768-${random.between(33000, 60000)}], action: ${random.pick(['tcp', 'accelerate'])} }\n`
    : '';
  return `version: 1\ndefaults: { action: ${action}, blockingReaders: ${blocking}, promoteAfter: ${after}, backlog: ${backlog} }\n${rules}`;
}

function invalidPolicy(random: Random): string {
  return random.pick([
    'version: 1\ndefaults: { action: fly }\n',
    'version: 7\n',
    'version: 1\nrules: [\n',
    'version: 1\ndefaults: { backlog: -1 }\n',
    '',
  ]);
}
