"""Judges the background snapshot that a host took while its kernel moved guest memory between NUMA nodes."""

from __future__ import annotations

from dataclasses import replace

from harness.status import Status
from tests_functional.hosts.examination import BALANCED, Examination, HostPlan
from tests_functional.hosts.snapshots import Report, snapshot_of
from tests_functional.lib.known_issues import known_on_host
from tests_functional.lib.outcome import Outcome
from validators.judge import check_file
from validators.verdict import CheckResult


def judge_balanced(plan: HostPlan, found: Examination, report: Report) -> Outcome | None:
    """Judge the snapshot by its write order; skip the test if the kernel moved no page during the save.

    Returns:
        None if the host was not asked for it, or has refused background snapshots.
    """
    cannot, saved = report.find("cannot", BALANCED), report.find("saved", BALANCED)
    if cannot is not None:
        return Outcome(
            f"hosts.{plan.name}.{BALANCED}",
            Status.SKIP,
            cannot["text"],
            environment=found.environment(),
        )
    snapshot = snapshot_of(report, BALANCED, plan.sink(BALANCED))
    if saved is None or snapshot is None:
        return None
    moved = int(saved["moved"])
    order = check_file(snapshot.path, agent_ran=True).check("write-order")
    checks: list[CheckResult] = []
    status, sentence = (
        Status.PASS,
        f"The snapshot is the guest at T0 while {moved} pages moved between nodes.",
    )
    if order is None or order.status is not Status.PASS:
        first = order.violations[0] if order and order.violations else None
        wrong = first.sentence if first else "no agent page was found"
        status, sentence = Status.FAIL, f"While {moved} pages moved between nodes: {wrong}"
        known = known_on_host(plan.name, f"hosts/{BALANCED}/write-order", first) if first else None
        if known:
            status, sentence = Status.XFAIL, f"{sentence} Known issue {known.id}: {known.title}."
        if order is not None:
            checks = [replace(order, status=status, known_issue=known.id if known else "")]
    elif not moved:
        status, sentence = Status.SKIP, "The kernel moved no page between its nodes meanwhile."
    snapshot.path.unlink()
    return Outcome(
        f"hosts.{plan.name}.{BALANCED}",
        status,
        sentence,
        checks=checks,
        figures={"pages_moved": moved, "wrong_pages": order.total if order else 0},
        environment=found.environment(),
    )
