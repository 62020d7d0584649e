// The report of scripts/test, and in the file that TEST_RECORD names a JSON text with what became of the tests of each
// file: { files: { FILE: { passed, failed: [TITLE], skipped: [{ title, reason }] } } }.
const { writeFileSync } = require('node:fs');
const { relative } = require('node:path');
const Mocha = require('mocha');

const Report = require('../../scripts/mocha-reporter.cjs');
const { EVENT_TEST_PASS, EVENT_TEST_FAIL, EVENT_TEST_PENDING, EVENT_TEST_END } = Mocha.Runner.constants;

module.exports = class extends Report {
  constructor(runner, options) {
    super(runner, options);
    const files = {};
    const of = ({ file, parent }) =>
      (files[relative('.', file ?? parent?.file ?? '.').replace(/\.js$/, '.ts')] ??= {
        passed: 0,
        failed: [],
        skipped: [],
      });
    runner.on(EVENT_TEST_PASS, (test) => of(test).passed++);
    runner.on(EVENT_TEST_FAIL, (test) => of(test).failed.push(test.fullTitle()));
    runner.on(EVENT_TEST_PENDING, (test) => {
      of(test).skipped.push({ title: test.fullTitle(), reason: Report.reason(test) });
    });
    // As it goes, for the record to survive a crash.
    for (const event of [EVENT_TEST_END, EVENT_TEST_FAIL]) {
      runner.on(event, () => writeFileSync(process.env.TEST_RECORD, `${JSON.stringify({ files })}\n`));
    }
  }
};
