"""The feature tests of the kernel: their list, how one is run apart, and that they see faults."""

from __future__ import annotations

import faulthandler
import os
import re
import resource
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from harness.userfaultfd import PAGE_BYTES, Feature, Userfaultfd, libc, probe_userfaultfd
from tests_functional.kernel import isolate, needs, registry
from tests_functional.kernel.batches import Batches, merged
from tests_functional.kernel.isolate import Result, run_isolated
from tests_functional.kernel.memory import ANON, EVERY, HUGETLB
from tests_functional.kernel.oracle import (
    PAGEMAP_DIFFERS,
    UNREPORTED,
    check_pagemap,
    pagemap_has_bit,
    release,
)
from tests_functional.kernel.registry import FeatureTest, KernelIssue
from tests_functional.kernel.run import exit_code
from tests_functional.kernel.splats import Complaints
from tests_functional.kernel.trial import CheckFailed, LimitReached, Skip, Trial

_TESTS = registry.all_tests()
# R26 takes KVM; R34 is test_monitor_that_waits_for_itself below.
_LEFT_OUT = {"R26", "R34"}


def _test(function: Callable[[Trial], None], **changes: Any) -> FeatureTest:
    values: dict[str, Any] = {
        "suite": "api",
        "name": "fake",
        "memory": None,
        "function": function,
        "variant": "",
        "features": 0,
        "needs": (),
        "recipe": "R00",
        "bugs": (),
        "seconds": 5.0,
        "known_issues": (),
    }
    return FeatureTest(**{**values, **changes})


def _named(slug: str) -> FeatureTest:
    (found,) = [test for test in _TESTS if test.slug == slug]
    return found


def _require_wp() -> None:
    if not probe_userfaultfd().write_protect:
        pytest.skip(probe_userfaultfd().reason or "This kernel has no write protection.")


def test_slugs_are_unique_and_plain() -> None:
    """A name follows its test over time and through systems that know letters, digits, '-' and '_' only."""
    slugs = [test.slug for test in _TESTS]
    assert len(slugs) == len(set(slugs)) > 300
    assert all(re.fullmatch(r"[a-z_]+\.[a-z-]+\.[a-z0-9-]+", slug) for slug in slugs)


def test_every_recipe_has_a_test() -> None:
    """R01 to R35, but for those that are left out with a reason."""
    recipes = {test.recipe for test in _TESTS}
    assert {f"R{number:02}" for number in range(1, 36)} - recipes == _LEFT_OUT


@pytest.mark.parametrize(
    "test", {test.function.__name__: test for test in _TESTS}.values(), ids=lambda test: str(test.slug)
)
def test_each_is_a_contract(test: FeatureTest) -> None:
    """A sentence that says what must hold, and needs that are known."""
    assert test.contract.endswith(".")
    for need in test.needs:
        assert need in needs.NEEDS or need.startswith("store:")


def test_memory_types_say_why() -> None:
    """Each has a reason of its own and needs that are known."""
    assert len({kind.name for kind in EVERY}) == len({kind.why for kind in EVERY}) == len(EVERY)
    assert all(need in needs.NEEDS for kind in EVERY for need in kind.needs)


def test_filter_takes_names_and_recipes() -> None:
    """A pattern matches names as in the shell, and a recipe exactly."""
    assert {test.suite for test in registry.chosen(_TESTS, ["swap.*"])} == {"swap"}
    assert {test.recipe for test in registry.chosen(_TESTS, ["R13"])} == {"R13"}
    assert registry.chosen(_TESTS, []) == _TESTS
    assert registry.chosen(_TESTS, ["none"]) == []


def _asserts(trial: Trial) -> None:
    trial.check(True, "")
    trial.note("noted")


def _asserts_nothing(trial: Trial) -> None:
    trial.note("nothing")


def _fails(trial: Trial) -> None:
    trial.equal(1, 2, "The number", "wrong-number")


def _breaks(_: Trial) -> None:
    raise KeyError("x")


def _is_refused(trial: Trial) -> None:
    with Userfaultfd(0, user_mode_only=trial.user_mode_only) as uffd:
        uffd.write_protect(PAGE_BYTES, PAGE_BYTES)


def _has_no_descriptor_left(_: Trial) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    Userfaultfd(0, user_mode_only=True)


def _skips(trial: Trial) -> None:
    trial.skip("There is none.")


def _dies(number: int) -> Callable[[Trial], None]:
    def die(_: Trial) -> None:
        faulthandler.disable()
        os.kill(os.getpid(), number)

    return die


def _sleeps(_: Trial) -> None:
    time.sleep(60)


