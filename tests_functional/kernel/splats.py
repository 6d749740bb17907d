"""Collect the kernel's complaints during a test: splats in its log, and a change of its taint mask."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from harness.linux.kernel_log import LogFollower, Splat, ours, read_splats, taint, taint_by_splat

_MOST_LINES = 20


@dataclass
class Complaints:
    """The kernel's complaints during a test.

    Attributes:
        own: sentences about the test's own processes.
        others: sentences about other processes of this host, and about changes whose cause is not known.
    """

    own: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


class KernelLog:
    """A reader of the kernel's log, from the time of its creation.

    Attributes:
        readable: whether this user may read /dev/kmsg.
    """

    def __init__(self) -> None:
        # A test's threads have ended by the time the log is read; they had the name of this process.
        name = Path("/proc/self/comm").read_text(errors="replace").strip()
        self._ours = ours([os.getpid()], [name])
        self._taint = taint()
        self._follower = LogFollower()
        self.readable = self._new() is not None

    def complaints(self) -> Complaints:
        """Return the complaints since the last call.

        Every user can read the taint mask, but often only root can read the log. The mask does not say which
        process set it, so a change counts only beside a splat of ours.
        """
        found = Complaints()
        for splat in (self._new() or ())[:_MOST_LINES]:
            (found.own if self._ours.did(splat) else found.others).append(splat.words)
        now = taint()
        if now != self._taint:
            target = found.own if found.own and taint_by_splat(self._taint, now) else found.others
            target.append(f"The kernel's taint changed from {self._taint} to {now}.")
            self._taint = now
        return found

    def _new(self) -> tuple[Splat, ...] | None:
        """Return the splats since the last call, None where the log cannot be read."""
        return read_splats(self._ours, self._follower)
