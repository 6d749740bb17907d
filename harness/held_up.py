"""Why a process is silent: threads of it that wait in a page fault, as for a page that is write-protected."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

from harness.codes import Fields

# A fault that is only on its way to a page is over by then.
_APART_SECONDS = 0.05
# Linux fs/proc/base.c proc_pid_syscall(): a thread that sleeps, and not in a system call, is in a fault.
_IN_A_FAULT = "-1 "


def held_threads(pid: int) -> list[str]:
    """Names of the threads of a process that wait in a page fault and stay there.

    With a userfaultfd on the memory that is a fault that nobody resolves. A fault of the kernel itself,
    inside a system call, does not show. Empty too where the kernel does not let us look.
    """
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
    """Thread id to where it stands, for the threads that are in a fault now."""
    found = {}
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            # A thread may end meanwhile.
            with contextlib.suppress(OSError):
                if (where := (task / "syscall").read_text()).startswith(_IN_A_FAULT):
                    found[int(task.name)] = where
    return found


def held_fields(names: Sequence[str]) -> Fields:
    """Return the field `held_threads` with those names, or nothing where there are none."""
    return {"held_threads": ", ".join(names)} if names else {}


def held_up_words(names: Sequence[str]) -> str:
    """Return what to add to a sentence that says a process is silent.

    Args:
        names: of its threads that wait in a page fault; without any, the result is "".
    """
    if not names:
        return ""
    quoted = ", ".join(f"'{name}'" for name in names)
    return f"; {quoted} wait{'s' if len(names) == 1 else ''} in a page fault, as for a write-protected page"
