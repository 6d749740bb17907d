"""Plays the driver of an AMD Am53C974, a SCSI controller that is led through each phase of a command.

See include/hw/scsi/esp.h, hw/scsi/esp.c and hw/scsi/esp-pci.c of QEMU 10.0.
"""

from __future__ import annotations

import struct

from harness.errors import SetupBroken
from harness.qemu.board import Board, PciPorts, has_id
from harness.qemu.guest_memory import GuestMemory
from tests_functional.lib.drivers.disk import Answer, NotedDriver, Transfer
from tests_functional.lib.drivers.scsi import TEST_UNIT_READY, get_ready, transfer_command

_ID = (0x1022, 0x2020)
# Registers of the SCSI core, each in 4 bytes; read, number 4 is the status and number 5 what has happened.
_COUNT_LOW, _COUNT_MIDDLE, _QUEUE, _COMMAND, _COUNT_HIGH = 0x00, 0x04, 0x08, 0x0C, 0x38
_STATUS, _HAPPENED = 0x10, 0x14
_DESTINATION = 0x10
_SELECT, _TRANSFER, _FINISH, _ACCEPT, _BY_DMA = 0x42, 0x10, 0x11, 0x12, 0x80
_INTERRUPT, _PHASE = 1 << 7, 0b111
_IN_STATUS = 3
_FUNCTION_DONE, _NO_DISK = 1 << 3, 1 << 5
# Registers of its DMA engine.
_DMA, _DMA_SIZE, _DMA_ADDRESS = 0x40, 0x44, 0x48
_START, _TO_MEMORY = 3, 1 << 7
# A place has the message and the command that are sent; where the data are, their size, whether they go to
# the disk; and the size of message and command.
_PLACE, _PLACE_BYTES, _PLACES = "<16sIIBB6x", 32, 96
_IDENTIFY = b"\x80"


class Am53c974Disk(NotedDriver):
    """The driver of the disk with number 0; its commands are in guest RAM."""

    at_once = 1

    def __init__(self, board: Board, memory: GuestMemory, control: int) -> None:
        """Find the controller of a running machine; raises SetupBroken if it has none. See `DiskDriver`."""
        self._commands = control
        super().__init__(board, memory, control + _PLACES * _PLACE_BYTES)
        self._ports = PciPorts(board.machine, board.find("Am53C974", has_id(*_ID)))

    def start(self) -> None:
        """Wait until the disk takes commands.

        Raises:
            SetupBroken: it does not.
        """
        self._ports.open()
        get_ready(self, lambda: self._put(TEST_UNIT_READY, 0, 0, False), "SCSI disk", self._machine)

    def put(self, transfer: Transfer) -> int:
        """Write a request's command to guest RAM, and where its data are."""
        return self._put(transfer_command(transfer), transfer.address, transfer.size, transfer.writes)

    def tell(self, request: int) -> None:
        """Have the controller select the disk, and send it a request's command."""
        place = self._place(request)
        *_, size = struct.unpack(_PLACE, self._memory.read(place, _PLACE_BYTES))
        self._ports.put(_DESTINATION, 0)
        self._order(_SELECT, place, size, to_disk=True)

    def answers(self) -> list[Answer]:
        """Lead the controller to the next phase if it has ended one; return the answer in the last one.

        Raises:
            SetupBroken: there is no disk with this number.
        """
        request = self._notes.seen
        status = self._ports.get(_STATUS)
        if request == self._notes.given or not status & _INTERRUPT:
            return []
        happened = self._ports.get(_HAPPENED)
        if happened & _NO_DISK:
            raise SetupBroken("The guest's SCSI controller finds no disk with the number 0.")
        if status & _PHASE == _IN_STATUS:
            self._notes.seen += 1
            return [Answer(request, self._finish())]
        # The disk has taken its command.
        if happened & _FUNCTION_DONE:
            place = self._memory.read(self._place(request), _PLACE_BYTES)
            _, address, size, to_disk, _ = struct.unpack(_PLACE, place)
            self._order(_TRANSFER, address, size, to_disk=bool(to_disk))
        return []

    def _finish(self) -> int:
        """Take the status and the last message from the disk, and let the bus go; return the status."""
        self._ports.put(_COMMAND, _FINISH)
        status = self._ports.get(_QUEUE)
        self._ports.get(_QUEUE)
        self._ports.get(_HAPPENED)
        self._ports.put(_COMMAND, _ACCEPT)
        # So that the next request is not taken for one that has ended.
        self._ports.get(_HAPPENED)
        return status

    def _order(self, command: int, address: int, size: int, *, to_disk: bool) -> None:
        """Have the controller carry out a command of its own, by DMA."""
        direction = 0 if to_disk else _TO_MEMORY
        self._ports.put(_DMA, direction)
        self._ports.put(_DMA_SIZE, size)
        self._ports.put(_DMA_ADDRESS, address)
        for byte, register in enumerate((_COUNT_LOW, _COUNT_MIDDLE, _COUNT_HIGH)):
            self._ports.put(register, size >> 8 * byte & 0xFF)
        self._ports.put(_COMMAND, command | _BY_DMA)
        self._ports.put(_DMA, _START | direction)

    def _put(self, command: bytes, address: int, size: int, to_disk: bool) -> int:
        sent = _IDENTIFY + command
        place = struct.pack(_PLACE, sent, address, size, to_disk, len(sent))
        self._memory.write(self._place(self._notes.given), place)
        return self._notes.next()

    def _place(self, request: int) -> int:
        return self._commands + request % _PLACES * _PLACE_BYTES
