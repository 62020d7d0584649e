"""Runs CPython's own tests and prints one line of JSON for each test's start and end.

Standard input is JSON: modules or tests to run, and tests to leave out.

The tests of test_socket exchange a message or two on each connection, which is over before it could be promoted. So
their fixtures talk a little before the test begins; the tests themselves are as they came.
"""
import json
import os
import re
import socket
import sys
import time
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


def is_tcp(sock):
    return sock.family in (socket.AF_INET, socket.AF_INET6) and sock.proto in (0, socket.IPPROTO_TCP) \
        and sock.type == socket.SOCK_STREAM


def talk(sock, asks):
    if not is_tcp(sock):
        return
    timeout = sock.gettimeout()
    # A socket with a timeout is non-blocking underneath.
    sock.settimeout(30)
    for n in range(24):
        if asks:
            # Promotion takes the controller a few milliseconds.
            time.sleep(0.001)
            sock.sendall(bytes([n]) * 8)
        received = b''
        while len(received) < 8:
            part = sock.recv(8 - len(received))
            assert part, 'the peer has closed'
            received += part
        assert received == bytes([n]) * 8, received
        if not asks:
            sock.sendall(received)
    sock.settimeout(timeout)


def warm_up(fixture, method, attribute, asks):
    original = getattr(fixture, method)

    def warmed(self):
        original(self)
        talk(getattr(self, attribute), asks)

    setattr(fixture, method, warmed)


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
if names[0].startswith('test.test_socket'):
    from test import test_socket
    for fixture in test_socket.SocketConnectedTest, test_socket.ConnectedStreamTestMixin:
        warm_up(fixture, 'setUp', 'cli_conn', False)
        warm_up(fixture, 'clientSetUp', 'serv_conn', True)
    warm_up(test_socket.NetworkConnectionTest, 'clientSetUp', 'serv_conn', True)
# AF_VSOCK belongs to the hypervisor, and on some machines its test never ends.
suite = unittest.TestSuite(test for test in tests_of(loader.loadTestsFromNames(names))
                           if test.id() not in left_out and 'VSOCK' not in test.id())
result = Result()
suite.run(result)
print(json.dumps({'test': '', 'verdict': 'end', 'detail': ''}), file=report)
