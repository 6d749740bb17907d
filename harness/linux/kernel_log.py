"""Read splats (warnings and worse) from the kernel's log, and tell whose they are. Python 3.9 alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

# First line of a splat (lib/bug.c, kernel/panic.c, kernel/watchdog.c, kernel/hung_task.c, mm/kasan,
# lib/ubsan.c, kernel/rcu; arch/x86/kernel/traps.c for programs).
_HEAD = re.compile(
    r"WARNING: |BUG: |kernel BUG at|Oops|UBSAN: |KASAN: |soft lockup|rcu: INFO: |general protection fault|"
    r"blocked for more than \d+ seconds|Bad rss-counter|Bad page state"
)
# A splat names the task that it happened in, in its first line or in its trace.
_TASK = (
    re.compile(r"PID: (?P<pid>\d+) Comm: (?P<program>.{1,15}?) (?:Kdump: loaded )?(?:Not tainted|Tainted)"),
    re.compile(r"WARNING: CPU: \d+ PID: (?P<pid>\d+) at "),
    re.compile(r"CPU#\d+: (?P<program>.{1,15})/(?P<pid>\d+)\b"),
    re.compile(r"stuck for \d+s! \[(?P<program>.{1,15}):(?P<pid>\d+)\]"),
    re.compile(r"task (?P<program>.{1,15}):(?P<pid>\d+) blocked for"),
    re.compile(r"by task (?P<program>.{1,15})/(?P<pid>\d+)"),
    re.compile(r"traps: (?P<program>.{1,15})\[(?P<pid>\d+)\]"),
    re.compile(r"scheduling while atomic: (?P<program>.{1,15})/(?P<pid>\d+)/"),
    re.compile(r"\bpid: (?P<pid>\d+), name: (?P<program>.{1,15})"),
    re.compile(r"Comm:(?P<program>.{1,15}) Pid:(?P<pid>\d+)"),
)
_CRASH = "traps: "
_END = re.compile(r"\[ cut here \]|\[ end trace ")
_TRACE_RECORDS = 200
_RECORD_BYTES = 8192
_LIMIT_BYTES = 32 << 20

ABOUT_OTHERS, TAINT_CHANGED = "kernel messages about others", "taint changed, not told by whom"
NOTES = (ABOUT_OTHERS, TAINT_CHANGED)
"""Names of the facts of a check that are no fault of its subject; a report prints them as notes."""

_TAINTING = 1 << 5 | 1 << 7 | 1 << 9 | 1 << 14
"""Taint bits that a splat sets: bad page, died, warned, soft lockup (admin-guide/tainted-kernels.rst)."""

_TAINT_FILE = "/proc/sys/kernel/tainted"

# include/linux/proc_ns.h, PROC_PID_INIT_INO: elsewhere our process ids are not those in the log.
_FIRST_PID_NAMESPACE = "pid:[4026531836]"


@dataclass(frozen=True)
class Splat:
    """A warning, or worse, in the kernel's log.

    Attributes:
        number: sequence number of its first line, which tells equal ones apart.
        text: its first line.
        pid: id of the thread that it happened in, None if it does not say.
        program: name of that thread, "" if it does not say.
        elsewhere: whether that thread is known to live and not to be ours.
    """

    number: int
    text: str
    pid: int | None = None
    program: str = ""
    elsewhere: bool = False

    @property
    def words(self) -> str:
        """The splat in a sentence, with the task that it happened in."""
        task = f" ({self.program or 'process'} {self.pid})" if self.pid is not None else ""
        return f"#{self.number} {self.text}{task}"


@dataclass(frozen=True)
class Ours:
    """The processes that a splat must name to count.

    Attributes:
        pids: ids of their threads as the kernel's log has them; empty in a container, where those differ.
        programs: names of programs that are ours unless the thread is known to be another's: a thread may
            have ended before it could be listed.
    """

    pids: frozenset[int]
    programs: frozenset[str]

    def __or__(self, other: Ours) -> Ours:
        return Ours(self.pids | other.pids, self.programs | other.programs)

    def did(self, splat: Splat) -> bool:
        """Return whether a splat is told to have happened in one of these."""
        if splat.pid in self.pids:
            return True
        if splat.text.startswith(_CRASH):
            # Each QEMU has such a name, and a crash is a fault of the program, not of the kernel.
            return False
        return splat.program in self.programs and not splat.elsewhere


def ours(pids: Iterable[int], programs: Iterable[str]) -> Ours:
    """Return what is ours: all threads of these processes, and threads of these names."""
    comparable = _pids_are_the_kernels()
    threads = {tid for pid in pids for tid in _threads(pid)} if comparable else set()
    return Ours(frozenset(threads), frozenset(programs))


class LogFollower:
    """Reads each record of the kernel's log once: all of them at first, then those that are new.

    A log has thousands of records, and reading them all for each of a thousand tests takes most of the time.
    """

    def __init__(self) -> None:
        self._descriptor = _open_log()

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def records(self) -> list[tuple[int, str]] | None:
        """Return sequence number and first line of each record not returned yet, None if unreadable."""
        return None if self._descriptor < 0 else _read_records(self._descriptor)


def read_splats(mine: Ours, follower: LogFollower | None = None) -> tuple[Splat, ...] | None:
    """Return the splats in the kernel's log, oldest first, or None where we may not read it.

    Args:
        mine: what is ours; other threads with its names are looked for among those that live.
        follower: returns the records to look at; all of the log by default.
    """
    records = follower.records() if follower else _records()
    if records is None:
        return None
    return tuple(
        replace(splat, elsewhere=splat.program in mine.programs and _lives_elsewhere(splat.pid, mine))
        for splat in splats_in(records)
    )


def splats_in(records: Iterable[tuple[int, str]]) -> Iterator[Splat]:
    """Yield the splats in numbered lines of a log, each with the task that its lines name.

    One event may print several first lines (``BUG: ...``, then ``Oops: ...``) above one trace, whose task
    is that of all of them.
    """
    found: list[Splat] = []
    unnamed: list[int] = []
    for number, text in records:
        if _END.search(text):
            unnamed.clear()
        unnamed = [at for at in unnamed if number - found[at].number < _TRACE_RECORDS]
        if _HEAD.search(text):
            unnamed.append(len(found))
            found.append(Splat(number, text))
        task = next((match for match in (pattern.search(text) for pattern in _TASK) if match), None)
        if task is None:
            continue
        names = task.groupdict()
        pid, program = int(names["pid"]), names.get("program") or ""
        for at in unnamed:
            if found[at].pid in (None, pid):
                found[at] = replace(found[at], pid=pid, program=program)
        if program:
            unnamed.clear()
    yield from found


def taint() -> int | None:
    """Return the kernel's taint mask, None where it cannot be read."""
    # Twice for each feature test: a Path and a text file cost an emulated host ten times as much.
    try:
        descriptor = os.open(_TAINT_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return int(os.read(descriptor, 32))
    except (OSError, ValueError):
        return None
    finally:
        os.close(descriptor)


def taint_by_splat(before: int | None, now: int | None) -> int:
    """Return the bits of the kernel's taint mask that are new and that a splat sets."""
    return (now or 0) & ~(before or 0) & _TAINTING


def _records() -> list[tuple[int, str]] | None:
    """Return each record's sequence number and first line, or None where we may not read the log."""
    descriptor = _open_log()
    if descriptor < 0:
        return None
    try:
        return _read_records(descriptor)
    finally:
        os.close(descriptor)


def _open_log() -> int:
    """Return a descriptor at the log's first record, -1 where we may not read the log."""
    try:
        return os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return -1


def _read_records(descriptor: int) -> list[tuple[int, str]] | None:
    """Return the records from the descriptor's place to the end of the log, None if they cannot be read."""
    lines: list[tuple[int, str]] = []
    taken = 0
    try:
        while taken < _LIMIT_BYTES:
            try:
                record = os.read(descriptor, _RECORD_BYTES)
            except BlockingIOError:
                break
            except BrokenPipeError:
                # The record was overwritten while we read; the next read goes on behind it.
                continue
            taken += len(record)
            # "priority,sequence,microseconds,flags;text"; further lines of a record are its dictionary.
            header, _, body = record.decode(errors="replace").partition(";")
            lines.append((int(header.split(",")[1]), body.partition("\n")[0]))
    except OSError:
        return None
    return lines


def _threads(pid: int) -> list[int]:
    try:
        return [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return [pid]


def _lives_elsewhere(pid: int | None, mine: Ours) -> bool:
    """Return whether a thread lives that is not ours; /proc has a folder for a thread too, unlisted."""
    if pid is None or not _pids_are_the_kernels():
        return False
    return pid not in mine.pids and Path(f"/proc/{pid}").exists()


def _pids_are_the_kernels() -> bool:
    try:
        return str(Path("/proc/self/ns/pid").readlink()) == _FIRST_PID_NAMESPACE
    except OSError:
        return False
