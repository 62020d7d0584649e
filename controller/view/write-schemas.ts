/** Writes docs/schemas: npm run schemas. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { PACKAGE_ROOT } from '../cli/package-info.js';
import { OUTPUTS, outputSchema } from './schemas.js';

for (const name of Object.keys(OUTPUTS) as (keyof typeof OUTPUTS)[]) {
  const file = join(PACKAGE_ROOT, 'docs', 'schemas', `${name}.json`);
  writeFileSync(file, `${JSON.stringify(outputSchema(name), undefined, 2)}\n`);
}
