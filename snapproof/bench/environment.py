"""Records the state of the host for a benchmark's results: its disk, its memory and its load."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from harness.errors import SetupBroken
from harness.hosts.local import local_facts
from tests_functional.lib.run import free_mib

_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_MERGING = Path("/sys/kernel/mm/ksm/run")


def measured_environment(folder: Path) -> dict[str, Any]:
    """Return the state of the host before a measurement.

    Args:
        folder: where the files will be written.
    """
    return {
        "host_load": [round(load, 2) for load in os.getloadavg()],
        "host_memory_mib": local_facts().memory_mib,
        "results_disk": disk_of(folder, Path("/proc/self/mountinfo").read_text(encoding="utf-8")),
        "results_disk_free_mib": free_mib(folder),
        "transparent_hugepage": _read(_HUGE_PAGES),
        "ksm_run": _read(_MERGING),
    }


def disk_of(folder: Path, mounts: str) -> str:
    """Return file system and device of a folder, e.g. ``ext4 on /dev/vda``.

    Args:
        folder: the folder.
        mounts: text of /proc/self/mountinfo.
    """
    best, found = -1, "unknown"
    for line in mounts.splitlines():
        # Linux Documentation/filesystems/proc.rst: fields behind " - " are type, source and options.
        head, _, tail = line.partition(" - ")
        fields, kind = head.split(), tail.split()
        if len(fields) < 5 or len(kind) < 2:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4]))
        if folder.absolute().is_relative_to(point) and len(point.parts) >= best:
            best, found = len(point.parts), f"{kind[0]} on {kind[1]}"
    return found


def require_room(folder: Path, needed_mib: int) -> None:
    """Check that the disk of a folder has room.

    Raises:
        SetupBroken: it has less than that.
    """
    if (free := free_mib(folder)) < needed_mib:
        raise SetupBroken(
            f"The disk that holds '{folder}' has {free} MiB free and the benchmark needs {needed_mib} MiB; "
            "name a folder on another disk with --results, or fewer or smaller guests with --ram."
        )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return "unknown"
