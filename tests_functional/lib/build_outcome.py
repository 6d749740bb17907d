"""Builds a test's outcome from its checks: status, one sentence, figures, environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.codes import Code
from harness.status import Status, worst
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow, Snapshot
from validators.checks import Problem, judged
from validators.verdict import CheckResult, Verdict

_STUN = "The stun of a background snapshot is at most a twentieth of that of stop-and-save."
_STUN_RATIO = 20.0

Figures = dict[str, float | int | str]


@dataclass(frozen=True)
class Cycle:
    """One snapshot, restored and judged.

    Attributes:
        label: names it within its test, e.g. ``01-live``.
        snapshot: the snapshot and its cost.
        verdict: every check of file, source, host and restored guest.
    """

    label: str
    snapshot: Snapshot
    verdict: Verdict


def build_outcome(
    name: str,
    checks: Sequence[CheckResult],
    seconds: float,
    holds: str,
    environment: Mapping[str, Any],
    figures: Mapping[str, float | int | str] | None = None,
) -> Outcome:
    """Build the outcome of these checks; without any it is an ERROR.

    Args:
        name: the test's.
        checks: each with a name that is unique within the test and the same in every run.
        seconds: wall time of the test.
        holds: the sentence that is true where all checks pass.
        environment: what the test ran on.
        figures: measured numbers, the unit in each name.
    """
    status = _worst(checks)
    sentence = holds if status is Status.PASS else _first_problem(status, checks)
    return Outcome(name, status, sentence, seconds, checks, dict(figures or {}), environment)


def outcome_of(
    run: Run,
    checks: Sequence[CheckResult],
    seconds: float,
    holds: str,
    figures: Mapping[str, float | int | str] | None = None,
) -> Outcome:
    """Build the outcome of a run's checks as `build_outcome` does, with the run's name and environment."""
    return build_outcome(run.name, checks, seconds, holds, run.environment(), figures)


def outcome_of_cycles(
    run: Run,
    cycles: Sequence[Cycle],
    seconds: float,
    stun_samples_ms: Sequence[float] = (),
    *,
    compare_stuns: bool = True,
) -> Outcome:
    """Build the outcome of a test that judged one or more snapshots of a guest.

    Args:
        run: the test's run.
        cycles: in the order they were taken, at least one.
        seconds: wall time of the test.
        stun_samples_ms: stuns of live saves besides the judged ones.
        compare_stuns: whether the guest has so much RAM that the stuns of its snapshots can be compared.
    """
    comparison = _stun_comparison(run, cycles, stun_samples_ms) if compare_stuns else []
    checks = [
        replace(check, name=f"{cycle.label}/{check.name}")
        for cycle in cycles
        for check in cycle.verdict.checks
    ]
    checks += comparison
    figures = {f"{cycle.label}/{name}": value for cycle in cycles for name, value in _figures(cycle).items()}
    for check in comparison:
        figures.update(check.facts)
    status = _worst(checks)
    return Outcome(
        run.name, status, _sentence(status, cycles, comparison), seconds, checks, figures, run.environment()
    )


def _worst(checks: Sequence[CheckResult]) -> Status:
    return worst(check.status for check in checks) or Status.ERROR


def _first_problem(status: Status, checks: Sequence[CheckResult]) -> str:
    """Return the first violation of a check with this status, or the first reason of a skipped check."""
    for check in checks:
        if check.status is status and check.violations:
            total = sum(other.total for other in checks)
            return f"{check.name}: {check.violations[0].sentence}{_more(total)}"
    reasons = [f"{check.name}: {check.reason}" for check in checks if check.reason]
    return reasons[0] if reasons else "No check could be made."


def _more(total: int) -> str:
    return f" ({total - 1} more violations)" if total > 1 else ""


def _figures(cycle: Cycle) -> Figures:
    """Return the figures of one snapshot, with the unit in each name."""
    snapshot, facts = cycle.snapshot, cycle.verdict.facts
    figures: Figures = {
        "stun_ms": round(snapshot.stun_ms, 3),
        "downtime_ms": snapshot.figures.downtime_ms,
        "total_ms": snapshot.figures.total_ms,
        "file_bytes": snapshot.size_bytes,
        "largest_write_stall_us": snapshot.largest_stall_us,
        "pages_in_stream": int(facts["data pages"]) + int(facts["zero pages"]),
        "agent_pages_verified_offline": _fact(cycle, "write-order", "pages verified"),
        "agent_pages_verified_in_restored_guest": _fact(cycle, "restored-memory", "pages"),
    }
    if snapshot.golden:
        figures["pages_compared_with_golden"] = _fact(cycle, "golden", "pages compared")
    if snapshot.flow.background:
        figures["pages_written_during_save"] = _fact(cycle, "overlap", "pages_written_during_save")
    if snapshot.started_by_itself:
        figures["guest_started_by_itself"] = 1
    return figures


def _fact(cycle: Cycle, check: str, fact: str) -> float | int | str:
    found = cycle.verdict.check(check)
    return found.facts.get(fact, 0) if found else 0


def _stun_comparison(run: Run, cycles: Sequence[Cycle], samples: Sequence[float]) -> list[CheckResult]:
    """Compare the shortest live stun with the shortest one of the control, if a test has both."""
    found = _shortest_stuns(cycles, samples)
    if found is None:
        return []
    problems = []
    if found.ratio < _STUN_RATIO:
        sentence = (
            f"At {run.stack.ram_mib} MiB the background snapshot stuns the guest for {found.live_ms:.1f} ms "
            f"and stop-and-save for {found.control_ms:.1f} ms, a ratio of {found.ratio:.1f}."
        )
        problems.append(Problem(Code.STUN_RATIO_TOO_SMALL, sentence))
    facts = {"shortest_live_stun_ms": round(found.live_ms, 3), "stun_ratio": round(found.ratio, 1)}
    return [judged("stun-ratio", _STUN, problems, facts)]


@dataclass(frozen=True)
class _Stuns:
    """The shortest live stun and the shortest one of the control, in ms."""

    live_ms: float
    control_ms: float

    @property
    def ratio(self) -> float:
        return self.control_ms / max(self.live_ms, 0.001)


def _shortest_stuns(cycles: Sequence[Cycle], samples: Sequence[float]) -> _Stuns | None:
    live = [cycle.snapshot.stun_ms for cycle in cycles if cycle.snapshot.flow is Flow.LIVE]
    control = [cycle.snapshot.stun_ms for cycle in cycles if cycle.snapshot.flow is Flow.STOP_AND_SAVE]
    return _Stuns(min([*live, *samples]), min(control)) if live and control else None


def stun_too_long(cycles: Sequence[Cycle], samples_ms: Sequence[float]) -> bool:
    """Return whether the comparison of stuns would fail on what was measured so far."""
    found = _shortest_stuns(cycles, samples_ms)
    return found is not None and found.ratio < _STUN_RATIO


def _sentence(status: Status, cycles: Sequence[Cycle], comparison: Sequence[CheckResult]) -> str:
    if status is Status.PASS:
        kinds = len(cycles)
        return (
            f"{'The snapshot is' if kinds == 1 else f'All {kinds} snapshots are'} exactly the guest at T0, "
            "and the guest went on unharmed."
        )
    violations = [(cycle.label, violation) for cycle in cycles for violation in cycle.verdict.violations] + [
        ("all", violation) for check in comparison for violation in check.violations
    ]
    if not violations:
        return "Not every check could be made; see the checks that were skipped."
    label, first = violations[0]
    total = sum(check.total for cycle in cycles for check in cycle.verdict.checks)
    total += sum(check.total for check in comparison)
    return f"{label}: {first.check}: {first.sentence}{_more(total)}"
