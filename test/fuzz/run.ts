/** scripts/fuzz: each target for its share of the time. */
import { randomInt } from 'node:crypto';

import { fuzz } from './fuzz.js';
import { TARGETS } from './targets.js';

const [seconds = '60', given] = process.argv.slice(2);
const seed = given === undefined ? randomInt(2 ** 31) : Number(given);
if (!(Number(seconds) > 0) || !Number.isInteger(seed)) {
  console.error('slipstream-bpf: scripts/fuzz takes seconds above 0 and a seed, a whole number: scripts/fuzz 60 42');
  process.exit(2);
}
console.log(`seed ${String(seed)}`);
let failed = 0;
for (const target of TARGETS) {
  const time = (Number(seconds) * 1000) / TARGETS.length;
  const { runs, failure, remark } = await fuzz(target, seed, { time });
  if (failure !== undefined) failed++;
  console.log(
    [`${target.name}: ${String(runs)} inputs`, remark, failure ?? 'nothing found'].filter(Boolean).join(', '),
  );
}
console.log(`${String(TARGETS.length - failed)} passed, ${String(failed)} failed, 0 skipped`);
process.exitCode = failed > 0 ? 1 : 0;
