"""Where a guest's driver is in the ring of a virtio device's used chains."""

from __future__ import annotations

from harness.deadline import Deadline
from harness.qemu.virtio_driver import Queue

_INDEX = 1 << 16
_POLL_SECONDS = 0.01
# How often the ring must be as it was until nothing more is expected.
_QUIET_POLLS = 20


class UsedChains:
    """The chains that a device has used and the driver has not seen.

    Attributes:
        position: how many chains the driver has seen, modulo 65,536.
    """

    def __init__(self, queue: Queue) -> None:
        """Begin with a queue that was just laid out."""
        self._queue = queue
        self.position = 0

    def unseen(self) -> int:
        """Return how many chains the driver has not seen."""
        return (self._queue.used_count() - self.position) % _INDEX

    def take(self, count: int, deadline: Deadline) -> list[tuple[int, int]]:
        """Return the chains that the driver has not seen, by first descriptor and bytes written.

        Args:
            count: how many are expected. It is waited for them, and for more that come soon.
            deadline: for them.
        """
        quiet, before = 0, -1
        while quiet < _QUIET_POLLS:
            found = self.unseen()
            quiet = quiet + 1 if found == before and (found >= count or deadline.expired) else 0
            before = found
            Deadline(_POLL_SECONDS).nap(_POLL_SECONDS)
        chains = self._queue.used_chains(self.position, before)
        self.position = (self.position + before) % _INDEX
        return chains
