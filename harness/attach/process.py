"""Reads what the kernel tells of a QEMU process that somebody else has started."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path

CLONE_MONITOR = "chardev=snapproof-qmp,mode=control"
"""On the command line of a QEMU that snapproof has made like another one."""

_PROC = Path("/proc")
# Linux Documentation/filesystems/proc.rst: Seccomp in /proc/PID/status, 2 for a filter.
_FILTERED = "2"


@dataclass(frozen=True)
class QemuProcess:
    """A QEMU process; what this user may not read is empty.

    Attributes:
        pid: its process id.
        argv: its command line.
        executable: the program, None if it may not be read or is in another mount namespace.
        uid: the user that it runs as, -1 if unknown.
        gid: its group, likewise.
        filtered: whether a seccomp filter is installed, as QEMU's `-sandbox on` does.
        same_files: whether it has our mount namespace, so that paths mean the same for it and for us;
            None where this user may not know.
        readable: whether this user may read its memory.
        start: when it was started, in clock ticks since the machine's boot.
    """

    pid: int
    argv: tuple[str, ...]
    executable: Path | None
    uid: int
    gid: int
    filtered: bool
    same_files: bool | None
    readable: bool
    start: int

    @property
    def sandbox(self) -> str:
        """The value of `-sandbox`, "" without one."""
        return option_value(self.argv, "-sandbox")

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return start_time(self.pid) == self.start


def option_value(argv: tuple[str, ...], option: str) -> str:
    """Return the last value of one of QEMU's options, which may be written with one dash or two."""
    found = [
        value
        for word, value in itertools.pairwise(argv)
        if word.startswith("-") and word.lstrip("-") == option.lstrip("-")
    ]
    return found[-1] if found else ""


def read_process(pid: int, proc: Path = _PROC) -> QemuProcess | None:
    """Return what the kernel tells of a process, None if there is none by that id."""
    folder = proc / str(pid)
    if pid <= 0 or not folder.is_dir():
        return None
    status = dict(_status_lines(folder / "status"))
    theirs = _link(folder / "ns/mnt")
    return QemuProcess(
        pid=pid,
        argv=_argv(folder / "cmdline"),
        executable=_link(folder / "exe"),
        uid=int(status.get("Uid", "-1").split()[0]),
        gid=int(status.get("Gid", "-1").split()[0]),
        filtered=status.get("Seccomp", "").strip() == _FILTERED,
        same_files=theirs == _link(proc / "self/ns/mnt") if theirs else None,
        readable=_is_readable(folder),
        start=start_time(pid, proc),
    )


def start_time(pid: int, proc: Path = _PROC) -> int:
    """Return when a process was started (proc_pid_stat(5), field 22), 0 if it is not there or a zombie."""
    try:
        text = (proc / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return 0
    fields = text.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


def find_by_uuid(uuid: str, proc: Path = _PROC) -> int:
    """Return the process of the QEMU with a UUID on its command line, 0 if there is not exactly one.

    A UUID is the VM's own, also where QEMU is in another PID namespace than ours.
    """
    found = []
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        argv = _argv(entry / "cmdline")
        if option_value(argv, "-uuid") == uuid and CLONE_MONITOR not in argv:
            found.append(int(entry.name))
    return found[0] if len(found) == 1 else 0


def open_files(pid: int, proc: Path = _PROC) -> dict[int, str] | None:
    """Return the names of a process's descriptors by number, None where this user may not see them."""
    found = {}
    try:
        for entry in (proc / str(pid) / "fd").iterdir():
            try:
                found[int(entry.name)] = str(entry.readlink())
            except FileNotFoundError:
                # It has been closed since.
                continue
    except OSError:
        return None
    return found


def _status_lines(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    return [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]


def _argv(path: Path) -> tuple[str, ...]:
    try:
        words = path.read_bytes().split(b"\0")
    except OSError:
        return ()
    return tuple(os.fsdecode(word) for word in words[:-1])


def _link(path: Path) -> Path | None:
    try:
        return path.readlink()
    except OSError:
        return None


def _is_readable(folder: Path) -> bool:
    """Try to read a byte of the process's memory."""
    try:
        first = (folder / "maps").read_text().split("-", 1)[0]
        with (folder / "mem").open("rb", buffering=0) as memory:
            memory.seek(int(first, 16))
            return len(memory.read(1)) == 1
    except (OSError, ValueError):
        return False
