"""Find threads of a process that wait in a page fault, e.g. for a page that userfaultfd write-protects."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

from harness.codes import Fields

# An ordinary page fault takes less than this.
_APART_SECONDS = 0.05
# Linux fs/proc/base.c proc_pid_syscall(): a thread that sleeps outside of a system call is in a page fault.
_IN_A_FAULT = "-1 "


def waiting_threads(pid: int | None) -> list[str]:
    """Return the names of the threads of a process that wait in a page fault and stay there.

    Such a fault is one that userfaultfd has reported and that is not resolved. Faults in kernel mode, inside
    a system call, cannot be seen this way. The result is also empty if /proc/PID may not be read.

    Args:
        pid: the process; None, for one that is not known, gives no names.
    """
    if pid is None:
        return []
    before = _faults(pid)
    if before:
        time.sleep(_APART_SECONDS)
    after = _faults(pid)
    names = []
    for task in sorted(before):
        with contextlib.suppress(OSError):
            if after.get(task) == before[task]:
                names.append(Path(f"/proc/{pid}/task/{task}/comm").read_text(errors="replace").strip())
    return names


def _faults(pid: int) -> dict[int, str]:
    """Return the content of /proc/PID/task/TID/syscall by thread id, for the threads in a page fault."""
    found = {}
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            # The thread may have ended.
            with contextlib.suppress(OSError):
                if (where := (task / "syscall").read_text()).startswith(_IN_A_FAULT):
                    found[int(task.name)] = where
    return found


def waiting_fields(names: Sequence[str]) -> Fields:
    """Return the field `waiting_threads` with the names of threads, or no field if there are none."""
    return {"waiting_threads": ", ".join(names)} if names else {}


def describe_waiting(names: Sequence[str]) -> str:
    """Return a clause that says which threads wait in a page fault, to append to a sentence.

    Args:
        names: names of the threads; if there are none the result is "".
    """
    if not names:
        return ""
    quoted = ", ".join(f"'{name}'" for name in names)
    return f"; {quoted} wait{'s' if len(names) == 1 else ''} in a page fault, as for a write-protected page"
