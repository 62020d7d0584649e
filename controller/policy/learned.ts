/**
 * Programs that were seen to leave redirected data unread, each in its cgroup.
 * Kept in a file, so that what was learned outlives the controller and the host's
 * uptime.
 */
import { mkdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';

import { z } from 'zod';

import { EXIT, UserError } from '../errors.js';
import { MAX_STATE_BYTES, readTextFile, UnreadableFile } from '../read-file.js';

const learnedProgram = z.strictObject({
  /** As in /proc/PID/comm. */
  program: z.string().min(1),
  /** Path below the cgroup v2 root. */
  cgroup: z.string().startsWith('/'),
  cause: z.enum(['stalled', 'uncounted', 'overtaken']),
  /** When, ISO 8601. */
  at: z.string(),
  /** Kernel release it was seen on. */
  kernel: z.string(),
});

const learnedFile = z.strictObject({ version: z.literal(1), programs: z.array(learnedProgram) });

export type LearnedProgram = z.output<typeof learnedProgram>;

/** The oldest goes when one more is learned. */
export const LEARNED_LIMIT = 1000;

export class LearnedPrograms {
  /** Undefined: remembered by this process only. */
  readonly file: string | undefined;
  #programs: LearnedProgram[] = [];
  #modified = 0;

  /**
   * @param stateDir made when something is first learned; undefined: no file
   * @throws UserError if the directory can't be one, or the file is there and can't be read as one of ours
   */
  constructor(stateDir: string | undefined) {
    this.file = stateDir === undefined ? undefined : join(stateDir, 'learned.json');
    if (stateDir !== undefined && !isPlaceForDirectory(stateDir)) {
      throw new UserError(`--state-dir ${stateDir}: this is no directory, give one or a place for one`, EXIT.usage);
    }
    this.refresh();
  }

  get list(): readonly LearnedProgram[] {
    return this.#programs;
  }

  /** @param cgroup undefined for one that is gone: then nothing is known of it */
  has(program: string, cgroup: string | undefined): boolean {
    return this.#programs.some((known) => known.program === program && known.cgroup === cgroup);
  }

  /** Remembers a program; false if it was known. @throws Error if it can't be written; it is remembered all the same. */
  add(program: LearnedProgram): boolean {
    this.refresh();
    if (this.has(program.program, program.cgroup)) return false;
    this.#programs = [...this.#programs, program].slice(-LEARNED_LIMIT);
    this.#save();
    return true;
  }

  /** Forgets a program in every cgroup, or all of them; returns how many entries went. */
  forget(program?: string): number {
    this.refresh();
    const before = this.#programs.length;
    this.#programs = program === undefined ? [] : this.#programs.filter((known) => known.program !== program);
    if (this.#programs.length < before) this.#save();
    return before - this.#programs.length;
  }

  /** Reads the file again if it has changed; true if it had. @throws UserError */
  refresh(): boolean {
    if (this.file === undefined) return false;
    const modified = statSync(this.file, { throwIfNoEntry: false })?.mtimeMs ?? 0;
    if (modified === this.#modified) return false;
    this.#modified = modified; // a file that can't be read is complained of once
    this.#programs = modified === 0 ? [] : readLearned(this.file);
    return true;
  }

  #save(): void {
    if (this.file === undefined) return;
    mkdirSync(dirname(this.file), { recursive: true, mode: 0o700 });
    const next = `${this.file}.${String(process.pid)}`;
    try {
      writeFileSync(next, `${JSON.stringify({ version: 1, programs: this.#programs }, null, 2)}\n`, { mode: 0o600 });
      renameSync(next, this.file);
    } catch (error) {
      rmSync(next, { force: true });
      throw error;
    }
    this.#modified = statSync(this.file).mtimeMs;
  }
}

/** True for a directory, and where one can be made. */
function isPlaceForDirectory(path: string): boolean {
  for (let at = resolve(path); ; at = dirname(at)) {
    try {
      return statSync(at).isDirectory();
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOTDIR') return false;
      if (at === '/') return true;
    }
  }
}

function readLearned(file: string): LearnedProgram[] {
  try {
    return learnedFile.parse(JSON.parse(readTextFile(file, MAX_STATE_BYTES))).programs;
  } catch (error) {
    if (error instanceof UnreadableFile) throw new UserError(`${file}: ${error.message}`, undefined, { cause: error });
    const reason = error instanceof z.ZodError ? z.prettifyError(error).replaceAll('\n', ' ') : String(error);
    throw new UserError(
      `${file} is no list of learned programs (${reason}): repair it, or remove it to forget what was learned`,
      undefined,
      { cause: error },
    );
  }
}