@pytest.mark.parametrize(
    ("function", "status", "reason"),
    [
        (_asserts, "PASS", ""),
        (_asserts_nothing, "ERROR", "made no assertion"),
        (_fails, "FAIL", "The number: 1, expected 2."),
        (_breaks, "ERROR", "is broken: KeyError"),
        (_is_refused, "FAIL", "UFFDIO_WRITEPROTECT of 0x1000"),
        (_has_no_descriptor_left, "ERROR", "A limit of this machine was reached"),
        (_skips, "SKIP", "There is none."),
        (_dies(signal.SIGBUS), "FAIL", "SIGBUS"),
        (_dies(signal.SIGKILL), "ERROR", "SIGKILL"),
        (_sleeps, "TIMEOUT", "did not end within 0 s"),
    ],
)
def test_outcome_says_whose_fault(function: Callable[[Trial], None], status: str, reason: str) -> None:
    """FAIL is the kernel's, ERROR ours; one that asserts nothing is an ERROR, one that hangs is ended."""
    if function is _is_refused:
        _require_wp()
    result = run_isolated(_test(function, seconds=0.3 if function is _sleeps else 20))
    assert result.status == status, result
    assert reason in result.reason


def test_known_issue_is_expected_for_its_own_failure_only() -> None:
    """The code of the failed assertion must be that of the issue; any other failure is a FAIL."""
    known, other = KernelIssue("Known", "wrong-number"), KernelIssue("Known", "other-code")
    assert run_isolated(_test(_fails, known_issues=(other, known))).status == "XFAIL"
    assert run_isolated(_test(_fails, known_issues=(other,))).status == "FAIL"
    assert run_isolated(_test(_asserts, known_issues=(known,))).status == "PASS"


@pytest.mark.parametrize(
    ("memory", "release", "explained"),
    [
        ("anon", "5.10.0-32-cloud-amd64", True),
        ("anon", "5.18.3", True),
        ("shmem", "5.10.0", False),
        ("anon", "5.19.0-rc1", False),
        ("anon", "6.1.0", False),
        ("anon", "unreadable", False),
    ],
)
def test_known_issue_ends_with_its_fix(memory: str, release: str, explained: bool) -> None:
    """The same failure is FAIL on a kernel with the fix, and on other memory."""
    assert KernelIssue("x", "lost", (5, 19), ("anon",)).explains("lost", memory, release) == explained
    assert KernelIssue("x", "lost").explains("lost", memory, release)


def test_known_issue_is_that_of_its_content() -> None:
    """The same failure with pages of another content is FAIL."""
    issue = KernelIssue("x", "lost", (5, 19), ("anon",), ("zero",))
    assert issue.explains("lost", "anon", "5.10.0", "zero")
    assert not issue.explains("lost", "anon", "5.10.0", "own")
    assert not issue.explains("lost", "anon", "5.10.0")
    assert not issue.explains("lost", "anon", "5.19.0", "zero")


def test_a_limit_of_the_machine_is_an_error_in_its_own_words() -> None:
    """Neither the kernel is blamed nor the test."""

    def late(trial: Trial) -> None:
        trial.check(True, "")
        raise LimitReached("Its thread gets no processor.")

    result = run_isolated(_test(late))
    assert (result.status, result.reason, result.checks) == ("ERROR", "Its thread gets no processor.", 1)


def test_known_issues_have_a_code() -> None:
    """Most assertions have no code: an issue without one would explain any of their failures."""
    codes = [issue.code for test in _TESTS for issue in test.known_issues]
    assert codes
    assert all(codes)


@pytest.mark.parametrize(
    "name",
    [
        "lifetime.anon.closing-releases-all",
        "lifetime.shmem.closing-releases-markers",
        "swap.shmem.closing-releases-swapped-pages",
    ],
)
def test_bits_that_closing_leaves_are_known_by_pagemap_and_by_a_write(name: str) -> None:
    """Kernels with the bug show it by either, as pagemap has the bit or not; newer ones have no excuse."""
    memory = name.split(".")[1]
    issues = _named(name).known_issues
    for code in (PAGEMAP_DIFFERS, "stale-protection"):
        assert any(issue.explains(code, memory, "6.1.0-47-cloud-amd64") for issue in issues)
        assert not any(issue.explains(code, memory, "6.9.0") for issue in issues)
    assert not any(issue.explains(UNREPORTED, memory, "6.1.0-47-cloud-amd64") for issue in issues)


