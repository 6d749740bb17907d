"""Plays the driver of a virtio disk, virtio-blk or one behind virtio-scsi.

See VIRTIO 1.2, 5.2.6 (requests of virtio-blk) and 5.6.6.1 (of virtio-scsi).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.board import Board
from harness.qemu.guest_memory import GuestMemory
from harness.qemu.virtio_driver import Buffer, Queue
from tests_functional.lib.drivers.disk import Answer, NotedDriver, Transfer
from tests_functional.lib.drivers.scsi import (
    BUSY,
    CHECK_CONDITION,
    TEST_UNIT_READY,
    get_ready,
    transfer_command,
)

_QUEUE_SIZE = 128
# Buffers of a request beside its data.
_HEADER_AND_ANSWER = 2
_HEADER_PLACE, _ANSWER_PLACE = 64, 128
_UNANSWERED = b"\xff"
_INDEX = 1 << 16
# Of virtio-scsi, target 0, and unit 0 in its flat form; and the size of an answer.
_UNIT, _SCSI_ANSWER_BYTES = bytes((1, 0, 0x40, 0, 0, 0, 0, 0)), 108


@dataclass(frozen=True)
class VirtioDiskKind:
    """What virtio-blk and virtio-scsi differ in.

    Attributes:
        number: of the device, in VIRTIO 1.2, section 5.
        queue: number of the queue for requests.
        name: of the disk, for errors.
        header: makes the part of a request that the device reads before data.
        answer_bytes: size of the part that it writes beside data.
        answer_first: whether that comes before the data that it writes.
        status: returns the status in an answer.
        scsi: whether it is a SCSI disk, which has to get ready.
    """

    number: int
    queue: int
    name: str
    header: Callable[[int, Transfer], bytes]
    answer_bytes: int
    answer_first: bool
    status: Callable[[bytes], int]
    scsi: bool


def _scsi_request(number: int, command: bytes) -> bytes:
    return struct.pack("<8sQBBB32s", _UNIT, number, 0, 0, 0, command)


def _scsi_answer(status: int) -> bytes:
    """Return the answer of a disk that was reached, and has a status."""
    return bytes(10) + bytes((status, 0))


BLK = VirtioDiskKind(
    2,
    0,
    "disk",
    lambda _, transfer: struct.pack("<IIQ", transfer.writes, 0, transfer.sector),
    1,
    False,
    lambda answer: answer[0],
    False,
)
"""virtio-blk: the answer is the status."""

SCSI = VirtioDiskKind(
    8,
    2,
    "SCSI disk",
    lambda number, transfer: _scsi_request(number, transfer_command(transfer)),
    _SCSI_ANSWER_BYTES,
    True,
    # Status and response are behind two lengths and a qualifier.
    lambda answer: int.from_bytes(answer[10:12], "big"),
    True,
)
"""virtio-scsi, of the disk that is its first unit."""


class VirtioDisk(NotedDriver):
    """The driver."""

    def __init__(
        self, board: Board, memory: GuestMemory, control: int, kind: VirtioDiskKind, *, pieces: int = 1
    ) -> None:
        """Find the disk of a running machine.

        Args:
            board: reaches the devices of a running machine.
            memory: the guest's.
            control: guest-physical address of pages for what the driver keeps in RAM.
            kind: of the disk.
            pieces: how many pieces of guest RAM the data of a request may lie in.

        Raises:
            SetupBroken: the machine has none.
        """
        self._kind = kind
        self._buffers = _HEADER_AND_ANSWER + pieces
        self.at_once = _QUEUE_SIZE // self._buffers
        self._queue = Queue(memory, control, _QUEUE_SIZE)
        self._headers = self._queue.end
        self._answers = self._headers + TARGET_PAGE_BYTES
        super().__init__(board, memory, self._answers + self.at_once * _ANSWER_PLACE)
        self._device = board.virtio(kind.number, kind.queue)
        # Of a restored guest nobody knows what the device was told of.
        self._untold = True

    def start(self) -> None:
        """Set the device up, and wait until the disk takes requests.

        Raises:
            SetupBroken: it does not.
        """
        self._queue.lay_out([])
        self._device.start(self._queue)
        if not self._kind.scsi:
            return
        header = _scsi_request(0, TEST_UNIT_READY)
        not_ready = [self._kind.status(_scsi_answer(status)) for status in (CHECK_CONDITION, BUSY)]
        get_ready(self, lambda: self._put(header, []), self._kind.name, self._machine, not_ready)

    def put(self, transfer: Transfer) -> int:
        """Write a request and its buffers to guest RAM, and offer it to the device."""
        written = not transfer.writes
        data = [Buffer(piece.address, piece.size, written=written) for piece in transfer.pieces]
        return self._put(self._kind.header(self._notes.given, transfer), data)

    def tell(self, _request: int) -> None:
        """Tell the device that there are requests, unless it was told since the last one was offered.

        It sees all that are offered. A second word might reach an iothread when all is done, and have it
        begin with what is offered next, without being told of that.
        """
        if self._untold:
            self._untold = False
            self._device.notify()

    def answers(self) -> list[Answer]:
        """Return what the device has put into its ring since the last call, doubled requests as well."""
        count = (self._queue.used_count() - self._notes.seen) % _INDEX
        chains = self._queue.used_chains(self._notes.seen % _INDEX, count)
        self._notes.seen += count
        return [self._answer(first // self._buffers) for first, _ in chains]

    def _answer(self, place: int) -> Answer:
        found = self._memory.read(self._answers + place * _ANSWER_PLACE, self._kind.answer_bytes)
        return Answer(self._notes.latest(place, self.at_once), self._kind.status(found))

    def _put(self, header: bytes, data: list[Buffer]) -> int:
        place = self._notes.given % self.at_once
        head = Buffer(self._headers + place * _HEADER_PLACE, len(header), written=False)
        answer = Buffer(self._answers + place * _ANSWER_PLACE, self._kind.answer_bytes)
        self._memory.write(head.address, header)
        self._memory.write(answer.address, _UNANSWERED * answer.size)
        # What the device reads comes before what it writes.
        later = self._kind.answer_first and all(buffer.written for buffer in data)
        chain = [head, answer, *data] if later else [head, *data, answer]
        number = self._notes.next()
        self._queue.describe(place * self._buffers, chain)
        self._queue.offer_chain(place * self._buffers)
        self._untold = True
        return number
