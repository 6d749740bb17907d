"""Find what in a process waits in a page fault, e.g. for a page that userfaultfd write-protects."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.codes import Fields
from harness.linux.processes import thread_names

# An ordinary page fault takes less than this.
_APART_SECONDS = 0.05
# Linux fs/proc/base.c proc_pid_syscall(): a thread that sleeps outside of a system call is in a page fault.
_IN_A_FAULT = "-1 "
# Linux fs/userfaultfd.c: the function in which a thread waits, as /proc/PID/task/TID/wchan names it. A vCPU
# of KVM waits there inside the system call KVM_RUN, where `syscall` says nothing about a fault.
_WAITS_IN = "handle_userfault"
_SWITCHES = re.compile(r"^(?:non)?voluntary_ctxt_switches:\s*(\d+)$", re.MULTILINE)
# Linux fs/userfaultfd.c userfaultfd_show_fdinfo(): faults that are not resolved, read by somebody or not.
_TOTAL = re.compile(r"^total:\s*(\d+)$", re.MULTILINE)
_USERFAULTFD = "anon_inode:[userfaultfd]"


@dataclass(frozen=True)
class Waiters:
    """What waits in page faults of a process.

    Attributes:
        threads: names of its threads that wait in a page fault.
        faults: page faults that its userfaultfds have reported and that are not resolved. Where the kernel
            itself waits for a vCPU of KVM (asynchronous page faults), only they show it.
    """

    threads: tuple[str, ...] = ()
    faults: int = 0

    @property
    def fields(self) -> Fields:
        """The fields `waiting_threads` and `waiting_faults` of an error, each if there are any."""
        named: dict[str, int | str] = {"waiting_threads": ", ".join(self.threads)} if self.threads else {}
        return {**named, "waiting_faults": self.faults} if self.faults else named

    @property
    def clause(self) -> str:
        """A clause that says what waits, to append to a sentence; empty if nothing does."""
        quoted = ", ".join(f"'{name}'" for name in self.threads)
        if quoted:
            one = len(self.threads) == 1
            return f"; {quoted} wait{'s' if one else ''} in a page fault, as for a write-protected page"
        if self.faults:
            return f"; userfaultfd has {self.faults} page fault{'s' if self.faults > 1 else ''} unresolved"
        return ""


def find_waiters(pid: int | None) -> Waiters:
    """Return what in a process waits in a page fault and goes on waiting.

    Without root this works for processes of the same user. A thread in user mode is found by its system call,
    a vCPU of KVM by the function that it waits in; kernels that do not name that function (0 in `wchan`) and
    asynchronous page faults of KVM leave the number of faults alone. The result is empty where /proc/PID may
    not be read.

    Args:
        pid: the process; None, for one that is not known, finds nothing.
    """
    if pid is None:
        return Waiters()
    before, faults = _in_faults(pid), _unresolved(pid)
    if before or faults:
        time.sleep(_APART_SECONDS)
    after, faults = _in_faults(pid), min(faults, _unresolved(pid))
    names = thread_names(pid)
    still = (task for task in sorted(before) if after.get(task) == before[task])
    return Waiters(tuple(names[task] for task in still if task in names), faults)


def _in_faults(pid: int) -> Mapping[int, tuple[str, ...]]:
    """Return by thread id which wait each thread in a page fault is in.

    That is its system call and how often it has been switched: a vCPU that gets one page after the other has
    always the same system call.
    """
    found = {}
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            # The thread may have ended.
            with contextlib.suppress(OSError):
                where = (task / "syscall").read_text()
                if where.startswith(_IN_A_FAULT) or (task / "wchan").read_text() == _WAITS_IN:
                    found[int(task.name)] = (where, *_SWITCHES.findall((task / "status").read_text()))
    return found


def _unresolved(pid: int) -> int:
    """Return the number of page faults that the userfaultfds of a process have not resolved."""
    total = 0
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            # The descriptor may have been closed.
            with contextlib.suppress(OSError):
                if str(entry.readlink()) == _USERFAULTFD:
                    told = Path(f"/proc/{pid}/fdinfo/{entry.name}").read_text()
                    total += sum(map(int, _TOTAL.findall(told)))
    return total
