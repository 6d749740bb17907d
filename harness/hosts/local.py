"""This machine as a host: starts programs and reads kernel, processors, memory and taint."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.process import ChildProcess


@dataclass(frozen=True)
class HostFacts:
    """What a result records about its host.

    Attributes:
        kernel: release and build of the host kernel.
        architecture: machine name, as printed by `uname -m`.
        cpus: number of processors that we may use.
        memory_mib: available memory in MiB at that time.
        tainted: the kernel's taint mask, None if it cannot be read.
    """

    kernel: str
    architecture: str
    cpus: int
    memory_mib: int
    tainted: int | None


class LocalHost:
    """This machine."""

    name = "local"

    def facts(self) -> HostFacts:
        """Read kernel, processors, memory and taint."""
        uname = platform.uname()
        return HostFacts(
            kernel=f"{uname.release} {uname.version}",
            architecture=uname.machine,
            cpus=len(os.sched_getaffinity(0)),
            memory_mib=_available_memory_mib(),
            tainted=_taint(),
        )

    def start(
        self,
        argv: Sequence[str],
        log: Path,
        pass_fds: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
    ) -> ChildProcess:
        """Start a program whose output is appended to `log`; raises the errors of `ChildProcess`."""
        return ChildProcess(argv, log, pass_fds, environment)


def _available_memory_mib() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return 0


def _taint() -> int | None:
    try:
        return int(Path("/proc/sys/kernel/tainted").read_text())
    except (OSError, ValueError):
        return None
