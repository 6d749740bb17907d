"""Contract: results.ktap is KTAP whatever text a test has, without losing a verdict or a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.status import Status
from snapproof.report.context import Context
from snapproof.report.ktap import ktap_text
from snapproof.report.run_result import OutcomeRecord
from tests_unit.support.ktap_reader import Result, read_ktap
from tests_unit.support.report_results import NASTY, check, everything, hostile, one_of_each, result
from tests_unit.support.scenario_values import outcome


def _text(*outcomes: OutcomeRecord) -> str:
    return ktap_text(result(*outcomes), Context(Path("results")))


def test_every_status() -> None:
    """Failures and errors are 'not ok'; all but plain verdicts have their directive and reason."""
    found = {one.name: (one.ok, one.directive, one.reason) for one in read_ktap(_text(*one_of_each()))}
    assert found == {
        "a.FAIL": (False, "", ""),
        "a.ERROR": (False, "ERROR", "Reason ERROR."),
        "a.MISS": (False, "ERROR", "Reason MISS."),
        "a.XPASS": (True, "", ""),
        "a.XFAIL": (True, "XFAIL", "Reason XFAIL."),
        "a.PASS": (True, "", ""),
        "a.DONE": (True, "", ""),
        "a.SKIP": (True, "SKIP", "Reason SKIP."),
    }


def test_checks_are_nested() -> None:
    """The outer plan counts tests, each nested plan its test's checks, and both number from 1."""
    checks = [check(f"01-live/c{n}") for n in range(3)]
    checks.append(check("01-live/pagemap", "SKIP", reason="It cannot be read."))
    first, second = read_ktap(_text(outcome("a.b", Status.PASS, checks=checks), outcome("c", Status.FAIL)))
    assert [one.name for one in first.below] == [f"01-live/c{n}" for n in range(3)] + ["01-live/pagemap"]
    assert (first.below[3].directive, first.below[3].reason) == ("SKIP", "It cannot be read.")
    assert (first.diagnostics, second.below, second.ok) == (["It is so."], [], False)


def test_all_results_are_read() -> None:
    """A run of several QEMUs with known issues."""
    found = read_ktap(ktap_text(everything(), Context(Path("results"))))
    assert [one.name for one in found] == [one.name for one in everything().outcomes]
    assert [one.ok for one in found[0].below] == [False, True, True, True]


def test_nothing_ran() -> None:
    """A plan of no tests."""
    assert read_ktap(_text()) == []


@pytest.mark.parametrize("status", Status)
def test_cannot_be_forged(status: Status) -> None:
    """Line breaks, '#' and control characters in text add no line, no directive and no escape sequence."""
    text = _text(outcome(f"a # TODO {NASTY}", status, NASTY, checks=[check(NASTY, "SKIP", reason=NASTY)]))
    (found,) = read_ktap(text)
    assert found.directive != "TODO"
    assert len(found.below) == 1
    assert all(letter.isprintable() or letter == "\n" for letter in text)
    text.encode()


def test_hostile_results_are_counted_right() -> None:
    """Each test and each check is one result with its own verdict."""
    found = read_ktap(ktap_text(hostile(), Context(Path("results"))))
    assert [(one.ok, len(one.below)) for one in found] == [
        (one.status not in (Status.FAIL, Status.ERROR, Status.MISS), 8) for one in hostile().outcomes
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1..2", "1..3"),
        ("1..2", "1..1"),
        ("ok 1 a", "ok 2 a"),
        ("ok 1 a", "maybe 1 a"),
        ("KTAP version 1\n", ""),
        ("# It", "It"),
        ("ok 2 c", "ok 2 c # WHATEVER"),
    ],
)
def test_the_reader_is_strict(old: str, new: str) -> None:
    """The reader refuses a document with one error, so the tests above can fail."""
    text = _text(outcome("a", Status.PASS), outcome("c", Status.PASS))
    assert [one.name for one in read_ktap(text)] == ["a", "c"]
    with pytest.raises(AssertionError):
        read_ktap(text.replace(old, new, 1))


def test_result_values() -> None:
    """The reader distinguishes verdicts."""
    assert read_ktap("KTAP version 1\n1..1\nnot ok 1 x # XFAIL known\n") == [
        Result("x", False, "XFAIL", "known")
    ]
