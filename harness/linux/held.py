"""Hold a process still by SIGSTOP, so that nothing but the kernel changes its page table entries."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.deadline import Deadline

_SECONDS = 10.0
# Linux Documentation/filesystems/proc.rst: stopped by a signal, and asleep where no signal wakes it. A thread
# in the latter state changes nothing: it waits for a page that only the stopped threads release.
_STILL = ("T", "D")


@contextmanager
def held(pid: int) -> Iterator[None]:
    """Stop all threads of a process during the `with`, and let it go on afterwards.

    Raises:
        DeadlineExpired: a thread did not stop in time.
    """
    os.kill(pid, signal.SIGSTOP)
    try:
        Deadline(_SECONDS).wait_for(
            lambda: _is_still(pid), "The stop of all of QEMU's threads", interval=0.001
        )
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _is_still(pid: int) -> bool:
    """Return whether no thread runs; one that has just ended counts as still."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            state = (task / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state not in _STILL:
            return False
    return True
