"""Contract: a check on a live guest fails for each of its problems, and keeps their codes and fields."""

from __future__ import annotations

from harness.codes import Code
from harness.errors import SubjectFailed
from harness.status import Status
from validators.checks import Problem, judged, problems_of, skipped
from validators.verdict import CheckResult, Violation

_CODE = Code.SOURCE_SILENT
_ERROR = SubjectFailed("QEMU ended.", code=_CODE, fields={"signal": 9})
_VIOLATION = Violation("golden", _CODE, "It differs.", "a", fields={"age": "newer"})


def test_problem_of_an_error_keeps_its_code_and_fields() -> None:
    """A known issue recognises it by them; the sentence may be another one."""
    assert Problem.of_error(_ERROR) == Problem(_CODE, "QEMU ended.", {"signal": 9})
    assert Problem.of_error(_ERROR, "It is gone.") == Problem(_CODE, "It is gone.", {"signal": 9})


def test_problem_of_a_violation_keeps_its_code_and_fields() -> None:
    """So one check can report what another has found."""
    same = Problem(_CODE, "It differs.", {"age": "newer"})
    assert Problem.of_violation(_VIOLATION) == same
    assert Problem.of_violation(_VIOLATION, "So it is.") == Problem(_CODE, "So it is.", {"age": "newer"})
    assert problems_of([_VIOLATION, _VIOLATION]) == [same, same]


def test_check_with_problems_fails_with_each_of_them() -> None:
    """Violations are of this check, in order, with code and fields; facts are kept."""
    problems = [Problem(_CODE, "One.", {"signal": 9}), Problem(Code.SOURCE_SLOWER, "Two.")]
    assert judged("source-guest", "It demands.", problems, {"pages": 3}) == CheckResult(
        "source-guest",
        "It demands.",
        Status.FAIL,
        (
            Violation("source-guest", _CODE, "One.", fields={"signal": 9}),
            Violation("source-guest", Code.SOURCE_SLOWER, "Two."),
        ),
        2,
        {"pages": 3},
    )


def test_check_without_problems_passes() -> None:
    """With its facts, or without any."""
    assert judged("a", "It demands.", [], {"pages": 3}) == CheckResult(
        "a", "It demands.", Status.PASS, facts={"pages": 3}
    )
    assert judged("a", "It demands.", []).facts == {}


def test_check_that_does_not_apply() -> None:
    """It is skipped with its reason."""
    assert skipped("a", "It demands.", "No pagemap.") == CheckResult(
        "a", "It demands.", Status.SKIP, reason="No pagemap."
    )
