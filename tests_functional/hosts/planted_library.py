"""Copies a fault library to a host, to be preloaded into QEMU, and returns how often it acted."""

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
    """A fault library and its page of counters.

    Attributes:
        library: the library to preload.
        page: the file on this machine with the page of counters; the library continues these counts.
        variables: returns the environment for the library, given the path of the page on the host.
    """

    library: Path
    page: ActsPage
    variables: Callable[[str], dict[str, str]]

    def carry(self, host: Host) -> dict[str, str]:
        """Copy library and page to a host; return the environment to start QEMU with."""
        host.put({_LIBRARY: self.library, _ACTS: self.page.path}, Deadline(_CARRY_SECONDS))
        there = host.folder
        return {"LD_PRELOAD": str(there / _LIBRARY), **self.variables(str(there / _ACTS))}

    def bring_acts(self, host: Host) -> None:
        """Copy the page of counters back from the host."""
        host.get(_ACTS, self.page.path, Deadline(_CARRY_SECONDS))
