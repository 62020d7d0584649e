/** The kept seeds, with what once broke something, and a moment of fuzzing; `scripts/fuzz` takes more time. */
import { fuzz } from './fuzz.js';
import { TARGETS } from './targets.js';

const SEED = 1;
const RUNS: Record<string, number> = { policy: 150, 'web-config': 300, http: 100, btf: 100 };

describe('fuzzing', function () {
  this.timeout(60_000);

  for (const target of TARGETS) {
    it(`${target.name}, seed ${SEED}`, async () => {
      const { failure } = await fuzz(target, SEED, { runs: RUNS[target.name] ?? 100 });
      if (failure !== undefined) throw new Error(failure);
    });
  }
});
