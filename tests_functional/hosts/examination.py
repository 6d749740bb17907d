"""Holds the plan for a host (what to run there) and the examination (what was found)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.hosts.host import Host
from harness.hosts.local import HostFacts
from harness.status import Status, worst
from tests_functional.hosts.feature_tests import HostFeatures
from tests_functional.hosts.portable_warm_guest import PortableWarmGuest
from tests_functional.hosts.snapshots import HostPaths
from tests_functional.lib.outcome import Outcome

FLOWS = ("background", "stopped")
PLANTED = "planted"
"""Name, beside the flows, of the background snapshot by a QEMU with a planted fault."""

BALANCED = "balanced"
"""Name, beside the flows, of the background snapshot while memory moves between NUMA nodes."""

SPLIT, OFFLINE, POISONED = "split", "soft-offline", "poisoned"
DISTURBED = (SPLIT, OFFLINE, POISONED)
"""Names, beside the flows, of the background snapshots while the host's kernel acts on guest RAM, in order;
QEMU does not survive the last one."""

FAULT = "report_success"
"""The planted fault (validators.faults.live): QEMU is told that RAM is protected, and it is not."""


def golden_of(flow: str) -> str:
    """Return the name of the sink for RAM at T0 of a disturbed flow."""
    return f"{flow}-t0"


SINKS = (*FLOWS, PLANTED, BALANCED, *DISTURBED, *map(golden_of, DISTURBED))
"""Names of all that a host writes for this machine."""


@dataclass(frozen=True)
class HostPlan:
    """The tests to run on one host.

    Attributes:
        name: the host's name in results.
        expected: the mask of features that the host should offer, None if unknown.
        warm: the guest to save there, None for no snapshots.
        sparse: a guest with pages of zeros, for the DISTURBED snapshots, None for none.
        places: returns the paths of QEMU, guest and sinks on the host.
        sinks: for a VM host, the files on this machine that are its disks and receive the snapshots. Empty
            if the snapshots have to be copied from the host.
        tests: arguments for the feature tests, None to leave them out.
        helper: library for the feature tests, None for none.
        fault: library of the planted FAULT, None if it cannot be built.
        own: whether the host is ours alone, so that its settings may be changed.
        folder: folder on this machine for logs and snapshots.
        compiled: the feature tests as its Python compiles them (see `carry_tests`).
    """

    name: str
    expected: int | None
    warm: PortableWarmGuest | None
    sparse: PortableWarmGuest | None
    places: Callable[[Host], HostPaths]
    sinks: Mapping[str, Path]
    tests: Sequence[str] | None
    helper: Path | None
    fault: Path | None
    own: bool
    folder: Path
    compiled: Mapping[str, Path] = field(default_factory=dict)

    def sink(self, flow: str) -> Path:
        """Return the file on this machine that receives a flow's snapshot."""
        return self.sinks.get(flow) or self.folder / f"vmstate-{flow}"

    def golden(self, flow: str) -> Path:
        """Return the file on this machine that receives RAM at T0 of a disturbed flow."""
        return self.sink(golden_of(flow))

    def remove_sinks(self) -> None:
        """Remove the snapshots and a VM's disks for them; the VM must have ended."""
        for path in {*self.sinks.values(), *map(self.sink, SINKS)}:
            path.unlink(missing_ok=True)


@dataclass
class Examination:
    """The findings on one host, up to the step that failed.

    Attributes:
        seconds: how long it took.
        processor_seconds: what its processes used of processors here; 0 if none were its own.
        costs: of `processor_seconds`, what the host's VM used in each step; nothing for other hosts.
    """

    name: str
    facts: HostFacts | None = None
    features: HostFeatures | None = None
    deviation: str = ""
    qemu: str = ""
    tests: Counter[str] = field(default_factory=Counter)
    refusal: str = ""
    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0
    processor_seconds: float = 0.0
    folder: str = ""
    costs: dict[str, float] = field(default_factory=dict)

    @property
    def status(self) -> Status:
        """The worst status of all outcomes."""
        return worst(outcome.status for outcome in self.outcomes) or Status.ERROR

    def count(self, step: str, processor_seconds: float) -> None:
        """Note the end of a step, by the processor time that the host's VM has used since its start."""
        spent = processor_seconds - sum(self.costs.values())
        if processor_seconds:
            self.costs[step] = self.costs.get(step, 0.0) + spent

    def environment(self) -> dict[str, str]:
        """Return the environment of each result of this host."""
        facts = self.facts
        return {
            "host": self.name,
            "host_kernel": facts.kernel if facts else "",
            "host_architecture": facts.architecture if facts else "",
            "qemu": self.qemu,
        }
