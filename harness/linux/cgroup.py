"""Read the memory limits of our control group and of those above it, versions 1 and 2."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Version 1 has no word for "no limit": the largest number of whole pages in 63 bits.
_UNLIMITED = 1 << 60


@dataclass(frozen=True)
class _Files:
    """What the files of one version are called."""

    limits: tuple[str, ...]
    usage: str
    cache: tuple[str, ...]
    events: str


_VERSION_1 = _Files(
    limits=("memory.limit_in_bytes",),
    usage="memory.usage_in_bytes",
    cache=("total_inactive_file", "total_active_file"),
    events="memory.oom_control",
)
_VERSION_2 = _Files(
    limits=("memory.max", "memory.high"),
    usage="memory.current",
    cache=("inactive_file", "active_file"),
    events="memory.events",
)


@dataclass(frozen=True)
class MemoryLimit:
    """The tightest memory limit of a control group.

    Attributes:
        path: the file that sets it.
        limit_bytes: the limit.
        free_bytes: what is left of it, without page cache, which the kernel gives up first.
    """

    path: Path
    limit_bytes: int
    free_bytes: int


def memory_limits(proc: Path = Path("/proc/self")) -> list[MemoryLimit]:
    """Return the memory limits of our control group and of all above it that we can see."""
    return [
        MemoryLimit(folder / name, limit, max(0, limit - _in_use(folder, files)))
        for folder, files in _groups(proc)
        for name in files.limits
        if (limit := _number(folder / name)) is not None and limit < _UNLIMITED
    ]


def oom_kills(proc: Path = Path("/proc/self")) -> int:
    """Return how many processes the kernel has killed for the memory limits of our control group."""
    return sum(_field(folder / files.events, "oom_kill") for folder, files in list(_groups(proc))[:1])


def _groups(proc: Path) -> Iterator[tuple[Path, _Files]]:
    """Yield the folder of our memory control group and of those above it, the innermost first."""
    for mount, root, files, own in _hierarchies(proc):
        # In a container the mount may show only a part of the hierarchy, which begins at `root`.
        inside = own[len(root) :] if root != "/" and own.startswith(root) else own
        group = mount / inside.strip("/")
        for folder in (group, *group.parents):
            if (folder / files.usage).exists():
                yield folder, files
            if folder == mount:
                break


def _hierarchies(proc: Path) -> Iterator[tuple[Path, str, _Files, str]]:
    """Yield for each mounted hierarchy with memory: where, its root there, its files, our path in it."""
    paths = {}
    for line in _lines(proc / "cgroup"):
        # "4:memory:/path" (version 1) or "0::/path" (version 2).
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path
    for line in _lines(proc / "mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind, options = before.split(), after.split()[0], after.split()[-1].split(",")
        if kind == "cgroup2" and "" in paths:
            yield Path(fields[4]), fields[3], _VERSION_2, paths[""]
        elif kind == "cgroup" and "memory" in options and "memory" in paths:
            yield Path(fields[4]), fields[3], _VERSION_1, paths["memory"]


def _in_use(folder: Path, files: _Files) -> int:
    cache = sum(_field(folder / "memory.stat", name) for name in files.cache)
    return max(0, (_number(folder / files.usage) or 0) - cache)


def _field(path: Path, name: str) -> int:
    """Return a number by its name from a file with one of them on each line, 0 if it is not there."""
    return next((int(line.split()[1]) for line in _lines(path) if line.split()[:1] == [name]), 0)


def _number(path: Path) -> int | None:
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        # The name of a group is any bytes.
        return os.fsdecode(path.read_bytes()).splitlines()
    except OSError:
        return []
