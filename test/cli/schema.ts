/** Compares what commands print with the schemas that are published in docs/schemas. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { Ajv2020 } from 'ajv/dist/2020.js';

import type { OUTPUTS } from '../../controller/view/schemas.js';
import { ROOT } from '../kernel/support/sandbox.js';

export function readSchema(name: keyof typeof OUTPUTS): object {
  return JSON.parse(readFileSync(join(ROOT, 'docs', 'schemas', `${name}.json`), 'utf8')) as object;
}

/** Parses JSON and returns it; fails where it is not what is published. */
export function parseOutput(name: keyof typeof OUTPUTS, json: string): unknown {
  const value = JSON.parse(json) as unknown;
  const ajv = new Ajv2020({ allErrors: true });
  const validate = ajv.compile(readSchema(name));
  assert.ok(validate(value), `${name}: ${ajv.errorsText(validate.errors, { separator: '\n' })}`);
  return value;
}
