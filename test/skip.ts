/** Skips a test, or with a hook's context those it is for, and says why. */
export function skip(context: Mocha.Context, reason: string): never {
  // Read by scripts/mocha-reporter.cjs.
  (context.runnable() as { skipReason?: string }).skipReason = reason;
  return context.skip();
}

export function needsRoot(context: Mocha.Context): void {
  if (process.geteuid?.() !== 0) skip(context, 'loading BPF programs needs root');
}
