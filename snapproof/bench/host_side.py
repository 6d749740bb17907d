"""A side of the A/B gate that is a host. A VM is booted anew for each save."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from guest_images.agent.format import FINE_BUCKETS
from harness.deadline import Deadline
from harness.errors import NotApplicable, SetupBroken, SubjectFailed, UsageError
from harness.hosts.host import Host
from snapproof.bench.sides import comparable
from tests_functional.hosts.examination import HostPlan
from tests_functional.hosts.planted_library import PlantedLibrary
from tests_functional.hosts.portable_warm_guest import PortableWarmGuest
from tests_functional.hosts.snapshots import HostPaths, HostSaves, Report, save_on_host, snapshot_of, stun_ms
from tests_functional.lib.measure.figures import buckets_us, quantile
from validators.faults.slow.wrapper import Slowdown
from validators.judge import check_file

_FLOW = "background"
_SAVE_SECONDS, _CARRY_SECONDS = 400.0, 120.0

Opened = Callable[[], tuple[HostPlan, AbstractContextManager[Host]]]
"""Returns the plan for a host and the host, not entered yet; a VM is a new one each time."""


@dataclass(frozen=True)
class HostSave:
    """A background snapshot on a host.

    Attributes:
        kernel: version of the host's kernel.
        architecture: architecture of the host.
        qemu: version of the QEMU there.
        figures: its cost, by the names in METRICS.
    """

    kernel: str
    architecture: str
    qemu: str
    figures: Mapping[str, float | None]


@dataclass(frozen=True)
class HostSide:
    """A host as a side; see sides.Side.

    Attributes:
        name: as the user named it.
        opened: returns the host.
        log: called with a sentence about each step on the host.
        slowdown: the slowdown planted in its QEMU, None for none.
    """

    name: str
    opened: Opened
    log: Callable[[str], None]
    slowdown: Slowdown | None = None

    def figure(self, metric: str, _folder: Path) -> float:
        """Restore and save the guest once; logs and file are in the folder of the host's plan."""
        value = self.save().figures[metric]
        if value is None:
            raise SetupBroken(f"The host '{self.name}' gave no figure for --metric {metric}.")
        return comparable(value, metric)

    def slowed(self, slowdown: Slowdown, _folder: Path) -> HostSide:
        """Return the same host with the library preloaded into its QEMU."""
        return replace(self, slowdown=slowdown)

    def save(self, *, judge: bool = False) -> HostSave:
        """Have the host restore the guest and take a background snapshot of it.

        Args:
            judge: whether to judge the file by all oracles that need no golden image.

        Raises:
            NotApplicable: QEMU or kernel have no background snapshots.
            SetupBroken: the host or the save failed, or the file is wrong, so that its cost means nothing.
        """
        plan, opened = self.opened()
        assert plan.warm is not None, "asked for with a warm guest"
        try:
            with opened as host:
                facts, places = host.facts(), plan.places(host)
                report = self._report(host, plan.warm, places)
                sink = plan.sink(_FLOW)
                if judge and _FLOW not in plan.sinks and report.find("saved", _FLOW):
                    host.get(str(places.sinks[_FLOW]), sink, Deadline(_CARRY_SECONDS))
            figures = self._figures(report, sink, judge)
        finally:
            plan.remove_sinks()
        return HostSave(facts.kernel, facts.architecture, report.version, figures)

    def _report(self, host: Host, warm: PortableWarmGuest, places: HostPaths) -> Report:
        planted, limit = self._planted(), Deadline(_SAVE_SECONDS)
        saves = HostSaves((_FLOW,), environment=planted.carry(host) if planted else {})
        try:
            report = save_on_host(host, warm, places, saves, limit, self.log)
        except SubjectFailed as error:
            raise SetupBroken(
                f"A save failed, so nothing can be compared: {error.sentence}", error.evidence
            ) from error
        if planted:
            planted.bring_acts(host)
        return report

    def _planted(self) -> PlantedLibrary | None:
        slow = self.slowdown
        return PlantedLibrary(slow.library, slow.page, slow.variables) if slow else None

    def _figures(self, report: Report, sink: Path, judge: bool) -> Mapping[str, float | None]:
        if refused := report.find("refused", _FLOW):
            raise NotApplicable(f"On the host '{self.name}' QEMU refuses: {refused['text']}")
        saved = report.find("saved", _FLOW)
        if saved is None:
            raise NotApplicable(f"QEMU {report.version} on the host '{self.name}' has no {_FLOW} snapshots.")
        if judge:
            self._require_right(report, sink)
        return figures_of(report)

    def _require_right(self, report: Report, sink: Path) -> None:
        snapshot = snapshot_of(report, _FLOW, sink)
        assert snapshot is not None, "it was saved"
        try:
            wrong = [violation.sentence for violation in check_file(snapshot.path, agent_ran=True).violations]
        except UsageError as error:
            wrong = [error.sentence]
        if wrong:
            raise SetupBroken(
                f"The snapshot of the host '{self.name}' is wrong, so its cost means nothing: {wrong[0]}"
            )


def figures_of(report: Report) -> Mapping[str, float | None]:
    """Return the cost of a background snapshot by the names in METRICS, None for a figure that is missing.

    Raises:
        SetupBroken: the guest's histogram of page writes cannot be right.
    """
    saved = report.find("saved", _FLOW)
    assert saved is not None, "asked for a report of a save"
    answer, counts = saved["migrate"], saved["stalls"]
    if len(counts) != FINE_BUCKETS or not all(0 <= count < 1 << 63 for count in counts):
        raise SetupBroken("The guest's histogram of its writes cannot be right: a count went down.")

    stalls = buckets_us(np.array(counts, dtype=np.uint64))
    return {
        "total": float(answer["total-time"]),
        "stun": stun_ms(saved["events"]),
        "downtime": float(answer["downtime"]),
        "stall-p99": quantile(stalls, 0.99),
        "size": float(saved["bytes"]),
    }
