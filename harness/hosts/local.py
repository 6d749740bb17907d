"""What a result records about its host, and how it is read on this machine."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from harness.linux.cgroup import memory_limits
from harness.linux.kernel_log import taint


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


def local_facts() -> HostFacts:
    """Read kernel, processors, memory and taint of this machine."""
    uname = platform.uname()
    return HostFacts(
        kernel=f"{uname.release} {uname.version}",
        architecture=uname.machine,
        cpus=len(os.sched_getaffinity(0)),
        memory_mib=_available_memory_mib(),
        tainted=taint(),
    )


def _available_memory_mib() -> int:
    """Return what the host has left, or what our control groups leave, if that is less."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    host = [int(line.split()[1]) // 1024 for line in lines if line.startswith("MemAvailable:")]
    return min(host + [limit.free_bytes >> 20 for limit in memory_limits()], default=0)
