/** Exit codes of every command; part of the outward interface. */
export const EXIT = {
  done: 0,
  failed: 1,
  /** Wrong usage or an invalid policy. */
  usage: 2,
  /** This kernel or host can't. */
  unsupported: 3,
} as const;

/**
 * A failure that a person can do something about: one sentence that says what
 * happened, to what, and what to do. Printed without a stack trace.
 */
export class UserError extends Error {
  readonly exitCode: number;

  constructor(message: string, exitCode: number = EXIT.failed, options?: ErrorOptions) {
    super(message, options);
    this.name = 'UserError';
    this.exitCode = exitCode;
  }
}

/** What is wrong with a policy, one line a problem, each `file:line:col: message` as editors read it. */
export class PolicyError extends UserError {
  constructor(problems: readonly string[]) {
    super(problems.join('\n'), EXIT.usage);
    this.name = 'PolicyError';
  }
}
