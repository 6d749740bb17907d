"""What is to be done on a host, and what was found there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.hosts.host import Host
from harness.hosts.local import HostFacts
from harness.status import Status, worst
from tests_functional.hosts.feature_tests import HostFeatures
from tests_functional.hosts.snapshots import HostPaths
from tests_functional.hosts.warm_guest import PortableWarmGuest
from tests_functional.lib.outcome import Outcome

FLOWS = ("background", "stopped")
PLANTED = "planted"
"""Stands beside the flows for the background snapshot by a QEMU with a fault planted."""

BALANCED = "balanced"
"""Stands for the background snapshot while the kernel moves guest memory between NUMA nodes."""

FAULT = "report_success"
"""Of validators.faults.live: nothing is protected though QEMU is told so."""


@dataclass(frozen=True)
class HostPlan:
    """What to do on a host.

    Attributes:
        name: of the host, in results.
        expected: mask of features that it should offer, None where nobody knows.
        warm: the guest to save there, None for no snapshots.
        places: where the host has what that takes, once it is there.
        sinks: files on this machine in which snapshots come out; those of a VM, which are its disks. Empty
            where they have to be brought.
        tests: arguments for the feature tests, None to leave them out.
        helper: library for the feature tests.
        fault: library of the planted FAULT, None where none can be had.
        own: whether the host is ours alone, so that its settings may be changed.
        folder: for logs.
    """

    name: str
    expected: int | None
    warm: PortableWarmGuest | None
    places: Callable[[Host], HostPaths]
    sinks: Mapping[str, Path]
    tests: Sequence[str] | None
    helper: Path | None
    fault: Path | None
    own: bool
    folder: Path

    def sink(self, flow: str) -> Path:
        """The file on this machine that a flow's snapshot is in."""
        return self.sinks.get(flow) or self.folder / f"vmstate-{flow}"

    def remove_sinks(self) -> None:
        """Remove the snapshots, and a VM's disks for them; not while the VM runs."""
        for path in {*self.sinks.values(), *map(self.sink, (*FLOWS, PLANTED, BALANCED))}:
            path.unlink(missing_ok=True)


@dataclass
class Examination:
    """What was found on a host, as far as it came."""

    name: str
    facts: HostFacts | None = None
    features: HostFeatures | None = None
    deviation: str = ""
    qemu: str = ""
    tests: Counter[str] = field(default_factory=Counter)
    refusal: str = ""
    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0
    folder: str = ""

    @property
    def status(self) -> Status:
        """The worst of all outcomes."""
        return worst(outcome.status for outcome in self.outcomes) or Status.ERROR

    def environment(self) -> dict[str, str]:
        """What each result says about the host."""
        facts = self.facts
        return {
            "host": self.name,
            "host_kernel": facts.kernel if facts else "",
            "host_architecture": facts.architecture if facts else "",
            "qemu": self.qemu,
        }
