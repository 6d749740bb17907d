"""Tests that share a process: what they leave behind is named, and a death or a hang is the right test's."""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from harness.userfaultfd import PAGE_BYTES, Region, libc
from tests_functional.kernel import golden, leftovers, needs, registry
from tests_functional.kernel.batches import Batches
from tests_functional.kernel.calls import CallThread, idle_threads
from tests_functional.kernel.content import never
from tests_functional.kernel.isolate import Result
from tests_functional.kernel.registry import FeatureTest, KernelIssue
from tests_functional.kernel.splats import Complaints, KernelLog
from tests_functional.kernel.trial import Trial

_ANY = next(test for test in registry.all_tests() if test.slug.startswith("api.any."))
_kept: list[object] = []


class _Log:
    """A kernel's log whose n-th reading, from 1, has a complaint."""

    def __init__(self, *complaints_at: int) -> None:
        self._at, self._readings = complaints_at, 0

    def complaints(self) -> Complaints:
        self._readings += 1
        return Complaints(own=["WARNING: at mm/rmap.c"] if self._readings in self._at else [])


def _test(name: str, function: Callable[[Trial], None], **changes: Any) -> FeatureTest:
    return replace(_ANY, name=name, function=function, features=0, needs=(), known_issues=(), **changes)


def _run(tests: Sequence[FeatureTest], log: Any = None, **options: Any) -> dict[str, Result]:
    batches = Batches(tests, "", 1.0, cast(KernelLog, log or _Log()), **options)
    return {test.name: result for test, result in batches.results(tests, 1)}


def _pid(trial: Trial) -> None:
    trial.check(True, "")
    trial.note(str(os.getpid()))


def _fails(trial: Trial) -> None:
    _pid(trial)
    trial.check(False, "It is wrong.", "wrong")


def _pids(results: dict[str, Result]) -> list[str]:
    return [result.notes[0] for result in results.values()]


def test_tests_that_pass_share_a_process_up_to_a_number() -> None:
    """One process for two tests, and another one for the third; each its own with 1."""
    tests = [_test(name, _pid) for name in "abc"]
    first, second, third = _pids(_run(tests, most=2))
    assert first == second != third
    assert len(set(_pids(_run(tests, most=1)))) == 3
    assert str(os.getpid()) not in {first, third}


def test_a_failure_is_decided_alone_and_ends_the_process() -> None:
    """The test runs again in a process of its own, and the next one gets a fresh process."""
    results = _run([_test("a", _pid), _test("b", _fails), _test("c", _pid)])
    assert [result.status for result in results.values()] == ["PASS", "FAIL", "PASS"]
    assert len(set(_pids(results))) == 3


def test_images_made_before_are_shared_and_the_deciding_run_makes_its_own() -> None:
    """Golden content made before serves all processes, but not the run that decides about a failure."""

    def look(trial: Trial) -> None:
        trial.check(True, "")
        trial.note(str(sorted(pages for pages in (kept.pages for kept in golden._images.values()))))

    def fails(trial: Trial) -> None:
        look(trial)
        trial.check(False, "It is wrong.")

    golden.forget_images()
    golden.make_images([(PAGE_BYTES, never)] * 2)
    try:
        made = str([image.pages for image in golden._images.values()])
        results = _run([_test("a", look), _test("b", look, alone=True), _test("c", fails)])
    finally:
        golden.forget_images()
    assert made == "[512]" or PAGE_BYTES != 4096
    assert [result.notes[0] for result in results.values()] == [made, made, "[]"]


def test_nobody_can_write_to_an_image() -> None:
    """A stray store into golden content that other tests share ends the process that does it."""

    def strays(trial: Trial) -> None:
        trial.check(True, "")
        faulthandler.disable()
        libc.store(golden.image(1, PAGE_BYTES, never).address, b"x")

    result = _run([_test("a", strays)])["a"]
    assert (result.status, "SIGSEGV" in result.reason) == ("ERROR", True)


def test_a_failure_in_company_only_stays_a_failure() -> None:
    """A test that fails after others and passes alone is not green, and the note says so."""
    state: list[int] = []

    def first(trial: Trial) -> None:
        state.append(1)
        _pid(trial)

    def second(trial: Trial) -> None:
        trial.check(not state, "The first test has left something.")

    result = _run([_test("a", first), _test("b", second)])["b"]
    assert result.status == "FAIL"
    assert result.notes[-1] == "It passes in a process of its own; 1 tests ran before it in this one."


