/** What a suite is, and how its outcomes are compared. */
import { Hung, type Form, type Place } from './place.js';

export interface Outcome {
  /** `passed`, `failed`, `skipped`, `hung`, or a suite's own word. */
  verdict: string;
  /** Why, if there is something to say. */
  detail: string;
}

/** By name of the test. */
export type Outcomes = Map<string, Outcome>;

/** Thrown by prepare(): the suite can't run on this machine. */
export class Unavailable extends Error {}

export interface Suite {
  name: string;
  /** Accelerated forms that tell something; each value says why nothing may be redirected, or is empty. */
  forms: Partial<Record<Exclude<Form, 'plain'>, string>>;
  /** Ours must also pass without acceleration; of others' suites only the difference counts. */
  ours: boolean;
  /** Tests that may differ because of what docs/guarantees.md lists. */
  known?: { matches: RegExp; reason: string };
  /** How long a step of ours may take; default: three minutes. */
  stepSeconds?: number;
  /** Once, before all forms. */
  prepare?: () => void | Promise<void>;
  /** After all forms, whatever happened. */
  finish?: () => void;
  run: (place: Place, only?: string) => Promise<Outcomes>;
}

/** Steps of a scenario, by name; each throws if something is wrong. */
export type Steps = Record<string, () => Promise<unknown>>;

/** Carries out the steps, or one of them, each within so many seconds. */
export async function carryOut(place: Place, steps: Steps, seconds: number, only?: string): Promise<Outcomes> {
  const outcomes: Outcomes = new Map();
  for (const [name, step] of Object.entries(steps)) {
    if (only !== undefined && only !== name) continue;
    try {
      await place.within(seconds, name, step());
      outcomes.set(name, { verdict: 'passed', detail: '' });
    } catch (error) {
      const hung = error instanceof Hung;
      outcomes.set(name, { verdict: hung ? 'hung' : 'failed', detail: String(error) });
      // The servers are gone with what hung.
      if (hung) break;
    }
  }
  return outcomes;
}

export function count(outcomes: Outcomes, verdict: string): number {
  return [...outcomes.values()].filter((outcome) => outcome.verdict === verdict).length;
}

const absent: Outcome = { verdict: 'not run', detail: '' };

export function outcomeOf(outcomes: Outcomes, test: string): Outcome {
  return outcomes.get(test) ?? absent;
}

/** Names of the tests that ended differently. */
export function differing(plain: Outcomes, fast: Outcomes): string[] {
  const names = new Set([...plain.keys(), ...fast.keys()]);
  return [...names].filter((name) => outcomeOf(plain, name).verdict !== outcomeOf(fast, name).verdict);
}
