"""Makes check results for what is looked at on live guests, in the validators' own form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.status import Status
from validators.verdict import CheckResult, Tally, Violation


def judged(
    name: str,
    explanation: str,
    problems: Sequence[str],
    facts: Mapping[str, int | float | str] | None = None,
) -> CheckResult:
    """PASS where there is no problem, else FAIL with one violation for each.

    Args:
        name: of the check, the same in every run.
        explanation: one line: what the check demands.
        problems: full sentences.
        facts: figures it found.
    """
    tally = Tally(name, explanation)
    for sentence in problems:
        tally.add(Violation(name, sentence))
    tally.facts.update(facts or {})
    return tally.result()


def skipped(name: str, explanation: str, reason: str) -> CheckResult:
    """A check that does not apply, with the probed reason."""
    return CheckResult(name, explanation, Status.SKIP, reason=reason)
