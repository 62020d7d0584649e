// Mocha's `spec` report with the reason behind every skip, and the counts in the file that scripts/test names in
// TEST_RESULT. A reason is the property `skipReason` of the test, hook or suite that was skipped.
const { writeFileSync } = require('node:fs');
const Mocha = require('mocha');

const { Spec } = Mocha.reporters;
const { EVENT_TEST_PENDING, EVENT_TEST_END, EVENT_RUN_END } = Mocha.Runner.constants;
// After the last test only what the tests forgot to close can keep the process alive this long.
const patience = 15_000;

function reason(test) {
  if (test.skipReason) return test.skipReason;
  for (let suite = test.parent; suite; suite = suite.parent) {
    const hook = [...suite._beforeAll, ...suite._beforeEach].find(({ skipReason }) => skipReason);
    if (suite.skipReason ?? hook) return suite.skipReason ?? hook.skipReason;
  }
  return 'no reason given';
}

// Mocha hands stray rejections back to the process and forgets them; thrown, they fail the test that runs.
process.on('unhandledRejection', (cause) => {
  throw cause;
});

module.exports = class extends Spec {
  /** Why a test was skipped. */
  static reason = reason;

  constructor(runner, options) {
    super(runner, options);
    const skipped = [];
    runner.on(EVENT_TEST_PENDING, (test) => skipped.push(test));
    // As it goes, for the counts to survive a crash.
    runner.on(EVENT_TEST_END, () => this.record('unfinished'));
    runner.once(EVENT_RUN_END, () => {
      if (skipped.length > 0) {
        console.log('  skipped:\n');
        for (const test of skipped) console.log(`  - ${test.fullTitle()}: ${reason(test)}`);
        console.log();
      }
      this.record('finished');
      setTimeout(() => {
        console.log(`  FAILED: the tests left something open: ${process.getActiveResourcesInfo().join(', ')}`);
        this.record('finished', 1);
        process.exit();
      }, patience).unref();
    });
  }

  record(progress, moreFailures = 0) {
    const { passes, failures, pending } = this.stats;
    const file = process.env.TEST_RESULT;
    if (file) writeFileSync(file, `${passes} ${failures + moreFailures} ${pending} ${progress}\n`);
  }
};
