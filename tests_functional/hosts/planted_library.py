"""A library that is preloaded into the QEMU on a host, and the page that it counts in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.deadline import Deadline
from harness.hosts.host import Host
from validators.faults.preload.acts import ActsPage

_LIBRARY, _ACTS = "planted.so", "planted.acts"
_CARRY_SECONDS = 60.0


@dataclass(frozen=True)
class PlantedLibrary:
    """What is carried to a host, and brought back from it.

    Attributes:
        library: to be preloaded.
        page: what it counts in, on this machine: it goes on with what is in there.
        variables: the environment that tells the library what to do, given where the page is for it.
    """

    library: Path
    page: ActsPage
    variables: Callable[[str], dict[str, str]]

    def carry(self, host: Host) -> dict[str, str]:
        """Bring it to a host; returns the environment to start QEMU with there."""
        host.put({_LIBRARY: self.library, _ACTS: self.page.path}, Deadline(_CARRY_SECONDS))
        there = host.folder
        return {"LD_PRELOAD": str(there / _LIBRARY), **self.variables(str(there / _ACTS))}

    def bring_acts(self, host: Host) -> None:
        """Bring back what it has counted."""
        host.get(_ACTS, self.page.path, Deadline(_CARRY_SECONDS))
