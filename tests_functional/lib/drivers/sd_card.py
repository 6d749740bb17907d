"""Plays the driver of an SD card behind an SD host controller, by lists of regions in guest RAM (ADMA2).

See SD Host Controller Simplified Specification 3.00, 1.13 (ADMA2) and 2.2 (registers), SD Physical Layer
Simplified Specification 3.01, 4.2 (start of a card), 4.7.4 (commands) and 4.10.1 (status of a card).
"""

from __future__ import annotations

import struct

from harness.errors import SetupBroken
from harness.qemu.board import Board, PciRegisters, has_id
from harness.qemu.guest_memory import GuestMemory
from tests_functional.lib.drivers.disk import SECTOR_BYTES, Answer, NotedDriver, Transfer
from tests_functional.lib.patience import patient

# QEMU 10.0 include/hw/pci/pci.h.
_ID = (0x1B36, 0x0007)
_BLOCKS, _ARGUMENT, _MODE, _RESPONSE, _LAST_RESPONSE = 0x04, 0x08, 0x0C, 0x10, 0x1C
_HOST_CONTROL, _CLOCK, _RESET = 0x28, 0x2C, 0x2F
_STATUS, _STATUS_ENABLE, _ABILITIES, _TABLE = 0x30, 0x34, 0x40, 0x58
_RESET_ALL, _CLOCK_ON, _ADMA2 = 1, 0b111, 0x10
_COMMAND_DONE, _TRANSFER_DONE, _FAILED = 1 << 0, 1 << 1, 1 << 15
_ALL_ERRORS = 0xFFFF << 16
# Of the mode: by DMA, blocks are counted, the controller stops the card behind the last one; it reads; there
# are several blocks.
_DMA_COUNTED_STOPPED, _READS, _SEVERAL = 0b111, 1 << 4, 1 << 5
# Kinds of response, and that data go with the command; in the bits from 16 on of the mode's word.
_NONE, _LONG, _SHORT, _BUSY = 0, 1, 2, 3
_WITH_DATA = 1 << 5
_GO_IDLE, _SEND_ID, _GIVE_ADDRESS, _SELECT, _CHECK_VOLTAGE = 0, 2, 3, 7, 8
_READ, _WRITE, _APPLICATION, _POWER_UP = 18, 25, 55, 41
_VOLTAGE, _CHECK, _POWERED = 0xFF8000, 0x1AA, 1 << 31
# Of a card's status: out of range, wrong address, wrong length, no such command, an error.
_CARD_ERRORS = 1 << 31 | 1 << 30 | 1 << 29 | 1 << 22 | 1 << 19
_REGION_BYTES, _REGION, _LAST = 64 << 10, 0x21, 0x02
# A place has the list, and the request itself: the controller has registers for one command.
_LIST_BYTES, _PLACE_BYTES, _PLACES = 64, 128, 32
_REQUEST = "<III"


