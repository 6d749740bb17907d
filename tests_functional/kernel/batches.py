"""Decides each test's result: by a run in a process that tests share, or by a run in a process of its own."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from typing import Callable

from .isolate import Result, run_isolated, skip_reason
from .registry import FeatureTest
from .shared import SharedProcess
from .splats import KernelLog

MOST = 50
"""Tests that share a process at most: that many run again if the kernel complains when it ends."""

_TWO_CPUS = "two-cpus"

# Worst first; the result of repeated runs of a test is the worst of them.
_WORST = ("FAIL", "TIMEOUT", "ERROR", "XFAIL", "PASS", "SKIP")

Decided = tuple[FeatureTest, Result]


class Batches:
    """Runs tests, most of them in processes that they share.

    A test that does not pass in such a process runs again in its own, which decides, so that no test fails
    for what another has left behind. If it passes there, the first result stays, with a note.
    """

    def __init__(
        self,
        tests: Sequence[FeatureTest],
        helper: str,
        slow: float,
        log: KernelLog,
        *,
        most: int = MOST,
        one_cpu: bool = False,
    ) -> None:
        """Describe a run.

        Args:
            tests: what may be run.
            helper: path of the library of tests_functional/kernel/trackers/segv.c, empty for none.
            slow: factor for the tests' time limits.
            log: the kernel's log.
            most: tests that share a process at most; 1 gives each a process of its own.
            one_cpu: let shared processes use one processor. Tests of races have processes of their own.
        """
        self._helper, self._slow, self._log, self._most = helper, slow, log, most
        self._shared = SharedProcess(tests, helper, slow, one_cpu=one_cpu)

    def results(self, tests: Sequence[FeatureTest], repeat: int) -> Iterator[Decided]:
        """Yield each test with the worst result of `repeat` runs, when the process that ran it has ended."""
        batch: list[Decided] = []
        for test in tests:
            batch.append((test, merged([self._one(test) for _ in range(repeat)])))
            if len(self._shared.ran) >= self._most or not self._shared.ran:
                yield from self._settled(batch)
                batch = []
        yield from self._settled(batch)

    def _one(self, test: FeatureTest) -> Result:
        reason = skip_reason(test)
        if reason:
            return Result("SKIP", reason)
        if self._most <= 1 or test.alone or _TWO_CPUS in test.needs or _expected_to_fail(test):
            return self._alone(test)
        first = self._watched(lambda: self._shared.run(test))
        if first.status in ("PASS", "TIMEOUT"):
            return first
        second = self._alone(test, again=True)
        if second.status != "PASS" or first.status == "SKIP":
            return second
        before = len(self._shared.ran) - 1
        first.notes.append(f"It passes in a process of its own; {before} tests ran before it in this one.")
        return first

    def _alone(self, test: FeatureTest, *, again: bool = False) -> Result:
        return self._watched(lambda: run_isolated(test, self._helper, self._slow, again=again))

    def _watched(self, work: Callable[[], Result]) -> Result:
        """Do a run of a test, which fails if the kernel complains meanwhile."""
        self._log.complaints()
        result = work()
        complaints = self._log.complaints()
        result.notes += complaints.own
        result.notes += [f"not about this test: {sentence}" for sentence in complaints.others]
        if complaints.own and result.status in {"PASS", "SKIP", "XFAIL"}:
            result.status = "FAIL"
            result.reason = f"The kernel complained during the test: {complaints.own[0]}"
        return result

    def _settled(self, batch: Sequence[Decided]) -> list[Decided]:
        """End the shared process and return its results; find the test to blame if its end goes wrong."""
        ran = {test.slug for test in self._shared.ran}
        reason = self._shared.end()
        own = self._log.complaints().own
        if own and not reason:
            reason = f"The kernel complained: {own[0]}"
        if not reason or not ran:
            return list(batch)
        again = [
            (test, self._alone(test, again=True) if test.slug in ran else result) for test, result in batch
        ]
        guilty = [result for test, result in again if test.slug in ran and result.status != "PASS"]
        if not guilty:
            last = max(at for at, (test, _) in enumerate(again) if test.slug in ran)
            result = again[last][1]
            result.status = "FAIL"
            result.reason = (
                f"At the end of the process of {len(ran)} tests, the last of which was this one: {reason} "
                "None of them shows it in a process of its own."
            )
        return again


def _expected_to_fail(test: FeatureTest) -> bool:
    """Return whether a known issue is about a test on this kernel, so that it would end a shared process."""
    content = test.content.name if test.content else ""
    return any(
        issue.explains(issue.code, test.memory_name, platform.release(), content)
        for issue in test.known_issues
    )


def merged(runs: Sequence[Result]) -> Result:
    """Return the worst of several results of one test, with a note if they differ."""
    worst = min(runs, key=lambda result: _WORST.index(result.status))
    statuses = [result.status for result in runs]
    if len(set(statuses)) > 1:
        worst.notes.append(f"The results of its runs differ: {', '.join(statuses)}.")
        if worst.status in {"PASS", "XFAIL"}:
            # A test that skips only sometimes has a need that is not probed correctly.
            worst.status, worst.reason = "ERROR", worst.notes[-1]
    return worst