@pytest.mark.parametrize("changes", [{"alone": True}, {"needs": ("two-cpus",)}])
def test_some_tests_run_alone(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Races on several processors, tests that change their process, and tests with a known issue."""
    monkeypatch.setitem(needs.NEEDS, "two-cpus", str)
    pids = _pids(_run([_test("a", _pid), replace(_test("b", _pid), **changes), _test("c", _pid)]))
    assert pids[0] == pids[2] != pids[1]


def test_a_known_issue_is_run_once_and_alone() -> None:
    """A test that is expected to fail would only cost a shared process."""
    known = replace(_test("b", _fails), known_issues=(KernelIssue("Known", "wrong"),))
    results = _run([_test("a", _pid), known, _test("c", _pid)])
    pids = _pids(results)
    assert results["b"].status == "XFAIL"
    assert pids[0] == pids[2] != pids[1]


def _leaves_descriptor(trial: Trial) -> None:
    trial.check(True, "")
    _kept.append(os.pipe())


def _leaves_mapping(trial: Trial) -> None:
    trial.check(True, "")
    _kept.append(Region.anonymous(1 << 16, shared=True))


def _leaves_thread(trial: Trial) -> None:
    trial.check(True, "")
    CallThread(trial, time.sleep, 30).__enter__()


def _leaves_child(trial: Trial) -> None:
    trial.check(True, "")
    if os.fork() == 0:
        try:
            time.sleep(60)
        finally:
            # No signal may let it go on as the process of the tests.
            os._exit(0)


def _leaves_affinity(trial: Trial) -> None:
    trial.check(True, "")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def _leaves_handler(trial: Trial) -> None:
    trial.check(True, "")
    signal.signal(signal.SIGBUS, signal.SIG_IGN)


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (_leaves_descriptor, "the descriptor of pipe:"),
        (_leaves_mapping, "/dev/zero (deleted)"),
        (_leaves_thread, "a thread that waits in"),
        (_leaves_child, "a child process"),
        (_leaves_affinity, "another set of processors"),
        (_leaves_handler, "another handler of a signal"),
    ],
)
def test_what_a_test_leaves_behind_is_named(
    function: Callable[[Trial], None], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test that leaves it is an ERROR; the next one runs in a fresh process."""
    if function is _leaves_affinity and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("This machine has one processor.")
    monkeypatch.setattr(leftovers, "_END_SECONDS", 0.1)
    results = _run([_test("a", _pid), _test("b", function), _test("c", _pid)])
    assert [result.status for result in results.values()] == ["PASS", "ERROR", "PASS"]
    assert named in results["b"].reason
    assert results["a"].notes != results["c"].notes


def test_a_change_of_swap_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that leaves swap space off is named."""
    # This process has threads that are not ours.
    monkeypatch.setattr(leftovers, "_threads", list)
    before = leftovers.Leftovers()
    settings = leftovers._settings()
    monkeypatch.setattr(leftovers, "_settings", lambda: {**settings, "swap device": ["/dev/zram9"]})
    assert before.found() == ["another swap device"]


def test_a_test_that_cleans_up_leaves_nothing() -> None:
    """Memory, descriptors and calls of a trial are gone, and the thread that made the calls is ours."""

    def tidy(trial: Trial) -> None:
        trial.region(4)
        with CallThread(trial, os.getpid):
            pass
        trial.check(idle_threads(), "The thread was not kept.")

    results = _run([_test("a", tidy), _test("b", tidy)])
    assert [result.status for result in results.values()] == ["PASS", "PASS"], results


def test_a_death_is_that_of_the_test_that_ran() -> None:
    """SIGBUS is a FAIL of that test, and the others pass."""

    def dies(_: Trial) -> None:
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGBUS)

    results = _run([_test("a", _pid), _test("b", dies), _test("c", _pid)])
    assert [result.status for result in results.values()] == ["PASS", "FAIL", "PASS"]
    assert "SIGBUS" in results["b"].reason


def test_a_hang_is_that_of_the_test_that_ran() -> None:
    """The time limit is each test's own, and is not waited for twice."""
    tests = [_test("a", _pid), replace(_test("b", lambda _: time.sleep(60)), seconds=0.3), _test("c", _pid)]
    begun = time.monotonic()
    results = _run(tests)
    assert [result.status for result in results.values()] == ["PASS", "TIMEOUT", "PASS"]
    assert time.monotonic() - begun < 20


def test_a_complaint_is_that_of_the_test_that_ran() -> None:
    """It is read before and after each test; the second reading of b is the fourth."""
    results = _run([_test("a", _pid), _test("b", _pid), _test("c", _pid)], _Log(4))
    assert [result.status for result in results.values()] == ["PASS", "FAIL", "PASS"]
    assert "mm/rmap.c" in results["b"].reason


def test_a_complaint_at_the_end_is_traced_to_its_test() -> None:
    """All tests of the process run again, each alone; here b complains again (readings 8 to 13)."""
    results = _run([_test("a", _pid), _test("b", _pid), _test("c", _pid)], _Log(7, 11))
    assert [result.status for result in results.values()] == ["PASS", "FAIL", "PASS"]
    assert "during the test" in results["b"].reason


def test_a_complaint_at_the_end_that_none_shows_alone_is_not_lost() -> None:
    """The last test of the process is red, and names the complaint."""
    results = _run([_test("a", _pid), _test("b", _pid)], _Log(5))
    assert [result.status for result in results.values()] == ["PASS", "FAIL"]
    assert "At the end of the process of 2 tests" in results["b"].reason
    assert "mm/rmap.c" in results["b"].reason


def test_one_processor_is_that_of_shared_processes_only() -> None:
    """With `one_cpu` a shared process has one processor, and a process of its own all of them."""

    def count(trial: Trial) -> None:
        trial.check(True, "")
        trial.note(str(len(os.sched_getaffinity(0))))

    tests = [_test("a", count), replace(_test("b", count), alone=True)]
    assert _pids(_run(tests, one_cpu=True)) == ["1", str(len(os.sched_getaffinity(0)))]
    assert _pids(_run(tests))[0] == str(len(os.sched_getaffinity(0)))
