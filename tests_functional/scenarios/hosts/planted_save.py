"""A fault planted into the QEMU on a host: the oracles must see it there as they do here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.hosts.host import Host
from harness.status import Status
from tests_functional.scenarios.hosts.plan import FAULT, PLANTED, Examination, Plan
from tests_functional.scenarios.hosts.planted_library import PlantedLibrary
from tests_functional.scenarios.hosts.snapshots import Places, Report, save_on_host, snapshot_of
from tests_functional.scenarios.outcome import Outcome
from validators.judge import check_file
from validators.live_faults.wrapper import ACTS_VARIABLE

_ACTS = "fault.acts"
_PAGE_BYTES = 4096
_SAVES_SECONDS = 400.0


def save_planted(
    plan: Plan, host: Host, report: Report, places: Places, log: Callable[[str], None]
) -> Report | None:
    """A background snapshot with the fault, where there is one without it."""
    if plan.fault is None or plan.seed is None or not report.find("saved", "background"):
        return None
    log(f"{plan.name}: the same with the planted fault '{FAULT}'.")
    (plan.folder / _ACTS).write_bytes(bytes(_PAGE_BYTES))
    fault = PlantedLibrary(plan.fault, plan.folder / _ACTS, lambda report: {ACTS_VARIABLE: report})
    sinks = {"background": places.sinks[PLANTED]}
    planted = save_on_host(
        host,
        plan.seed,
        replace(places, sinks=sinks),
        ("background",),
        Deadline(_SAVES_SECONDS),
        log,
        environment=fault.carry(host),
    )
    fault.bring_report(host)
    if PLANTED not in plan.sinks:
        host.get(str(sinks["background"]), plan.sink(PLANTED), Deadline(_SAVES_SECONDS))
    return planted


def judge_planted_save(plan: Plan, found: Examination, report: Report) -> Outcome:
    """The fault must have acted, and the write order must name pages that are newer than T0."""
    acts = int.from_bytes((plan.folder / _ACTS).read_bytes()[:8], "little")
    if not acts:
        raise SetupBroken(f"The planted fault '{FAULT}' never acted on the host '{plan.name}'.")
    snapshot = snapshot_of(report, "background", plan.sink(PLANTED))
    assert snapshot is not None, "QEMU accepted the capability a minute ago"
    order = check_file(snapshot.path).check("write-order")
    seen = [v.sentence for v in order.violations if "newer" in v.sentence] if order else []
    snapshot.path.unlink()
    caught = f"The planted fault '{FAULT}' was caught: {seen[0]}" if seen else ""
    return Outcome(
        f"hosts.{plan.name}.{PLANTED}",
        Status.PASS if caught else Status.FAIL,
        caught or f"The planted fault '{FAULT}' acted {acts} times and went unseen.",
        figures={"acts": acts},
        environment=found.environment(),
    )