def test_need_that_is_not_met_is_a_skip_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test is not even started."""
    monkeypatch.setitem(needs.NEEDS, "gold", lambda: "There is no gold.")
    assert run_isolated(_test(_dies(9), needs=("gold",))) == Result("SKIP", "There is no gold.")
    assert "does not offer BIT_63" in run_isolated(_test(_dies(9), features=1 << 63)).reason


def test_monitor_that_waits_for_itself() -> None:
    """R34: a test whose own monitor writes to a protected page is ended and blamed, not the kernel."""
    _require_wp()

    def deadlock(trial: Trial) -> None:
        region, _ = trial.protected()
        libc.store(region.address, b"x")

    result = run_isolated(_test(deadlock, features=int(Feature.PAGEFAULT_FLAG_WP), seconds=2))
    assert result.status == "TIMEOUT"
    assert any("userfault" in note for note in result.notes), result.notes
    assert exit_code([result.status]) == 2


def test_repeated_runs_that_differ_are_told() -> None:
    """The worst counts; a test that is skipped at times has a need that it does not probe."""
    runs = [Result("PASS"), Result("FAIL", "x")]
    assert "PASS, FAIL" in merged(runs).notes[0]
    runs = [Result("PASS"), Result("SKIP", "x")]
    assert merged(runs).status == "ERROR"
    assert merged([Result("PASS")] * 2).notes == []


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (["PASS", "SKIP"], 0),
        (["PASS", "XFAIL"], 0),
        (["PASS", "FAIL", "ERROR"], 1),
        (["PASS", "ERROR"], 2),
        (["TIMEOUT"], 2),
        ([], 3),
        (["SKIP"], 4),
    ],
)
def test_exit_codes(statuses: list[str], code: int) -> None:
    """The exit codes are those of the other commands."""
    assert exit_code(statuses) == code


def test_complaint_of_the_kernel_fails_a_test_that_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A splat of the test's own is a failure whatever it asserts; one of another job is a note."""
    from tests_functional.kernel import batches

    said = Complaints(own=["WARNING: at mm/memory.c"])

    class Log:
        calls = 0

        def complaints(self) -> Complaints:
            self.calls += 1
            return said if self.calls == 2 else Complaints()

    monkeypatch.setattr(batches, "run_isolated", lambda *_, **_named: Result("PASS"))

    def decided(log: Any) -> Result:
        test = _test(_asserts)
        ((_, found),) = Batches([test], "", 1.0, log, most=1).results([test], 1)
        return found

    result = decided(Log())
    assert (result.status, "mm/memory.c" in result.reason) == ("FAIL", True)
    said = Complaints(others=["traps: cc1[5] general protection fault"])
    result = decided(Log())
    assert result == Result("PASS", notes=["not about this test: traps: cc1[5] general protection fault"])


def test_golden_pages_differ_and_have_room_for_a_mutex() -> None:
    """Two pages that are swapped are seen; the zeros are where tests expect them."""
    with Trial(ANON, 0, user_mode_only=not needs.may_trap_kernel()) as trial:
        region = trial.region(4)
        assert len({trial.golden(region, page) for page in range(4)}) == 4
        assert region.load(64, 64) == bytes(64)
        trial.check_content(region)
        region.store(PAGE_BYTES, b"x")
        with pytest.raises(CheckFailed, match="Page 1"):
            trial.check_content(region)


def test_memory_that_cannot_be_had_is_a_skip() -> None:
    """Memory that cannot be mapped is a skip with the error of mmap."""
    with Trial(HUGETLB, 0) as trial, pytest.raises(Skip, match="type hugetlb cannot be mapped"):
        trial.region(1 << 20)


def test_child_that_cannot_be_reaped_is_the_kernels_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that SIGKILL does not end is a FAIL, not a time-out."""
    kill = isolate.kill
    monkeypatch.setattr(isolate, "kill", lambda child: kill(child) and False)
    result = run_isolated(_test(_sleeps, seconds=0.2))
    assert (result.status, "does not die by SIGKILL" in result.reason) == ("FAIL", True)


def test_known_issues_fit_what_their_tests_would_say() -> None:
    """KSM's is recognised by the sentence of the very check that sees it."""
    issues = _named("movement.anon.merged-pages-stay-protected-write").known_issues

    def as_ksm_does(trial: Trial) -> None:
        region, uffd = trial.protected(2)
        release(uffd, region, 0)
        check_pagemap(trial, region, range(region.pages))

    _require_wp()
    if not pagemap_has_bit():
        pytest.skip("This kernel's pagemap does not show protection (5.14).")
    test = _test(as_ksm_does, known_issues=issues, features=int(Feature.PAGEFAULT_FLAG_WP))
    assert run_isolated(test).status == "XFAIL"
