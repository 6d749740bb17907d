"""Plays the driver of a virtio-scsi controller, whose disk is read into guest RAM.

See VIRTIO 1.2, 5.6: the queue of requests, and their form.
"""

from __future__ import annotations

import struct

from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.board import Board
from harness.qemu.virtio_driver import Buffer, Queue
from tests_functional.foreign_writers.target import PAGES, Target
from tests_functional.lib.drivers.scsi import GOOD, TEST_UNIT_READY, read_command

_NUMBER, _REQUEST_QUEUE = 8, 2
_QUEUE_SIZE = 64
_READS = 16
_READ_BUFFERS = 3
_READ_PAGES = PAGES // _READS
_REQUEST_BYTES, _ANSWER_BYTES = 51, 108
_PLACE_BYTES = 128
# Target 0, and unit 0 in its flat form.
_UNIT = bytes((1, 0, 0x40, 0, 0, 0, 0, 0))
_STATUS, _UNANSWERED = 10, 0xFF
# A disk reports that it was reset to the first command or two (SPC-4, 5.14).
_TRIES = 4


class VirtioScsi:
    """The driver; all that it knows is in guest RAM."""

    pages = PAGES

    def __init__(self, board: Board, target: Target) -> None:
        """Find the controller of a running machine.

        Raises:
            SetupBroken: the machine has none.
        """
        self._memory = target.memory
        self._queue = Queue(self._memory, target.control, _QUEUE_SIZE)
        self._requests = self._queue.end
        self._answers = self._requests + TARGET_PAGE_BYTES
        self._data = target.data
        self._device = board.virtio(_NUMBER, _REQUEST_QUEUE)

    def start(self) -> None:
        """Set the controller up, and wait until the disk takes commands.

        Raises:
            SetupBroken: it does not.
        """
        other = self._chain(0)[:2]
        self._queue.lay_out([*(self._chain(read) for read in range(_READS)), other])
        self._device.start(self._queue)
        for _ in range(_TRIES):
            self._memory.write(self._requests, self._request(0, TEST_UNIT_READY))
            self._queue.offer_chain(_READS * _READ_BUFFERS)
            self._device.notify()
            self._queue.wait_used(Deadline(10), "The SCSI disk's answer")
            if self._memory.read(self._answers + _STATUS, 2) == bytes((GOOD, 0)):
                return
        raise SetupBroken("The guest's SCSI disk is not ready.")

    def offer(self, number: int) -> None:
        """Give the controller the requests of a pass, without telling it so.

        Raises:
            PageProtected: a background snapshot protects a page of the driver.
        """
        for read in range(_READS):
            command = read_command((number * _READS + read) * _READ_PAGES, _READ_PAGES)
            self._memory.write(self._requests + read * _PLACE_BYTES, self._request(read, command))
        self._memory.write(self._answers, bytes([_UNANSWERED]) * _READS * _PLACE_BYTES)
        for read in range(_READS):
            self._queue.offer_chain(read * _READ_BUFFERS)

    def write(self, _number: int, deadline: Deadline) -> None:
        """Tell the controller of the requests, and wait until it has carried them out.

        Raises:
            DeadlineExpired: it has not in time. SetupBroken: a request failed.
        """
        self._device.notify()
        self._queue.wait_used(deadline, "The SCSI disk's answer")
        for read in range(_READS):
            answer = self._memory.read(self._answers + read * _PLACE_BYTES + _STATUS, 2)
            if answer != bytes((GOOD, 0)):
                raise SetupBroken(f"The guest's SCSI disk answers a read by {answer.hex(' ')}.")

    def _request(self, number: int, command: bytes) -> bytes:
        return struct.pack("<8sQBBB32s", _UNIT, number, 0, 0, 0, command)

    def _chain(self, read: int) -> list[Buffer]:
        size = _READ_PAGES * TARGET_PAGE_BYTES
        return [
            Buffer(self._requests + read * _PLACE_BYTES, _REQUEST_BYTES, written=False),
            Buffer(self._answers + read * _PLACE_BYTES, _ANSWER_BYTES),
            Buffer(self._data + read * size, size),
        ]
