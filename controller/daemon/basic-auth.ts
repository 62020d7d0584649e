/**
 * HTTP basic authentication (RFC 7617) against bcrypt hashes, at the same cost for every user, known or not:
 * the time of an answer says nothing about who exists.
 */
import { createHmac, randomBytes } from 'node:crypto';

import { compare } from 'bcryptjs';

import { costOf } from './web-config.js';

export type AuthAnswer = 'yes' | 'no' | 'busy';

/** Checks that may wait; each takes tens of milliseconds of the controller's processor. */
const MAX_WAITING = 16;
/** Answers that are remembered, so that a scrape costs no check. */
const MAX_KNOWN = 100;
/** Where no user is known; as htpasswd(1) is told to by the documentation. */
const DEFAULT_COST = 10;

export class BasicAuth {
  readonly #users: ReadonlyMap<string, string>;
  readonly #maxCost: number;
  /** Passwords are kept as keyed hashes only. */
  readonly #key = randomBytes(32);
  readonly #known = new Map<string, boolean>();
  #waiting = 0;
  #last: Promise<unknown> = Promise.resolve();

  /** @param users bcrypt hashes by name */
  constructor(users: ReadonlyMap<string, string>) {
    this.#users = users;
    this.#maxCost = Math.max(0, ...[...users.values()].map((hash) => costOf(hash) ?? 0)) || DEFAULT_COST;
  }

  /** @param header the request's Authorization */
  async check(header: string | undefined): Promise<AuthAnswer> {
    if (this.#users.size === 0) return 'yes';
    const given = parseBasic(header);
    if (given === undefined) return 'no';
    const id = createHmac('sha256', this.#key).update(JSON.stringify(given)).digest('base64');
    const known = this.#known.get(id);
    if (known !== undefined) return known ? 'yes' : 'no';
    if (this.#waiting >= MAX_WAITING) return 'busy';
    this.#waiting++;
    // One at a time: many at once would keep the controller from its work.
    const check = this.#last.then(() => this.#known.get(id) ?? this.#compare(given));
    this.#last = check.catch(() => undefined);
    try {
      const right = await check;
      this.#remember(id, right);
      return right ? 'yes' : 'no';
    } finally {
      this.#waiting--;
    }
  }

  async #compare({ user, password }: Credentials): Promise<boolean> {
    const hash = this.#users.get(user);
    const right = (await compare(password, hash ?? decoy(this.#maxCost))) && hash !== undefined;
    // 2^c + 2^c + 2^(c+1) + ... + 2^(max-1) rounds are 2^max, whatever c is.
    for (let cost = costOf(hash ?? '') ?? this.#maxCost; cost < this.#maxCost; cost++) {
      await compare(password, decoy(cost));
    }
    return right;
  }

  #remember(id: string, right: boolean): void {
    this.#known.delete(id);
    this.#known.set(id, right);
    if (this.#known.size <= MAX_KNOWN) return;
    // Wrong guesses go first: they must not push out who is right.
    const oldest = [...this.#known].find(([, answer]) => !answer)?.[0] ?? this.#known.keys().next().value;
    if (oldest !== undefined) this.#known.delete(oldest);
  }
}

interface Credentials {
  user: string;
  password: string;
}

function parseBasic(header: string | undefined): Credentials | undefined {
  const encoded = /^Basic +([A-Za-z0-9+/]+={0,2}) *$/i.exec(header ?? '')?.[1];
  if (encoded === undefined) return undefined;
  const text = Buffer.from(encoded, 'base64').toString();
  const colon = text.indexOf(':');
  return colon < 0 ? undefined : { user: text.slice(0, colon), password: text.slice(colon + 1) };
}

/** A hash that costs as much as any other and that no password is known to fit. */
function decoy(cost: number): string {
  return `$2b$${String(cost).padStart(2, '0')}$${'slipstreambpfdecoysalt'.padEnd(22, '.')}${'.'.repeat(31)}`;
}
