/**
 * The policy that a controller goes by, left in its state directory for processes that explain its decisions: the file
 * that it came from may have changed since, or be invalid.
 */
import { createHash } from 'node:crypto';
import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

import { z } from 'zod';

import { MAX_STATE_BYTES, readTextFile } from '../read-file.js';
import type { Policy } from './schema.js';

const recordSchema = z.object({
  version: z.literal(1),
  pinDir: z.string(),
  loadedNs: z.string(),
  file: z.string().nullable(),
  hash: z.string(),
  since: z.string(),
  policy: z.unknown(),
});

export interface PolicyInForce {
  /** Where it was read; null for the default. */
  file: string | null;
  hash: string;
  /** When it came into force, ISO 8601. */
  since: string;
  policy: Policy;
}

/** First 12 hexadecimal digits of the SHA-256 of a parsed policy. */
export function policyHash(policy: unknown): string {
  return createHash('sha256').update(JSON.stringify(policy)).digest('hex').slice(0, 12);
}

/** One datapath's record. */
export class PolicyRecord {
  readonly file: string;
  readonly #dir: string;
  readonly #pinDir: string;
  readonly #loadedNs: bigint;

  /** @param loadedNs tells the datapath from earlier ones with the same pin directory */
  constructor(stateDir: string, pinDir: string, loadedNs: bigint) {
    this.#dir = stateDir;
    this.#pinDir = resolve(pinDir);
    this.#loadedNs = loadedNs;
    this.file = join(stateDir, `policy-${this.#pinDir.slice(1).replaceAll('/', '-')}.json`);
  }

  /** @throws Error if it can't be written */
  write(file: string | undefined, policy: Policy): void {
    mkdirSync(this.#dir, { recursive: true, mode: 0o700 });
    const record: z.input<typeof recordSchema> = {
      version: 1,
      pinDir: this.#pinDir,
      loadedNs: String(this.#loadedNs),
      file: file === undefined ? null : resolve(file),
      hash: policyHash(policy),
      since: new Date().toISOString(),
      policy,
    };
    const next = `${this.file}.${String(process.pid)}`;
    try {
      writeFileSync(next, `${JSON.stringify(record)}\n`, { mode: 0o600 });
      renameSync(next, this.file);
    } catch (error) {
      rmSync(next, { force: true });
      throw error;
    }
  }

  /** Undefined if no controller of this datapath has left one that can be trusted. */
  read(): PolicyInForce | undefined {
    try {
      const record = recordSchema.parse(JSON.parse(readTextFile(this.file, MAX_STATE_BYTES)));
      const { file, hash, since, policy } = record;
      const ours = record.pinDir === this.#pinDir && record.loadedNs === String(this.#loadedNs);
      return ours && policyHash(policy) === hash ? { file, hash, since, policy: policy as Policy } : undefined;
    } catch {
      return undefined;
    }
  }

  remove(): void {
    rmSync(this.file, { force: true });
  }
}
