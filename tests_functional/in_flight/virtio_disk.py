"""The driver of a virtio disk (virtio-blk or virtio-scsi) of a bare guest, which the host plays.

See VIRTIO 1.2, 5.2.6 and 5.6.6.1, and SBC-3, 5.10 and 5.32 (READ(10), WRITE(10)).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from guest_images.agent.bare_agent import free_ram_at
from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.configuration import MIB
from harness.qemu.guest_memory import GuestMemory
from harness.qemu.machine import Machine
from harness.qemu.virtio_driver import Buffer, Queue, VirtioDevice
from tests_functional.in_flight import disks
from tests_functional.in_flight.numbers import Numbers
from tests_functional.in_flight.stream import FarEnd, InFlight
from tests_functional.in_flight.used import UsedChains

_QUEUE_SIZE = 256
_PER_REQUEST = 3
_HEADER_PLACE, _ANSWER_PLACE = 64, 128
_SECTORS = disks.BLOCK_BYTES // disks.SECTOR_BYTES


# A virtio device on a PCI bus is two devices, and the one behind has queue and disk.
_BLK_PATH = f"{disks.DISK_PATH}/virtio-backend"
_SCSI_PATH = f"{disks.BUS_PATH}/virtio-backend"


@dataclass(frozen=True)
class VirtioDiskKind:
    """What virtio-blk and virtio-scsi differ in.

    Attributes:
        number: of the device, in VIRTIO 1.2, section 5.
        queue: number of the queue for requests.
        header: makes the part of a request that the device reads before data.
        answer_bytes: size of the part that it writes beside data.
        answer_first: whether that comes before the data that it writes.
        owner: QOM path of the device that has the queue.
        drive: QOM path of the device that has the disk.
        failed: returns whether an answer says that the request failed.
    """

    number: int
    queue: int
    header: Callable[[int], bytes]
    answer_bytes: int
    answer_first: bool
    owner: str
    drive: str
    failed: Callable[[bytes], bool]


def _blk_header(number: int) -> bytes:
    return struct.pack("<IIQ", disks.writes(number), 0, number * _SECTORS)


def _scsi_header(number: int) -> bytes:
    """Return the request for the first unit of target 0."""
    command = struct.pack(
        ">BBIBHB", 0x2A if disks.writes(number) else 0x28, 0, number * _SECTORS, 0, _SECTORS, 0
    )
    return struct.pack("<8sQBBB32s", bytes([1, 0, 0x40, 0]), number, 0, 0, 0, command)


BLK = VirtioDiskKind(2, 0, _blk_header, 1, False, _BLK_PATH, _BLK_PATH, lambda answer: answer != b"\0")
"""virtio-blk: the answer is the status."""

SCSI = VirtioDiskKind(
    8, 2, _scsi_header, 108, True, _SCSI_PATH, disks.DISK_PATH, lambda answer: answer[10:12] != b"\0\0"
)
"""virtio-scsi: status and response are behind two lengths and a qualifier."""


class VirtioDisk:
    """The driver; item n is the request for block n, whose buffers are never used for another one."""

    def __init__(self, machine: Machine, far: FarEnd, kind: VirtioDiskKind, *, fails: bool) -> None:
        """Find the disk of a running machine.

        Raises:
            SetupBroken: the machine has none.
        """
        self._machine = machine
        self._far = far
        self._fails = fails
        self._kind = kind
        self._memory = GuestMemory(machine)
        base = free_ram_at(machine.config.machine, machine.config.ram_mib * MIB)
        self._queue = Queue(self._memory, base, _QUEUE_SIZE)
        self._headers = self._queue.end
        self._answers = self._headers + TARGET_PAGE_BYTES
        self._data = self._answers + disks.BLOCKS * _ANSWER_PLACE
        self._device = VirtioDevice(machine, kind.number, kind.queue)
        self._used = UsedChains(self._queue)

    def start(self) -> None:
        """Set the device up, with the buffers of all requests."""
        for number in range(disks.BLOCKS):
            self._memory.write(self._headers + number * _HEADER_PLACE, self._kind.header(number))
            data = disks.written_block(number) if disks.writes(number) else bytes(disks.BLOCK_BYTES)
            self._memory.write(self._block(number), data)
            self._memory.write(self._answers + number * _ANSWER_PLACE, b"\xff" * _ANSWER_PLACE)
        self._queue.lay_out([self._chain(number) for number in range(disks.BLOCKS)])
        self._device.start(self._queue)

    def resume(self, position: int) -> None:
        """Go on where the driver was with the used ring."""
        self._used.position = position

    def fill(self, numbers: Numbers, deadline: Deadline) -> InFlight:
        """Have the disk carry out some requests, and give it more than the throttle lets pass."""
        disks.open_throttle(self._machine, self._kind.drive)
        self._offer(numbers.consumed)
        self._used.take(len(numbers.consumed), deadline)
        self._offer(numbers.in_flight[:1])
        deadline.wait_for(lambda: self._used.unseen() == 1, "The request in front of those that wait")
        disks.close_throttle(self._machine, self._kind.drive)
        self._offer(numbers.in_flight[1 : -disks.NOT_TOLD])
        deadline.wait_for(
            lambda: self._taken() == self._queue.offered_count(), "The disk's taking of requests"
        )
        if self._used.unseen() > disks.MOST_PASSING:
            raise SetupBroken("The disk carries out requests that its throttle should keep back.")
        self._offer(numbers.in_flight[-disks.NOT_TOLD :], told=False)
        return InFlight(numbers.in_flight, self._used.position)

    def send(self, numbers: Sequence[int], _deadline: Deadline) -> None:
        """Give the disk more requests."""
        self._offer(numbers)

    def deliver(self, count: int, deadline: Deadline) -> list[int]:
        """Have the disk carry out all requests, and return those that it has carried out rightly."""
        disks.open_throttle(self._machine, self._kind.drive)
        self._device.notify()
        chains = self._used.take(count, deadline)
        return [number for first, _ in chains for number in self._judged(first // _PER_REQUEST)]

    def _taken(self) -> int:
        """Return how many requests the device has taken from the queue, modulo 65,536."""
        where = {"path": self._kind.owner, "queue": self._kind.queue}
        answer = self._machine.qmp.execute("x-query-virtio-queue-status", where)
        return int(answer["last-avail-idx"])

    def _judged(self, number: int) -> list[int]:
        """Return a request's number, twice if it was done twice, and a negative one if it was not done."""
        answer = self._memory.read(self._answers + number * _ANSWER_PLACE, self._kind.answer_bytes)
        if self._kind.failed(answer):
            return [-1 - number]
        if disks.writes(number):
            return disks.found_written(self._far, number, fails=self._fails)
        right = self._memory.read(self._block(number), disks.BLOCK_BYTES) == disks.block(number)
        return [number if right else -1 - number]

    def _offer(self, numbers: Sequence[int], *, told: bool = True) -> None:
        for number in numbers:
            self._queue.offer_chain(number * _PER_REQUEST)
        if told:
            self._device.notify()

    def _block(self, number: int) -> int:
        return self._data + number * disks.BLOCK_BYTES

    def _chain(self, number: int) -> list[Buffer]:
        header = self._kind.header(number)
        head = Buffer(self._headers + number * _HEADER_PLACE, len(header), written=False)
        data = Buffer(self._block(number), disks.BLOCK_BYTES, written=not disks.writes(number))
        answer = Buffer(self._answers + number * _ANSWER_PLACE, self._kind.answer_bytes)
        # What the device reads comes before what it writes.
        if data.written and self._kind.answer_first:
            return [head, answer, data]
        return [head, data, answer]