class SdCard(NotedDriver):
    """The driver; its lists and requests are in guest RAM."""

    at_once = 1

    def __init__(self, board: Board, memory: GuestMemory, control: int) -> None:
        """Find the controller of a running machine; raises SetupBroken if it has none. See `DiskDriver`."""
        self._places = control
        super().__init__(board, memory, control + _PLACES * _PLACE_BYTES)
        self._registers = PciRegisters(board, "SD host controller", has_id(*_ID))

    def start(self) -> None:
        """Start the controller, and select the card.

        Raises:
            SetupBroken: there is no card, or it does not start.
        """
        self._registers.open()
        self._registers.put(_RESET, _RESET_ALL, 1)
        self._registers.put(_HOST_CONTROL, _ADMA2, 1)
        self._registers.put(_CLOCK, _CLOCK_ON, 2)
        self._registers.put(_STATUS_ENABLE, _ALL_ERRORS | _TRANSFER_DONE | _COMMAND_DONE)
        self._order(_GO_IDLE, 0, _NONE)
        self._order(_CHECK_VOLTAGE, _CHECK, _SHORT)
        with patient(self._machine) as deadline:
            deadline.wait_for(self._power_up, "The start of the guest's SD card")
        self._order(_SEND_ID, 0, _LONG)
        address = self._order(_GIVE_ADDRESS, 0, _SHORT) & 0xFFFF << 16
        self._order(_SELECT, address, _BUSY)

    def put(self, transfer: Transfer) -> int:
        """Write a request, and the list of the regions of its data, to guest RAM."""
        regions = b""
        parts = transfer.cut(_REGION_BYTES)
        for number, part in enumerate(parts, 1):
            kind = _REGION | (_LAST if number == len(parts) else 0)
            # A length of 64 KiB is 0 in its 16 bits.
            regions += struct.pack("<HHI", kind, part.size % _REGION_BYTES, part.address)
        request = struct.pack(_REQUEST, transfer.at, transfer.sectors, transfer.writes)
        place = self._place(self._notes.given)
        self._memory.write(place, regions.ljust(_LIST_BYTES, b"\0") + request)
        return self._notes.next()

    def tell(self, request: int) -> None:
        """Have the controller carry a request out.

        Raises:
            SetupBroken: it does not answer at its address (docs/findings.md, F56).
        """
        # What is read where nothing answers is 0.
        if not self._registers.get(_ABILITIES):
            raise SetupBroken("The guest's SD host controller does not answer at the address that it has.")
        place = self._place(request)
        found = self._memory.read(place + _LIST_BYTES, struct.calcsize(_REQUEST))
        at, sectors, writes = struct.unpack(_REQUEST, found)
        self._registers.put(_STATUS, _ALL_ERRORS | _TRANSFER_DONE | _COMMAND_DONE)
        self._registers.put(_TABLE, place)
        self._registers.put(_BLOCKS, SECTOR_BYTES | sectors << 16)
        # Cards of up to 2 GiB count bytes.
        self._registers.put(_ARGUMENT, at)
        command = (_WRITE if writes else _READ) << 8 | _WITH_DATA | _SHORT
        mode = _DMA_COUNTED_STOPPED | _SEVERAL | (0 if writes else _READS)
        self._registers.put(_MODE, command << 16 | mode)

    def answers(self) -> list[Answer]:
        """Return the answer to the one request that the card can have, if it is there."""
        if self._notes.seen == self._notes.given:
            return []
        status = self._registers.get(_STATUS)
        if not status & (_TRANSFER_DONE | _FAILED):
            return []
        # So that the next request is not taken for answered.
        self._registers.put(_STATUS, status)
        self._notes.seen += 1
        card = self._registers.get(_RESPONSE) | self._registers.get(_LAST_RESPONSE)
        return [Answer(self._notes.seen - 1, status >> 16 | card & _CARD_ERRORS)]

    def _power_up(self) -> bool:
        """Ask the card whether it has started."""
        self._order(_APPLICATION, 0, _SHORT)
        return bool(self._order(_POWER_UP, _VOLTAGE, _SHORT) & _POWERED)

    def _order(self, command: int, argument: int, response: int) -> int:
        """Have the card carry out a command without data, and return the first word of its response.

        Raises:
            SetupBroken: it does not answer.
        """
        self._registers.put(_STATUS, _ALL_ERRORS | _TRANSFER_DONE | _COMMAND_DONE)
        self._registers.put(_ARGUMENT, argument)
        self._registers.put(_MODE, (command << 8 | response) << 16)
        if self._registers.get(_STATUS) & (_FAILED | _COMMAND_DONE) != _COMMAND_DONE:
            raise SetupBroken(f"The guest's SD card does not answer command {command}.")
        return self._registers.get(_RESPONSE)

    def _place(self, request: int) -> int:
        return self._places + request % _PLACES * _PLACE_BYTES
