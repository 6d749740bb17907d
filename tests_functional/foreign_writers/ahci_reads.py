"""Plays the driver of a SATA disk behind an AHCI controller, that reads marked blocks into guest RAM.

See Serial ATA AHCI 1.3.1, 3 (registers) and 4.2 (lists and tables in memory), and ATA8-ACS, READ DMA EXT.
"""

from __future__ import annotations

import struct

from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.board import Board, PciRegisters, has_id
from tests_functional.foreign_writers.target import PAGES, Target

# QEMU 10.0 include/hw/pci/pci_ids.h: ICH9's controller, whose registers are in the sixth BAR.
_ID, _BAR = (0x8086, 0x2922), 5
_CONTROL, _ENABLED = 0x04, 1 << 31
_LIST, _ANSWERS, _INTERRUPTS, _COMMAND, _STATUS, _ERRORS, _ISSUE = (
    0x100 + offset for offset in (0x00, 0x08, 0x10, 0x18, 0x20, 0x30, 0x38)
)
_TAKE_ANSWERS, _START = 1 << 4, 1
_FAILED = 1
_COMMANDS = 8
_COMMAND_BYTES = PAGES // _COMMANDS * TARGET_PAGE_BYTES
_SECTOR_BYTES, _TABLE_BYTES, _REGIONS = 512, 256, 0x80
_TO_DEVICE, _IS_COMMAND, _READ_DMA_EXT, _USE_LBA = 0x27, 0x80, 0x25, 0x40
# Length of the command's frame in words of 32 bits, and number of its regions.
_HEADER = 5 | 1 << 16
_POLL_SECONDS = 0.002


class AhciReads:
    """The driver; its command list and tables are in guest RAM."""

    pages = PAGES

    def __init__(self, board: Board, target: Target) -> None:
        """Find the controller of a running machine.

        Args:
            board: reaches the devices of a running machine.
            target: the pages that the disk is read into.

        Raises:
            SetupBroken: the machine has none.
        """
        self._memory, self._data = target.memory, target.data
        self._list, self._answers, self._tables = (
            target.control + page * TARGET_PAGE_BYTES for page in range(3)
        )
        # The first of two on q35, which has one of its own in a higher slot.
        self._registers = PciRegisters(board, "AHCI controller", has_id(*_ID))

    def start(self) -> None:
        """Let the controller take commands."""
        self._registers.open(_BAR)
        self._registers.put(_CONTROL, _ENABLED)
        for register, address in ((_LIST, self._list), (_ANSWERS, self._answers)):
            self._registers.put(register, address)
            self._registers.put(register + 4, 0)
        headers = [
            struct.pack("<IIII16x", _HEADER, 0, self._tables + number * _TABLE_BYTES, 0)
            for number in range(_COMMANDS)
        ]
        self._memory.write(self._list, b"".join(headers))
        self._registers.put(_COMMAND, _TAKE_ANSWERS)
        self._registers.put(_COMMAND, _TAKE_ANSWERS | _START)

    def offer(self, number: int) -> None:
        """Write the commands of a pass to guest RAM.

        Raises:
            PageProtected: a background snapshot protects a page of the driver.
        """
        self._memory.write(self._tables, b"".join(self._table(number, one) for one in range(_COMMANDS)))

    def write(self, _number: int, deadline: Deadline) -> None:
        """Have the disk carry out one command after another.

        Raises:
            DeadlineExpired: it does not in time. SetupBroken: it fails.
        """
        for command in range(_COMMANDS):
            self._registers.put(_ISSUE, 1 << command)
            deadline.wait_for(self._has_answered, "The SATA disk's answer", interval=_POLL_SECONDS)

    def _has_answered(self) -> bool:
        """Return whether no command is left, of which there is one at a time.

        Raises:
            SetupBroken: it failed; it is left then.
        """
        if (status := self._registers.get(_STATUS)) & _FAILED:
            raise SetupBroken(f"The guest's SATA disk reports an error, with status {status:#x}.")
        return self._registers.get(_ISSUE) == 0

    def _table(self, number: int, command: int) -> bytes:
        sectors = _COMMAND_BYTES // _SECTOR_BYTES
        place = ((number * _COMMANDS + command) * sectors).to_bytes(6, "little")
        frame = bytes((_TO_DEVICE, _IS_COMMAND, _READ_DMA_EXT, 0, *place[:3], _USE_LBA, *place[3:], 0))
        frame += struct.pack("<HHI", sectors, 0, 0)
        region = struct.pack("<QII", self._data + command * _COMMAND_BYTES, 0, _COMMAND_BYTES - 1)
        return (frame.ljust(_REGIONS, b"\0") + region).ljust(_TABLE_BYTES, b"\0")
