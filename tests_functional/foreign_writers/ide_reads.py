"""Plays the driver of an IDE disk that reads marked blocks into guest RAM by bus master DMA.

See ATA/ATAPI-6, 8.27 (READ DMA), and Programming Interface for Bus Master IDE Controller, Revision 1.0.
"""

from __future__ import annotations

import struct

from harness.deadline import Deadline
from harness.errors import NotApplicable, SetupBroken
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.io_ports import read_port, write_port
from harness.qemu.machine import Machine
from harness.qemu.pci import PciFunction, find_function
from tests_functional.foreign_writers.target import PAGES, Target

# The legacy ports of the first channel.
_COUNT, _LBA, _DEVICE, _COMMAND = 0x1F2, 0x1F3, 0x1F6, 0x1F7
_USE_LBA, _READ_DMA = 0xE0, 0xC8
# Read, the port of commands has the status of the last one.
_ERROR = 1
# Bus master registers of the first channel, from the controller's fifth BAR on.
_BM_COMMAND, _BM_STATUS, _BM_TABLE = 0, 2, 4
_START, _TO_MEMORY = 1, 8
_ACTIVE, _FAILED, _INTERRUPT = 1, 2, 4
# Its place among the ports is ours to choose: the firmware of a bare guest sets up no PCI devices.
_BAR, _BUS_MASTER = 4, 0xC000
_SECTOR_BYTES = 512
# 256 sectors, which the register of 8 bits has as 0, fit into two entries of 64 KiB.
_COMMAND_BYTES = 256 * _SECTOR_BYTES
_ENTRY_BYTES, _LAST_ENTRY = 64 << 10, 1 << 31
_COMMANDS = PAGES * TARGET_PAGE_BYTES // _COMMAND_BYTES
_TABLE_BYTES = 16
_IDE_CLASS = 0x0101
_POLL_SECONDS = 0.002


class IdeReads:
    """The driver; the tables that say where to write are in guest RAM."""

    pages = PAGES

    def __init__(self, machine: Machine, target: Target) -> None:
        """Find the controller of a running machine.

        Raises:
            NotApplicable: the machine has none.
        """
        self._machine = machine
        self._memory = target.memory
        self._tables = target.control
        self._data = target.data
        place = find_function(machine, lambda device: device["class_info"]["class"] == _IDE_CLASS)
        if place is None:
            raise NotApplicable("The machine has no IDE controller that is a bus master.")
        self._function = PciFunction(machine, place)

    def start(self) -> None:
        """Let the controller write to guest RAM, and say where."""
        self._function.give_ports(_BAR, _BUS_MASTER)
        self._function.enable()
        tables = b""
        for command in range(_COMMANDS):
            first = self._data + command * _COMMAND_BYTES
            # A length of 64 KiB is 0 in its 16 bits.
            tables += struct.pack("<IIII", first, 0, first + _ENTRY_BYTES, _LAST_ENTRY)
        self._memory.write(self._tables, tables)

    def offer(self, _number: int) -> None:
        """Do nothing: all that is in guest RAM is the same for each pass."""

    def write(self, number: int, deadline: Deadline) -> None:
        """Have the disk read the blocks of a pass, by one command after another.

        Raises:
            DeadlineExpired: it does not in time. SetupBroken: it fails.
        """
        for command in range(_COMMANDS):
            self._read(number, command, deadline)

    def _read(self, number: int, command: int, deadline: Deadline) -> None:
        sector = (number * _COMMANDS + command) * _COMMAND_BYTES // _SECTOR_BYTES
        self._put(_BM_COMMAND, 1, 0)
        self._put(_BM_STATUS, 1, _FAILED | _INTERRUPT)
        self._put(_BM_TABLE, 4, self._tables + command * _TABLE_BYTES)
        write_port(self._machine, _DEVICE, 1, _USE_LBA | sector >> 24)
        write_port(self._machine, _COUNT, 1, 0)
        for byte in range(3):
            write_port(self._machine, _LBA + byte, 1, sector >> 8 * byte & 0xFF)
        write_port(self._machine, _COMMAND, 1, _READ_DMA)
        self._put(_BM_COMMAND, 1, _START | _TO_MEMORY)

        def done() -> bool:
            status = read_port(self._machine, _BUS_MASTER + _BM_STATUS, 1)
            if status & _FAILED:
                raise SetupBroken("The guest's IDE disk reports an error of a DMA command.")
            return not status & _ACTIVE and bool(status & _INTERRUPT)

        deadline.wait_for(done, "The IDE disk's answer", interval=_POLL_SECONDS)
        if (status := read_port(self._machine, _COMMAND, 1)) & _ERROR:
            raise SetupBroken(f"The guest's IDE disk reports an error, with status {status:#x}.")

    def _put(self, register: int, size: int, value: int) -> None:
        write_port(self._machine, _BUS_MASTER + register, size, value)
