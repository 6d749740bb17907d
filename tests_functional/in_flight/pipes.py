"""Two named pipes as the far end of a guest's character device (QEMU's chardev `pipe`).

QEMU opens NAME.in to read and NAME.out to write (QEMU 10.0 chardev/char-pipe.c). The test opens both as well,
so it can fill the second one: then QEMU keeps what the guest has sent.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import termios
from collections.abc import Iterator
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import SetupBroken

PIPE_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
"""The kernel has room for a write if a whole page of the pipe is free (Linux 6.18 fs/pipe.c)."""

# How long nothing must arrive until nothing more is expected.
_QUIET_SECONDS = 0.25
_POLL_SECONDS = 0.005
_READ_BYTES = 1 << 20


class Pipes:
    """The far end; `received` and `send` are as seen from outside the guest."""

    def __init__(self, path: Path, into: int, out: int) -> None:
        """Use pipes that are open; see `pipes`.

        Args:
            path: as for QEMU's chardev, without the suffixes.
            into: descriptor of the pipe that QEMU reads.
            out: descriptor of the pipe that QEMU writes.
        """
        self.path = path
        self._in = into
        self._out = out
        self._filler = 0

    def send(self, data: bytes, deadline: Deadline) -> None:
        """Send bytes towards the guest, and wait until QEMU has taken them.

        Raises:
            SetupBroken: the pipe has no room. DeadlineExpired: QEMU does not take them.
        """
        if os.write(self._in, data) != len(data):
            raise SetupBroken("The pipe to the guest's device has no room.")
        deadline.wait_for(
            lambda: not _waiting(self._in), "QEMU's reading of what the guest's device gets", _POLL_SECONDS
        )

    def fill(self, room: int = 0) -> None:
        """Fill the pipe that QEMU writes, which is empty.

        Args:
            room: in bytes, what is left free; a multiple of PIPE_PAGE_BYTES.
        """
        size = fcntl.fcntl(self._out, fcntl.F_GETPIPE_SZ) - room
        self._filler = os.write(self._out, bytes(size))

    def waiting(self) -> int:
        """Return how many bytes QEMU has written that were not received yet."""
        return _waiting(self._out) - self._filler

    def receive(self, count: int, deadline: Deadline) -> bytes:
        """Return what QEMU writes, once `count` bytes and no more come.

        Less is returned at the deadline, and more where more comes soon.
        """
        found = b""
        while True:
            complete = len(found) >= count
            if not select.select([self._out], [], [], self._patience(complete, deadline))[0]:
                # A deadline may move meanwhile.
                if complete or deadline.expired:
                    return found
                continue
            data = os.read(self._out, _READ_BYTES)
            found += data[self._filler :]
            self._filler = max(0, self._filler - len(data))

    @staticmethod
    def _patience(complete: bool, deadline: Deadline) -> float:
        return _QUIET_SECONDS if complete else max(deadline.remaining(), _QUIET_SECONDS)


def _waiting(descriptor: int) -> int:
    """Return how many bytes a pipe holds."""
    count = array.array("i", [0])
    fcntl.ioctl(descriptor, termios.FIONREAD, count)
    return count[0]


@contextlib.contextmanager
def pipes(path: Path) -> Iterator[Pipes]:
    """Make two pipes for one QEMU, open within the `with`.

    Args:
        path: as for QEMU's chardev; `.in` and `.out` are appended.
    """
    descriptors = []
    try:
        for suffix in (".in", ".out"):
            pipe = path.with_name(path.name + suffix)
            os.mkfifo(pipe)
            # Open for both, an end of a pipe waits for nobody.
            descriptors.append(os.open(pipe, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
        yield Pipes(path, *descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
