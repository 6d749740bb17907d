"""Capture the host's state around a snapshot: kernel log, taint, QEMU's files and processes."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from harness.hosts.local import local_facts
from harness.process import session_members
from harness.qemu.machine import Machine, known_pid

# What the kernel prints at the head of a splat (lib/bug.c, kernel/panic.c, kernel/watchdog.c,
# kernel/hung_task.c).
_SPLAT = re.compile(
    r"(WARNING: |BUG: |kernel BUG at|Oops: |soft lockup|blocked for more than \d+ seconds|"
    r"general protection fault)"
)
_KMSG_LIMIT = 8 << 20
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
        splats: warning lines in the kernel's log with their sequence numbers, None where unreadable.
        descriptors: what QEMU has open, by number and name, other than sockets: those of its user
            network come and go with our own SSH connections.
        processes: what else runs in QEMU's session.
    """

    tainted: int | None
    splats: tuple[str, ...] | None
    descriptors: tuple[tuple[int, str], ...]
    processes: tuple[Started, ...]


def capture_host_state(machine: Machine) -> HostState:
    """Record the host's state, QEMU's open files and the processes it has started."""
    pid = known_pid(machine)
    files = open_files(pid)
    return HostState(local_facts().tainted, kernel_splats(), files, _children(pid, files))


def _children(pid: int, files: tuple[tuple[int, str], ...]) -> tuple[Started, ...]:
    """Return the other processes in QEMU's session."""
    pipes = {target for _, target in files if target.startswith("pipe:")}
    children = []
    for member in session_members(pid):
        try:
            name = Path(f"/proc/{member}/comm").read_text(errors="replace").strip()
            reads = str(Path(f"/proc/{member}/fd/0").readlink()) in pipes
        except OSError:
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


def kernel_splats() -> tuple[str, ...] | None:
    """Return warnings and worse in the kernel's log, oldest first, or None where we may not read it."""
    try:
        descriptor = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    lines: list[str] = []
    taken = 0
    try:
        while taken < _KMSG_LIMIT:
            try:
                record = os.read(descriptor, 8192)
            except BlockingIOError:
                break
            except BrokenPipeError:
                # The record was overwritten while we read; the next read goes on behind it.
                continue
            taken += len(record)
            # "priority,sequence,microseconds,flags;text": the sequence tells equal texts apart.
            header, _, body = record.decode(errors="replace").partition(";")
            text = body.partition("\n")[0]
            if _SPLAT.search(text):
                lines.append(f"#{header.split(',')[1]} {text}")
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return tuple(lines)
