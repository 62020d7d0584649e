/**
 * What an application can do with a connection, as small programs whose every
 * answer is written down.
 */
import type { Case } from './case.js';
import { BYTES } from './cases/bytes.js';
import { CLOSING } from './cases/closing.js';
import { DIFFERENT } from './cases/different.js';
import { EVENTS } from './cases/events.js';
import { OPTIONS } from './cases/options.js';
import { SHARED } from './cases/shared.js';

export const CASES: readonly Case[] = [...BYTES, ...CLOSING, ...EVENTS, ...SHARED, ...OPTIONS, ...DIFFERENT];
