"""From judged snapshots to a test's outcome: figures, the stun comparison, one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.codes import Code
from harness.status import Status, worst
from tests_functional.lib.checks import Problem, judged
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow, Snapshot
from validators.verdict import CheckResult, Verdict

_STUN = "A background snapshot stuns the guest at least 20 times shorter than stop-and-save does."
_STUN_RATIO = 20.0

Figures = dict[str, float | int | str]


@dataclass(frozen=True)
class Cycle:
    """One snapshot, restored and judged.

    Attributes:
        label: names it within its test, e.g. ``01-live``.
        snapshot: what was taken and its cost.
        verdict: every check on file, source, host and restored guest.
    """

    label: str
    snapshot: Snapshot
    verdict: Verdict


def summary(
    run: Run, cycles: Sequence[Cycle], seconds: float, stun_samples_ms: Sequence[float] = ()
) -> Outcome:
    """The outcome of a test that judged one or more snapshots of a guest.

    Args:
        run: the test's run.
        cycles: in the order they were taken, at least one.
        seconds: wall time of the test.
        stun_samples_ms: stuns of live saves besides the judged ones.
    """
    comparison = _stun_comparison(run, cycles, stun_samples_ms)
    checks = [
        replace(check, name=f"{cycle.label}/{check.name}")
        for cycle in cycles
        for check in cycle.verdict.checks
    ]
    checks += comparison
    status = worst(check.status for check in checks) or Status.ERROR
    figures = {f"{cycle.label}/{name}": value for cycle in cycles for name, value in _figures(cycle).items()}
    for check in comparison:
        figures.update(check.facts)
    return Outcome(
        name=run.name,
        status=status,
        sentence=_sentence(status, cycles, comparison),
        seconds=seconds,
        checks=checks,
        figures=figures,
        environment=run.environment(),
    )


def _figures(cycle: Cycle) -> Figures:
    """What the verdict names for one snapshot, with the unit in each name."""
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
    """Compare live stuns with the control's, where a test has both: the shortest of each."""
    live = [cycle.snapshot.stun_ms for cycle in cycles if cycle.snapshot.flow is Flow.LIVE]
    control = [cycle.snapshot.stun_ms for cycle in cycles if cycle.snapshot.flow is Flow.STOP_AND_SAVE]
    if not live or not control:
        return []
    stun = min([*live, *samples])
    ratio = min(control) / max(stun, 0.001)
    problems = []
    if ratio < _STUN_RATIO:
        sentence = (
            f"At {run.stack.ram_mib} MiB the background snapshot stuns the guest for {stun:.1f} ms "
            f"and stop-and-save for {min(control):.1f} ms, a ratio of {ratio:.1f}."
        )
        problems.append(Problem(Code.STUN_RATIO_TOO_SMALL, sentence))
    facts = {"shortest_live_stun_ms": round(stun, 3), "stun_ratio": round(ratio, 1)}
    return [judged("stun-ratio", _STUN, problems, facts)]


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
    more = f" ({total - 1} more violations)" if total > 1 else ""
    return f"{label}: {first.check}: {first.sentence}{more}"
