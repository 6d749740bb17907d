"""Plays the driver of an IDE disk, by bus master DMA.

See ATA/ATAPI-6, READ DMA EXT and WRITE DMA EXT, and Programming Interface for Bus Master IDE Controller,
Revision 1.0.
"""

from __future__ import annotations

import struct

from harness.errors import NotApplicable
from harness.qemu.board import Board, PciPorts
from harness.qemu.guest_memory import GuestMemory
from harness.qemu.io_ports import read_port, write_port
from harness.qemu.machine import Machine
from harness.qemu.pci import PciFunction, find_function
from tests_functional.lib.drivers.disk import Answer, NotedDriver, Transfer

# The legacy ports of the first channel.
_COUNT, _LBA, _DEVICE = 0x1F2, 0x1F3, 0x1F6
COMMAND = 0x1F7
"""The port that takes commands; read, it has the status of the last one."""
_USE_LBA, _READ_DMA_EXT, _WRITE_DMA_EXT = 0xE0, 0x25, 0x35
_ERROR = 1
# Bus master registers of the first channel, from the controller's fifth BAR on.
_BM_COMMAND, _BM_STATUS, _BM_TABLE = 0, 2, 4
_START, _TO_MEMORY = 1, 8
_ACTIVE, _FAILED, _INTERRUPT = 1, 2, 4
_BAR = 4
_ENTRY_BYTES, _LAST_ENTRY = 64 << 10, 1 << 31
_IDE_CLASS = 0x0101
# A place has the table that says where data are, and the request itself: the registers of such a disk take
# one request at a time, and what a driver has to do yet is known to it alone.
_TABLE_BYTES, _PLACE_BYTES, _PLACES = 112, 128, 32
_REQUEST = "<III"


def give_command(machine: Machine, command: int, sector: int, sectors: int) -> None:
    """Give the first channel's first disk a command.

    Args:
        machine: QEMU.
        command: its number.
        sector: the first one; below 1 << 24 for a command of 28 bits.
        sectors: how many; at most 65,536, and for a command of 28 bits 255.
    """
    write_port(machine, _DEVICE, 1, _USE_LBA)
    # Each register keeps the byte that was written before, which commands of 48 bits take for a higher one.
    # 65,536 sectors are 0 in these 16 bits.
    write_port(machine, _COUNT, 1, sectors >> 8 & 0xFF)
    write_port(machine, _COUNT, 1, sectors & 0xFF)
    for byte in range(3):
        write_port(machine, _LBA + byte, 1, sector >> 8 * (3 + byte) & 0xFF)
        write_port(machine, _LBA + byte, 1, sector >> 8 * byte & 0xFF)
    write_port(machine, COMMAND, 1, command)


class IdeDisk(NotedDriver):
    """The driver of the first channel's first disk."""

    at_once = 1

    def __init__(self, board: Board, memory: GuestMemory, control: int) -> None:
        """Find the controller of a running machine; raises NotApplicable if it has none. See `DiskDriver`."""
        self._tables = control
        super().__init__(board, memory, control + _PLACES * _PLACE_BYTES)
        place = find_function(self._machine, lambda device: device["class_info"]["class"] == _IDE_CLASS)
        if place is None:
            raise NotApplicable("The machine has no IDE controller that is a bus master.")
        self._bus_master = PciPorts(self._machine, PciFunction(self._machine, place))

    def start(self) -> None:
        """Let the controller write to guest RAM."""
        self._bus_master.open(_BAR)

    def put(self, transfer: Transfer) -> int:
        """Write a request, and the table that says where its data are, to guest RAM."""
        parts = transfer.cut(_ENTRY_BYTES)
        # A length of 64 KiB is 0 in its 16 bits.
        lengths = [part.size % _ENTRY_BYTES for part in parts]
        lengths[-1] |= _LAST_ENTRY
        entries = (struct.pack("<II", part.address, size) for part, size in zip(parts, lengths, strict=True))
        request = struct.pack(_REQUEST, transfer.sector, transfer.sectors, transfer.writes)
        place = b"".join(entries).ljust(_TABLE_BYTES, b"\0") + request
        self._memory.write(self._place(self._notes.given), place)
        return self._notes.next()

    def tell(self, request: int) -> None:
        """Give the disk a request."""
        place = self._place(request)
        found = self._memory.read(place + _TABLE_BYTES, struct.calcsize(_REQUEST))
        sector, sectors, writes = struct.unpack(_REQUEST, found)
        self._bus_master.put(_BM_COMMAND, 0, 1)
        self._bus_master.put(_BM_STATUS, _FAILED | _INTERRUPT, 1)
        self._bus_master.put(_BM_TABLE, place)
        give_command(self._machine, _WRITE_DMA_EXT if writes else _READ_DMA_EXT, sector, sectors)
        self._bus_master.put(_BM_COMMAND, _START | (0 if writes else _TO_MEMORY), 1)

    def answers(self) -> list[Answer]:
        """Return the answer to the one request that the disk can have, if it is there."""
        if self._notes.seen == self._notes.given:
            return []
        status = self._bus_master.get(_BM_STATUS, 1)
        if status & _ACTIVE or not status & (_INTERRUPT | _FAILED):
            return []
        found = read_port(self._machine, COMMAND, 1)
        # So that the next request is not taken for answered.
        self._bus_master.put(_BM_STATUS, _FAILED | _INTERRUPT, 1)
        self._notes.seen += 1
        failed = status & _FAILED or found & _ERROR
        return [Answer(self._notes.seen - 1, found if failed else 0)]

    def _place(self, request: int) -> int:
        return self._tables + request % _PLACES * _PLACE_BYTES
