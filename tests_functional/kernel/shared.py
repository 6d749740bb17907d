"""Runs tests one after the other in one child process, while each passes and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Sequence

from harness.userfaultfd.libc import LIBC

from .isolate import (
    PR_SET_PDEATHSIG,
    Result,
    encoded,
    ended,
    kill,
    kill_group,
    killed_late,
    outcome,
    read_reply,
    reap,
)
from .leftovers import Leftovers
from .registry import FeatureTest


class SharedProcess:
    """A child process that runs tests when it is told to; started by the first of them.

    After a result other than PASS it is of no further use, and ends: a test that failed may have left threads
    that wait, and protected memory.

    Attributes:
        ran: the tests that ran in the present process.
    """

    def __init__(
        self, tests: Sequence[FeatureTest], helper: str, slow: float, *, one_cpu: bool = False
    ) -> None:
        """Describe it.

        Args:
            tests: all tests that it may run.
            helper: path of the library of tests_functional/kernel/trackers/segv.c, empty for none.
            slow: factor for the tests' time limits.
            one_cpu: let it use one processor: emulated ones need long to wake each other and flush TLBs.
        """
        self._numbers = {test.slug: number for number, test in enumerate(tests)}
        self._tests, self._helper, self._slow, self._one_cpu = tests, helper, slow, one_cpu
        self._child = self._orders = self._results = -1
        self.ran: list[FeatureTest] = []

    def run(self, test: FeatureTest) -> Result:
        """Run a test, with its time limit, and return its result; a death or hang is that test's."""
        began = time.monotonic()
        if self._child < 0:
            self._start()
        self.ran.append(test)
        with contextlib.suppress(BrokenPipeError):
            os.write(self._orders, b"%d\n" % self._numbers[test.slug])
        seconds = test.seconds * self._slow
        data = read_reply(self._results, seconds)
        if data is None:
            result = killed_late(self._child, seconds)
            self._forget()
        elif not data.endswith(b"\n"):
            result = ended(self._child, b"")
            self._forget()
        else:
            result = Result(**json.loads(data))
            if result.status != "PASS":
                # It ends now, as a process does that has run one test.
                result = ended(self._child, data)
                self._forget()
        result.seconds = round(time.monotonic() - began, 3)
        return result

    def end(self) -> str:
        """End the process; return what went wrong with that, empty if nothing did."""
        self.ran = []
        if self._child < 0:
            return ""
        os.close(self._orders)
        self._orders = -1
        status = reap(self._child)
        reason = ""
        if status is None:
            kill(self._child)
            reason = "The tests have ended, but the kernel does not end their process."
        elif status:
            reason = f"The process of the tests ended with wait status {status}."
        kill_group(self._child)
        self._forget()
        return reason

    def _start(self) -> None:
        orders, self._orders = os.pipe2(os.O_CLOEXEC)
        self._results, results = os.pipe2(os.O_CLOEXEC)
        sys.stdout.flush()
        self._child = os.fork()
        if self._child == 0:
            os.close(self._orders)
            self._serve(orders, results)
        os.close(orders)
        os.close(results)

    def _forget(self) -> None:
        for descriptor in (self._orders, self._results):
            if descriptor >= 0:
                os.close(descriptor)
        self._child = self._orders = self._results = -1

    def _serve(self, orders: int, results: int) -> None:
        """Run the tests whose numbers come, and exit without running any code of the parent."""
        try:
            os.setpgid(0, 0)
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if self._one_cpu:
                os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
            leftovers = Leftovers()
            while order := os.read(orders, 64):
                result = outcome(self._tests[int(order)], self._helper, close=True)
                left = leftovers.found() if result.status == "PASS" else []
                if left:
                    result.status = "ERROR"
                    result.reason = f"The test left behind: {'; '.join(left)}."
                os.write(results, encoded(result))
                if result.status != "PASS":
                    break
        finally:
            os._exit(0)
