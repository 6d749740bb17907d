"""Plays the driver of a virtio-fs device that reads a file of marked pages into guest RAM.

See VIRTIO 1.2, 5.11 (its queues), and include/uapi/linux/fuse.h of Linux 6.12 (FUSE 7.31).
"""

from __future__ import annotations

import struct

from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.board import Board
from harness.qemu.virtio_driver import Buffer, Queue
from tests_functional.foreign_writers.target import PAGES, Target
from tests_functional.lib.patience import patient

FILE = "marks"
"""Name of the file in the folder that the device shares."""

_NUMBER, _REQUEST_QUEUE = 26, 1
_QUEUE_SIZE = 64
_READS = 16
_READ_BUFFERS = 3
_READ_BYTES = PAGES // _READS * TARGET_PAGE_BYTES
_HEADER_BYTES, _ANSWER_BYTES = 40, 16
_LOOKUP, _OPEN, _READ, _INIT = 1, 14, 15, 26
_ROOT, _MAJOR, _MINOR = 1, 7, 31
# The places of requests and answers in their pages.
_REQUEST_BYTES = 256


class FileReads:
    """The driver; all that it knows is in guest RAM and in the device."""

    pages = PAGES

    def __init__(self, board: Board, target: Target) -> None:
        """Find the device of a running machine.

        Raises:
            SetupBroken: the machine has none.
        """
        self._machine, self._memory = board.machine, target.memory
        self._queue = Queue(self._memory, target.control, _QUEUE_SIZE)
        self._requests = self._queue.end
        self._answers = self._requests + TARGET_PAGE_BYTES
        self._data = target.data
        self._device = board.virtio(_NUMBER, _REQUEST_QUEUE)
        self._node = self._file = 0

    def start(self) -> None:
        """Set the device up, and open the file.

        Raises:
            SetupBroken: the device does not accept that.
        """
        self._queue.lay_out([*(self._read(number) for number in range(_READS)), self._other()])
        self._device.start(self._queue)
        self._ask(_INIT, 0, struct.pack("<IIII", _MAJOR, _MINOR, 0, 0))
        (self._node,) = struct.unpack_from("<Q", self._ask(_LOOKUP, _ROOT, FILE.encode() + b"\0"))
        (self._file,) = struct.unpack_from("<Q", self._ask(_OPEN, self._node, struct.pack("<II", 0, 0)))

    def offer(self, number: int) -> None:
        """Give the device the requests of a pass, without telling it so.

        Raises:
            PageProtected: a background snapshot protects a page of the driver.
        """
        for read in range(_READS):
            place = (number * _READS + read) * _READ_BYTES
            body = struct.pack("<QQIIQII", self._file, place, _READ_BYTES, 0, 0, 0, 0)
            self._memory.write(self._requests + read * _REQUEST_BYTES, request(_READ, self._node, body, read))
        self._memory.write(self._answers, bytes(TARGET_PAGE_BYTES))
        for read in range(_READS):
            self._queue.offer_chain(read * _READ_BUFFERS)

    def write(self, _number: int, deadline: Deadline) -> None:
        """Tell the device of the requests that it was given, and wait until it has carried them out.

        Raises:
            DeadlineExpired: it has not in time. SetupBroken: a request failed.
        """
        self._wait(deadline)
        for read in range(_READS):
            answer = self._memory.read(self._answers + read * _REQUEST_BYTES, _ANSWER_BYTES)
            require_success(answer, _ANSWER_BYTES + _READ_BYTES)

    def _ask(self, operation: int, node: int, body: bytes) -> bytes:
        """Return the content of the answer to a request."""
        self._memory.write(self._requests, request(operation, node, body))
        self._memory.write(self._answers, bytes(_REQUEST_BYTES))
        self._queue.offer_chain(_READS * _READ_BUFFERS)
        with patient(self._machine) as deadline:
            self._wait(deadline)
        answer = self._memory.read(self._answers, _REQUEST_BYTES)
        require_success(answer)
        return answer[_ANSWER_BYTES:]

    def _wait(self, deadline: Deadline) -> None:
        self._device.notify()
        self._queue.wait_used(deadline, "The answer of the guest's shared folder")

    def _read(self, number: int) -> list[Buffer]:
        """Return the buffers of a read: its request, the head of its answer, and its pages."""
        place = number * _REQUEST_BYTES
        return [
            Buffer(self._requests + place, _REQUEST_BYTES // 2, written=False),
            Buffer(self._answers + place, _ANSWER_BYTES),
            Buffer(self._data + number * _READ_BYTES, _READ_BYTES),
        ]

    def _other(self) -> list[Buffer]:
        """Return the buffers of any other request; there is one at a time, before the reads."""
        return [
            Buffer(self._requests, _REQUEST_BYTES, written=False),
            Buffer(self._answers, _REQUEST_BYTES),
        ]


def request(operation: int, node: int, body: bytes, unique: int = 0) -> bytes:
    """Return a FUSE request: `struct fuse_in_header`, and the body of its operation."""
    return struct.pack("<IIQQIIII", _HEADER_BYTES + len(body), operation, unique + 1, node, 0, 0, 0, 0) + body


def require_success(answer: bytes, size: int = 0) -> None:
    """Check a FUSE answer, which begins with `struct fuse_out_header`.

    Args:
        answer: its first bytes.
        size: the bytes that it must have in all, 0 for any number.

    Raises:
        SetupBroken: the device reports an error, or answers too little.
    """
    found, error, _ = struct.unpack_from("<IiQ", answer)
    if error or found < _ANSWER_BYTES or (size and found != size):
        raise SetupBroken(f"The guest's shared folder answers {found} bytes, error {-error}.")
