"""Makes check results for what is looked at on live guests, in the validators' own form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from harness.codes import Code, Fields
from harness.errors import SnapproofError
from harness.status import Status
from validators.verdict import CheckResult, Tally, Violation


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, before it is known in which check.

    Attributes:
        code: what is wrong.
        sentence: one full sentence.
        fields: values that tell apart what the code stands for.
    """

    code: Code
    sentence: str
    fields: Fields = field(default_factory=dict)

    @classmethod
    def of_error(cls, error: SnapproofError, sentence: str = "") -> Self:
        """Make a problem of an error, with another sentence where one is given."""
        return cls(error.code, sentence or error.sentence, error.fields)

    @classmethod
    def of_violation(cls, violation: Violation, sentence: str = "") -> Self:
        """Make a problem of another check's violation, with another sentence where one is given."""
        return cls(violation.code, sentence or violation.sentence, violation.fields)


def problems_of(violations: Iterable[Violation]) -> list[Problem]:
    """Return the violations of other checks as problems of one."""
    return [Problem.of_violation(violation) for violation in violations]


def judged(
    name: str,
    explanation: str,
    problems: Sequence[Problem],
    facts: Mapping[str, int | float | str] | None = None,
) -> CheckResult:
    """Return PASS where there is no problem, else FAIL with one violation for each.

    Args:
        name: of the check, the same in every run.
        explanation: one line: what the check demands.
        problems: what is wrong.
        facts: figures it found.
    """
    tally = Tally(name, explanation)
    for problem in problems:
        tally.add(Violation(name, problem.code, problem.sentence, fields=problem.fields))
    tally.facts.update(facts or {})
    return tally.result()


def skipped(name: str, explanation: str, reason: str) -> CheckResult:
    """Return the result of a check that does not apply, with the probed reason."""
    return CheckResult(name, explanation, Status.SKIP, reason=reason)
