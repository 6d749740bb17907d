"""Plays the driver of a virtio-blk disk in a bare guest, from outside.

All that it knows is in guest RAM, so that a restored guest's driver goes on where the source's was at T0.
"""

from __future__ import annotations

import enum
import struct

from guest_images.agent.bare_agent import free_ram_at
from harness.deadline import Deadline
from harness.errors import DeadlineExpired, SetupBroken
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.configuration import MIB
from harness.qemu.guest_memory import GuestMemory
from harness.qemu.machine import Machine
from harness.qemu.virtio_driver import Buffer, Queue, VirtioDevice

BLOCK_BYTES = TARGET_PAGE_BYTES
"""The disk is read and written in blocks of this size."""

READ_BLOCKS = 16
"""As many blocks are read at once."""

_NUMBER = 2
_QUEUE_SIZE = 16
# VIRTIO 1.2, 5.2.6: a request's header, its type, the unit of its place, and its status.
_HEADER_BYTES, _SECTOR_BYTES = 16, 512
_IN, _OUT, _FLUSH = 0, 1, 4
_DONE, _UNANSWERED = 0, 0xFF
# VIRTIO 1.2, 5.2.3: the device has a cache that a request empties.
_FEATURE_FLUSH = 1 << 9
_SECONDS = 10.0


class DiskSilent(SetupBroken):
    """The disk does not answer a request, or answers that it failed."""


class Request(enum.Enum):
    """A request that the driver has a place for, by the number of its first descriptor."""

    READ = 0
    WRITE_MANY = 3
    WRITE_ONE = 6
    FLUSH = 9


WRITE_BLOCKS = {Request.WRITE_MANY: READ_BLOCKS // 2, Request.WRITE_ONE: 1}
"""How many blocks the requests write that write."""

_BLOCKS = {Request.READ: READ_BLOCKS, **WRITE_BLOCKS, Request.FLUSH: 0}
_TYPES = {Request.READ: _IN, Request.WRITE_MANY: _OUT, Request.WRITE_ONE: _OUT, Request.FLUSH: _FLUSH}


class BareDisk:
    """The driver; a restored guest's is made anew and does not `start` the device."""

    def __init__(self, machine: Machine) -> None:
        """Find the driver's pages in the RAM of a running machine.

        Raises:
            SetupBroken: the machine has no such device.
        """
        self._machine = machine
        self.memory = GuestMemory(machine)
        base = free_ram_at(machine.config.machine, machine.config.ram_mib * MIB)
        self._queue = Queue(self.memory, base, _QUEUE_SIZE)
        self._control = self._queue.end
        self._data: dict[Request, int] = {}
        self.end = self._control + TARGET_PAGE_BYTES
        """The address behind the driver's pages."""
        for request, blocks in _BLOCKS.items():
            self._data[request] = self.end
            self.end += blocks * BLOCK_BYTES
        self._device = VirtioDevice(machine, _NUMBER)

    def start(self) -> None:
        """Set the device up, as the guest's driver would.

        Raises:
            SetupBroken: the device does not accept that.
        """
        # No request has failed so far.
        self.memory.write(self._control, bytes(TARGET_PAGE_BYTES))
        self._queue.lay_out([self._chain(request) for request in Request])
        self._device.start(self._queue, _FEATURE_FLUSH)

    def offer(self, request: Request, block: int = 0, data: bytes = b"") -> None:
        """Give the device a request, without telling it so.

        Args:
            request: one that the device does not have.
            block: the first one that is read or written.
            data: what is written.

        Raises:
            PageProtected: a background snapshot protects a page of the driver.
        """
        if data:
            assert len(data) == _BLOCKS[request] * BLOCK_BYTES
            self.memory.write(self._data[request], data)
        header = struct.pack("<IIQ", _TYPES[request], 0, block * BLOCK_BYTES // _SECTOR_BYTES)
        self.memory.write(self._header(request), header)
        self.memory.write(self._status(request), bytes([_UNANSWERED]))
        self._queue.offer_chain(request.value)

    def notify(self) -> None:
        """Tell the device of the requests that it was given."""
        self._device.notify()

    def wait(self) -> None:
        """Wait until the device has carried out all that it was given.

        Raises:
            DiskSilent: it has not in time, or a request failed.
        """
        try:
            self._queue.wait_used(Deadline(_SECONDS), "The disk's answer")
        except DeadlineExpired as error:
            raise DiskSilent(f"The guest's disk does not carry out a request. {error}") from error
        for request in Request:
            (status,) = self.memory.read(self._status(request), 1)
            if status != _DONE:
                raise DiskSilent(f"The guest's disk answers a request of the kind {request.name}: {status}.")

    def read(self, block: int) -> list[bytes]:
        """Return the READ_BLOCKS blocks from one on.

        Raises:
            DiskSilent: the device does not read them.
        """
        self.offer(Request.READ, block)
        self.notify()
        self.wait()
        data = self.memory.read(self._data[Request.READ], READ_BLOCKS * BLOCK_BYTES)
        return [data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES)]

    def _chain(self, request: Request) -> list[Buffer]:
        """Return a request's buffers; one without data has its header in two, so that all have three."""
        header, size = self._header(request), _BLOCKS[request] * BLOCK_BYTES
        status = Buffer(self._status(request), 1)
        if not size:
            half = _HEADER_BYTES // 2
            return [Buffer(header, half, written=False), Buffer(header + half, half, written=False), status]
        data = Buffer(self._data[request], size, written=request is Request.READ)
        return [Buffer(header, _HEADER_BYTES, written=False), data, status]

    def _header(self, request: Request) -> int:
        return self._control + request.value * _HEADER_BYTES

    def _status(self, request: Request) -> int:
        return self._header(request) + _HEADER_BYTES
