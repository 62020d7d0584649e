"""Runs CPython's own tests and prints one line of JSON for each test's start and end.

Standard input is JSON: modules or tests to run, and tests to leave out.
"""
import json
import os
import re
import sys
import unittest

from test import support

# The tests print, too.
report = os.fdopen(os.dup(1), 'w', buffering=1)
null = os.open(os.devnull, os.O_RDWR)
wanted = json.load(sys.stdin)
os.dup2(null, 0)
os.dup2(null, 1)
# As regrtest has it by default: no look at the internet, nothing that takes minutes.
support.use_resources = []
support.verbose = 0


def say(test, verdict, detail=''):
    print(json.dumps({'test': test.id(), 'verdict': verdict, 'detail': detail[-4000:]}), file=report)


class Result(unittest.TestResult):
    def startTest(self, test):
        super().startTest(test)
        self.sound = True
        say(test, 'started')

    def addSuccess(self, test):
        super().addSuccess(test)
        if self.sound:
            say(test, 'passed')

    def addError(self, test, err):
        super().addError(test, err)
        say(test, 'failed', self.errors[-1][1])

    def addFailure(self, test, err):
        super().addFailure(test, err)
        say(test, 'failed', self.failures[-1][1])

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.sound = False
            say(test, 'failed', self._exc_info_to_string(err, test))

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        say(test, 'skipped', reason)

    def addExpectedFailure(self, test, err):
        super().addExpectedFailure(test, err)
        say(test, 'passed')

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        say(test, 'failed', 'unexpected success')


def tests_of(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from tests_of(test)
        else:
            yield test


loader = unittest.TestLoader()
# Errors outside of a test are named `setUpClass (module.Class)`.
names = [re.sub(r'^\w+ \((.+)\)$', r'\1', name) for name in wanted['run']]
left_out = set(wanted['leave'])
suite = unittest.TestSuite(test for test in tests_of(loader.loadTestsFromNames(names)) if test.id() not in left_out)
result = Result()
suite.run(result)
print(json.dumps({'test': '', 'verdict': 'end', 'detail': ''}), file=report)
