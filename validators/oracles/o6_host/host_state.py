"""Capture the host's state around a snapshot: kernel log, taint, QEMU's files and processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.linux.kernel_log import Ours, Splat, ours, read_splats, taint
from harness.process import session_members
from harness.qemu.machine import Machine, known_pid

# QEMU's programs are named so, as are its threads unless they have names of their own.
_QEMU = "qemu"
# QEMU opens the device once and keeps it for its lifetime (util/userfaultfd.c, since 8.0); it is the
# door to userfaultfds, not one of them.
_KEPT_OPEN = "/dev/userfaultfd"


@dataclass(frozen=True, order=True)
class Started:
    """A process that a QEMU has started.

    Attributes:
        pid: its process id.
        program: its name as the kernel has it, e.g. ``cat``.
        reads_from_qemu: whether its input is a pipe that QEMU has open, so that it cannot end by itself.
    """

    pid: int
    program: str
    reads_from_qemu: bool = False

    @property
    def words(self) -> str:
        """Its name in a sentence."""
        return f"{self.program}, which reads from QEMU" if self.reads_from_qemu else self.program


@dataclass(frozen=True)
class HostState:
    """The part of the host's state that a snapshot must leave as it was.

    Attributes:
        tainted: the kernel's taint mask, None where unreadable.
        splats: warnings in the kernel's log, whosever they are, None where unreadable.
        descriptors: what QEMU has open, by number and name, other than sockets: those of its user
            network come and go with our own SSH connections.
        processes: what else runs in QEMU's session.
        ours: the threads whose splats count: QEMU's, those of what it started, and our own process's.
    """

    tainted: int | None
    splats: tuple[Splat, ...] | None
    descriptors: tuple[tuple[int, str], ...]
    processes: tuple[Started, ...]
    ours: Ours


def capture_host_state(machine: Machine) -> HostState:
    """Record the host's state, QEMU's open files and the processes it has started."""
    pid = known_pid(machine)
    files = open_files(pid)
    members = session_members(pid)
    mine = ours([os.getpid(), *members], _names_of_qemu(members))
    return HostState(taint(), read_splats(mine), files, _children(pid, members, files), mine)


def _names_of_qemu(members: Iterable[int]) -> set[str]:
    """Return the names of a session's processes, without the wrapper around a QEMU and what it started."""
    names = set()
    for member in members:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            names.add(Path(f"/proc/{member}/comm").read_text(errors="replace").strip())
    return {name for name in names if name.startswith(_QEMU)}


def _children(pid: int, members: Iterable[int], files: tuple[tuple[int, str], ...]) -> tuple[Started, ...]:
    """Return the processes of QEMU's session beside QEMU itself."""
    pipes = {target for _, target in files if target.startswith("pipe:")}
    children = []
    for member in members:
        try:
            name = Path(f"/proc/{member}/comm").read_text(errors="replace").strip()
            reads = str(Path(f"/proc/{member}/fd/0").readlink()) in pipes
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            # It has ended meanwhile.
            continue
        if member != pid:
            children.append(Started(member, name, reads))
    return tuple(sorted(children))


def open_files(pid: int) -> tuple[tuple[int, str], ...]:
    """Return the files that a process has open, by number and name, e.g. ``(9, "anon_inode:[userfaultfd]")``.

    Sockets and what it may keep are left out.
    """
    names = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:
            continue
        if not target.startswith("socket:") and target != _KEPT_OPEN:
            names.append((int(link.name), target))
    return tuple(sorted(names))
