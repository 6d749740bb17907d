"""Plays the driver of a virtio-blk disk that reads marked blocks into guest RAM."""

from __future__ import annotations

import struct

from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.board import Board
from harness.qemu.virtio_driver import Buffer, Queue
from tests_functional.foreign_writers.target import PAGES, Target

_NUMBER = 2
_QUEUE_SIZE = 64
# A divisor of the queue size, so that a chain is always in the same places of the ring.
_REQUESTS = 16
_REQUEST_PAGES = PAGES // _REQUESTS
# VIRTIO 1.2, 5.2.6: a request's header, the type of a read, the unit of its place, and its status.
_HEADER_BYTES, _SECTOR_BYTES, _IN = 16, 512, 0
_DONE, _UNANSWERED = 0, 0xFF


class DiskReads:
    """The driver; all that it knows is in guest RAM, so that a restored guest's goes on with it."""

    pages = PAGES

    def __init__(self, board: Board, target: Target) -> None:
        """Find the disk of a running machine.

        Raises:
            SetupBroken: the machine has none.
        """
        self._memory = target.memory
        self._queue = Queue(self._memory, target.control, _QUEUE_SIZE)
        self._headers = self._queue.end
        self._statuses = self._headers + TARGET_PAGE_BYTES
        self._data = target.data
        self._device = board.virtio(_NUMBER)

    def start(self) -> None:
        """Set the disk up, as the guest's driver would.

        Raises:
            SetupBroken: the device does not accept that.
        """
        self._queue.lay_out([self._chain(number) for number in range(_REQUESTS)])
        self._device.start(self._queue)

    def offer(self, number: int) -> None:
        """Give the disk the requests of a pass, without telling it so.

        Raises:
            PageProtected: a background snapshot protects a page of the driver.
        """
        sectors = _REQUEST_PAGES * TARGET_PAGE_BYTES // _SECTOR_BYTES
        first = number * _REQUESTS * sectors
        headers = [struct.pack("<IIQ", _IN, 0, first + request * sectors) for request in range(_REQUESTS)]
        self._memory.write(self._headers, b"".join(headers))
        self._memory.write(self._statuses, bytes([_UNANSWERED]) * _REQUESTS)
        self._queue.offer(self._queue.offered_count() + _REQUESTS)

    def write(self, _number: int, deadline: Deadline) -> None:
        """Tell the disk of the requests that it was given, and wait until it has carried them out.

        Raises:
            DeadlineExpired: it has not in time. SetupBroken: a request failed.
        """
        self._device.notify()
        self._queue.wait_used(deadline, "The disk's answer")
        answers = self._memory.read(self._statuses, _REQUESTS)
        if set(answers) != {_DONE}:
            raise SetupBroken(f"The guest's disk answers its requests by {answers.hex(' ')}.")

    def _chain(self, request: int) -> list[Buffer]:
        size = _REQUEST_PAGES * TARGET_PAGE_BYTES
        return [
            Buffer(self._headers + request * _HEADER_BYTES, _HEADER_BYTES, written=False),
            Buffer(self._data + request * size, size),
            Buffer(self._statuses + request, 1),
        ]
