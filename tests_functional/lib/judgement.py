"""From a list of checks to a test's outcome, for tests that are not a row of snapshot cycles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.status import Status, worst
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from validators.verdict import CheckResult


def outcome_of(
    run: Run,
    checks: Sequence[CheckResult],
    seconds: float,
    holds: str,
    figures: Mapping[str, float | int | str] | None = None,
) -> Outcome:
    """The outcome of a test whose checks are these; without any it is an ERROR.

    Args:
        run: the test's run.
        checks: each with a name that is unique within the test and the same in every run.
        seconds: wall time of the test.
        holds: the sentence that is true where all checks pass.
        figures: measured numbers, the unit in each name.
    """
    status = worst(check.status for check in checks) or Status.ERROR
    return Outcome(
        name=run.name,
        status=status,
        sentence=_sentence(status, checks, holds),
        seconds=seconds,
        checks=checks,
        figures=dict(figures or {}),
        environment=run.environment(),
    )


def _sentence(status: Status, checks: Sequence[CheckResult], holds: str) -> str:
    if status is Status.PASS:
        return holds
    for check in checks:
        if check.status is status and check.violations:
            more = sum(other.total for other in checks) - 1
            return f"{check.name}: {check.violations[0].sentence}" + (
                f" ({more} more violations)" if more else ""
            )
    reasons = [f"{check.name}: {check.reason}" for check in checks if check.reason]
    return reasons[0] if reasons else "No check could be made."
