"""Takes a background snapshot on a host with a fault planted in QEMU; the oracles must detect the fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.hosts.host import Host
from harness.status import Status
from tests_functional.hosts.examination import FAULT, PLANTED, Examination, HostPlan
from tests_functional.hosts.planted_library import PlantedLibrary
from tests_functional.hosts.snapshots import HostPaths, HostSaves, Report, save_on_host, snapshot_of
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.time_limits import HOST_SAVES_SECONDS
from tests_functional.planted.live_faults import LIVE_FAULTS
from validators.faults.preload.acts import ActsPage
from validators.judge import check_file

STEPS = 100
"""Steps of each writer after T0 for which the save waits with nearly all of RAM unsaved.

On a slow host a save can be over before a page that it has not saved yet is written. Its file is right, and
the fault is invisible.
"""

_ACTS = "fault.acts"


def save_planted(
    plan: HostPlan, host: Host, report: Report, places: HostPaths, log: Callable[[str], None]
) -> Report | None:
    """Take a background snapshot with the fault, if the host took one without it."""
    if plan.fault is None or plan.warm is None or not report.find("saved", "background"):
        return None
    log(f"{plan.name}: saving in the background with the planted fault '{FAULT}'.")
    page = ActsPage.blank(plan.folder / _ACTS)
    fault = PlantedLibrary(plan.fault, page, page.environment)
    sinks = {"background": places.sinks[PLANTED]}
    planted = save_on_host(
        host,
        plan.warm,
        replace(places, sinks=sinks),
        HostSaves(("background",), environment=fault.carry(host), steps=STEPS),
        Deadline(HOST_SAVES_SECONDS),
        log,
    )
    fault.bring_acts(host)
    if PLANTED not in plan.sinks:
        host.get(str(sinks["background"]), plan.sink(PLANTED), Deadline(HOST_SAVES_SECONDS))
    return planted


def judge_planted_save(plan: HostPlan, found: Examination, report: Report) -> Outcome:
    """Check that the fault acted and that the write order names pages newer than T0.

    Raises:
        SetupBroken: the fault never acted, or the guest did not write meanwhile, so the save proves nothing.
    """
    acts = ActsPage(plan.folder / _ACTS).acts
    if not acts:
        raise SetupBroken(f"The planted fault '{FAULT}' never acted on the host '{plan.name}'.")
    snapshot = snapshot_of(report, "background", plan.sink(PLANTED))
    saved = report.find("saved", "background") or {}
    assert snapshot is not None, "QEMU accepted the capability a minute ago"
    order = check_file(snapshot.path, agent_ran=True).check("write-order")
    violations = order.violations if order else ()
    seen = [violation.sentence for violation in violations if LIVE_FAULTS[FAULT].causes(violation)]
    meanwhile = int(saved["steps_meanwhile"])
    if not seen and meanwhile < STEPS:
        raise SetupBroken(
            f"A writer of the guest completed only {meanwhile} steps during the save on the host "
            f"'{plan.name}', and {STEPS} are needed to see the planted fault '{FAULT}'. Run it with less "
            "beside it.",
            code=Code.SETUP_LIMIT,
        )
    if seen:
        snapshot.path.unlink()
    caught = f"The planted fault '{FAULT}' was caught: {seen[0]}" if seen else ""
    return Outcome(
        f"hosts.{plan.name}.{PLANTED}",
        Status.PASS if caught else Status.FAIL,
        caught
        or f"The planted fault '{FAULT}' acted {acts} times and went unseen, although each writer completed "
        f"{meanwhile} steps while RAM was saved. The file is '{snapshot.path}'.",
        figures={"acts": acts, "steps_meanwhile": meanwhile},
        environment=found.environment(),
    )
