/** npm run docs: writes the pages that are made of the code. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { BpfObject } from '../addon/index.js';
import { publishedSchema } from '../bench/format.js';
import { objectFile, PACKAGE_ROOT } from '../controller/cli/package-info.js';
import { Layout } from '../controller/datapath/layout.js';
import { describeMetrics } from '../controller/metrics/document.js';

const layout = new Layout(BpfObject.open(objectFile()));
writeFileSync(join(PACKAGE_ROOT, 'docs', 'metrics.md'), await describeMetrics(layout));
writeFileSync(
  join(PACKAGE_ROOT, 'docs', 'schemas', 'benchmarks.json'),
  `${JSON.stringify(publishedSchema(), undefined, 2)}\n`,
);
