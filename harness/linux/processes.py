"""Finds the processes that another one has started, and the names of a process's threads."""

from __future__ import annotations

from pathlib import Path

_PROC = Path("/proc")


def children(pid: int, proc: Path = _PROC) -> list[int]:
    """Return the processes that the threads of a process have started and that are there, also as zombies.

    Source: `children` of a task, in Linux Documentation/filesystems/proc.rst.
    """
    found: list[int] = []
    for path in proc.glob(f"{pid}/task/*/children"):
        try:
            found += map(int, path.read_text().split())
        except OSError:
            # The thread has ended.
            continue
    return found


def family(pid: int, proc: Path = _PROC) -> list[int]:
    """Return a process and all that descend from it, as far as the kernel tells."""
    found = [pid]
    for process in found:
        found += children(process, proc)
    return found


def thread_names(pid: int, proc: Path = _PROC) -> dict[int, str]:
    """Return the names of a process's threads by their numbers."""
    names = {}
    for path in proc.glob(f"{pid}/task/*/comm"):
        try:
            names[int(path.parent.name)] = path.read_text(errors="replace").strip()
        except OSError:
            # The thread has ended.
            continue
    return names
