"""Contract: a comparison says what got worse and what did not, without noise."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.errors import UsageError
from harness.status import Status
from snapproof.report.compare import KINDS, Comparison, Thresholds, compare, comparison_lines
from snapproof.report.run_result import OutcomeRecord
from tests_unit.support.report_results import ENVIRONMENT, NASTY, hostile, result
from tests_unit.support.scenario_values import outcome

_SAME = outcome("same", Status.PASS)


def _compared(
    old: OutcomeRecord | None, new: OutcomeRecord | None, thresholds: Thresholds | None = None
) -> Comparison:
    """Compare two runs that have the test `same`, and one more each."""
    before, now = (result(*([_SAME, one] if one else [_SAME])) for one in (old, new))
    return compare(before, now, thresholds or Thresholds())


def _kinds(comparison: Comparison) -> list[str]:
    return [kind for kind in KINDS if comparison.changes[kind]]


@pytest.mark.parametrize(
    ("old", "new", "kinds", "code"),
    [
        ("PASS", "FAIL", ["new failures"], 1),
        ("XFAIL", "FAIL", ["new failures"], 1),
        ("SKIP", "FAIL", ["new failures"], 1),
        ("ERROR", "FAIL", ["new failures"], 1),
        ("PASS", "XPASS", [], 0),
        (None, "FAIL", ["new failures", "new tests"], 1),
        ("PASS", "ERROR", ["newly broken"], 2),
        ("FAIL", "MISS", ["newly broken"], 2),
        (None, "MISS", ["newly broken", "new tests"], 2),
        ("FAIL", "PASS", ["fixed"], 0),
        ("ERROR", "DONE", ["fixed"], 0),
        ("FAIL", "XFAIL", ["new known issues"], 0),
        ("PASS", "XFAIL", ["new known issues"], 0),
        ("FAIL", "FAIL", ["still failing"], 0),
        ("ERROR", "MISS", ["still broken"], 0),
        ("PASS", "SKIP", ["newly skipped"], 0),
        ("FAIL", "SKIP", ["newly skipped"], 0),
        ("PASS", None, ["gone"], 0),
        (None, "PASS", ["new tests"], 0),
        ("PASS", "PASS", [], 0),
        ("SKIP", "PASS", ["no longer skipped"], 0),
        ("XFAIL", "PASS", ["known issues gone"], 0),
        ("XFAIL", "XPASS", ["known issues gone"], 0),
        ("FAIL", "XPASS", ["fixed"], 0),
        ("MISS", "XPASS", ["fixed"], 0),
        ("XFAIL", "XFAIL", [], 0),
    ],
)
def test_kinds(old: str | None, new: str | None, kinds: list[str], code: int) -> None:
    """Each pair of statuses is of the right kind, and only tests that got worse change the exit code."""
    before, now = (outcome("t", Status(status)) if status else None for status in (old, new))
    found = _compared(before, now)
    assert _kinds(found) == kinds
    assert found.exit_code == code


def test_new_failure_outweighs_a_broken_test() -> None:
    """A new failure gives exit code 1, although another test broke."""
    old = result(outcome("a", Status.PASS), outcome("b", Status.PASS))
    new = result(outcome("a", Status.ERROR), outcome("b", Status.FAIL))
    assert compare(old, new, Thresholds()).exit_code == 1


def test_nothing_in_common() -> None:
    """Two runs without a common test are an error, not "no difference"."""
    with pytest.raises(UsageError, match="no test in common"):
        compare(result(outcome("a", Status.PASS)), result(outcome("b", Status.PASS)), Thresholds())


@pytest.mark.parametrize(
    ("old", "new", "slower"),
    [(10, 16, True), (10, 14.9, False), (2, 6.9, False), (0, 5, True), (100, 104, False), (16, 10, False)],
)
def test_slower_tests(old: float, new: float, slower: bool) -> None:
    """A test is slower by 1.5 times and 5 seconds; one of these alone is noise."""
    found = _compared(outcome("t", Status.PASS, seconds=old), outcome("t", Status.PASS, seconds=new))
    assert [one.figure for one in found.slower] == (["seconds"] if slower else [])
    assert found.exit_code == 0


@pytest.mark.parametrize(
    ("figure", "old", "new", "slower"),
    [
        ("01-live/stun_ms", 100, 200, True),
        ("01-live/stun_ms", 2, 9, False),
        ("01-live/stall_us", 40_000, 100_000, True),
        ("01-live/stall_us", 4_000, 10_000, False),
        ("boot_s", 1, 2, True),
        ("01-live/file_bytes", 1, 1_000_000_000, False),
        ("01-live/pages_in_stream", 1, 1_000_000, False),
        ("word_ms", "a", "b", False),
    ],
)
def test_slower_figures(figure: str, old: Any, new: Any, slower: bool) -> None:
    """Times in any unit are compared in milliseconds; other figures are not compared."""
    found = _compared(
        outcome("t", Status.PASS, figures={figure: old}), outcome("t", Status.PASS, figures={figure: new})
    )
    assert [(one.figure, one.old, one.new) for one in found.slower] == (
        [(figure, old, new)] if slower else []
    )


def test_thresholds_can_be_set() -> None:
    """The thresholds can be changed, and both must be reached."""
    old, new = outcome("t", Status.PASS, seconds=10), outcome("t", Status.PASS, seconds=12)
    assert _compared(old, new, Thresholds(1.1, 1, 1)).slower
    assert not _compared(old, new, Thresholds(1.3, 1, 1)).slower
    assert not _compared(old, new, Thresholds(1.1, 3, 1)).slower


def test_times_that_cannot_be_compared() -> None:
    """Times of failed tests, and of TCG against KVM, are not compared; a note says the latter."""
    slow = outcome("t", Status.PASS, seconds=100)
    assert not _compared(outcome("t", Status.FAIL), slow).slower
    assert not _compared(outcome("t", Status.PASS), outcome("t", Status.ERROR, seconds=100)).slower
    kvm = outcome("t", Status.PASS, environment={"accelerator": "kvm"})
    tcg = outcome("t", Status.PASS, seconds=100, environment={"accelerator": "tcg"})
    found = _compared(kvm, tcg)
    assert (found.slower, found.notes) == (
        (), ("Times of 1 tests were not compared: their accelerators differ.",),
    )  # fmt: skip


def test_text_and_json() -> None:
    """The text has the environment, each kind with its tests, and counts; the JSON has the same."""
    old = result(
        outcome("a", Status.PASS),
        outcome("b", Status.FAIL, "Was wrong."),
        outcome("c", Status.PASS, figures={"stun_ms": 0}),
    )
    new = result(
        outcome("a", Status.FAIL, "Page 7 is newer."),
        outcome("b", Status.PASS),
        outcome("c", Status.PASS, seconds=20, figures={"stun_ms": 80.5}),
        environment=ENVIRONMENT | {"qemu": "11.1"},
    )
    found = compare(old, new, Thresholds())
    assert list(comparison_lines(found)) == [
        "qemu: 10.0.13 (Debian 1:10.0.13+ds-0) -> 11.1",
        "new failures:",
        "  a (PASS -> FAIL): Page 7 is newer.",
        "fixed:",
        "  b (FAIL -> PASS)",
        "slower:",
        "  c seconds: 1.25 -> 20, 16.0 times",
        "  c stun_ms: 0 -> 80.5",
        "3 tests compared: 1 new failures, 1 fixed, 2 slower",
    ]
    data = json.loads(json.dumps(found.to_json()))
    assert (data["schema"], data["exit_code"], data["compared"]) == (1, 1, 3)
    assert data["new_failures"] == [
        {"test": "a", "old": "PASS", "new": "FAIL", "sentence": "Page 7 is newer."}
    ]
    assert data["slower"][1] == {"test": "c", "figure": "stun_ms", "old": 0, "new": 80.5}
    assert data["environment"] == {"qemu": [ENVIRONMENT["qemu"], "11.1"]}


def test_no_difference() -> None:
    """Two equal runs give one line."""
    assert list(comparison_lines(_compared(None, None))) == ["1 tests compared: no difference"]


def test_hostile_text_makes_no_line() -> None:
    """No line break and no escape sequence of a test reaches the terminal."""
    old = result(
        *[outcome(one.name, Status.PASS, NASTY) for one in hostile().outcomes],
        environment=hostile().environment,
    )
    lines = list(comparison_lines(compare(old, hostile(), Thresholds())))
    assert all(line.isprintable() for line in lines)
    assert sum("PASS -> FAIL" in line for line in lines) == 1
