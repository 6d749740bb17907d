"""Find what the kernel complains of during a test: splats in its log, and a change of its taint mask."""

from __future__ import annotations

import os
import re
from pathlib import Path

# First line of a splat (lib/bug.c, kernel/panic.c, kernel/watchdog.c, kernel/hung_task.c, mm/kasan,
# lib/ubsan.c, kernel/rcu).
_SPLAT = re.compile(
    r"WARNING: |BUG: |kernel BUG at|Oops|UBSAN: |KASAN: |soft lockup|rcu: INFO: |general protection fault|"
    r"blocked for more than \d+ seconds|Bad rss-counter|Bad page state"
)
_RECORD_BYTES = 8192
_MOST_LINES = 20


class KernelLog:
    """A reader of the kernel's log, from the time of its creation.

    Attributes:
        readable: whether this user may read /dev/kmsg.
    """

    def __init__(self) -> None:
        try:
            self._descriptor = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._descriptor, 0, os.SEEK_END)
        except OSError:
            self._descriptor = -1
        self.readable = self._descriptor >= 0
        self._taint = taint()

    def close(self) -> None:
        """Close the log."""
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def complaints(self) -> list[str]:
        """Return the first lines of splats, and a sentence on a changed taint mask, since the last call.

        Every user can read the taint mask, but often only root can read the log.
        """
        found = [line for line in self._lines() if _SPLAT.search(line)][:_MOST_LINES]
        now = taint()
        if now != self._taint:
            found.append(f"The kernel's taint changed from {self._taint} to {now}.")
            self._taint = now
        return found

    def _lines(self) -> list[str]:
        lines = []
        while self.readable:
            try:
                record = os.read(self._descriptor, _RECORD_BYTES)
            except BlockingIOError:
                break
            except BrokenPipeError:
                # Records were overwritten before they were read; the next read continues after them.
                continue
            except OSError:
                # Any other error would come again, for ever.
                self.readable = False
                break
            lines.append(record.decode(errors="replace").partition(";")[2].split("\n")[0])
        return lines


def taint() -> int | None:
    """Return the kernel's taint mask, None where it cannot be read."""
    try:
        return int(Path("/proc/sys/kernel/tainted").read_text())
    except (OSError, ValueError):
        return None
