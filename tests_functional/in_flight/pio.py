"""Has a request of an IDE disk in mid-transfer: the guest has read or written a part of a sector by words.

See ATA/ATAPI-6, 9.5 and 9.6 (programmed I/O). The device keeps the sector, and where the guest is in it (QEMU
10.0 hw/ide/core.c, `vmstate_ide_drive_pio_state`).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from guest_images.agent.bare_agent import free_ram_at
from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.configuration import MIB
from harness.qemu.guest_memory import GuestMemory
from harness.qemu.io_ports import read_port, write_port
from harness.qemu.machine import Machine
from tests_functional.in_flight.disks import log_of, sector, sector_number
from tests_functional.in_flight.numbers import Counts, Numbers
from tests_functional.in_flight.stream import FarEnd, InFlight
from tests_functional.in_flight.write_log import logged_writes
from tests_functional.lib.drivers.disk import SECTOR_BYTES
from tests_functional.lib.drivers.ide import COMMAND, give_command

COUNTS = Counts(consumed=1, in_flight=2, later=1)
"""Sectors: one of the request is through, and one half of the second one; the third one waits."""

_DATA, _WORD_BYTES = 0x1F0, 4
_READ, _WRITE = 0x20, 0x30
_BUSY, _WANTS_DATA, _ERROR = 0x80, 0x08, 0x01
_SECTOR_WORDS = SECTOR_BYTES // _WORD_BYTES
# The driver's own, in guest RAM: the first sector of its request, how many, and how many words are through.
_NOTES = "<III"


class Pio:
    """The stream; item n is sector n of the disk, and has a place of its own in guest RAM."""

    def __init__(self, machine: Machine, far: FarEnd, *, writes: bool) -> None:
        """Use the first IDE disk of a running machine.

        Args:
            machine: QEMU.
            far: whose image and log it has.
            writes: whether the guest writes to the disk.
        """
        self._machine, self._far, self._writes = machine, far, writes
        self._memory = GuestMemory(machine)
        self._notes = free_ram_at(machine.config.machine, machine.config.ram_mib * MIB)
        self._data = self._notes + TARGET_PAGE_BYTES
        self._first = self._count = self._through = 0
        self._waiting: list[int] = []
        self._arrived: list[int] = []
        self._seen = 0

    def start(self) -> None:
        """Do nothing: the disk is ready, and no request was begun."""

    def resume(self, _position: int) -> None:
        """Go on with what guest RAM has of the request."""
        notes = self._memory.read(self._notes, struct.calcsize(_NOTES))
        self._first, self._count, self._through = struct.unpack(_NOTES, notes)

    def fill(self, numbers: Numbers, deadline: Deadline) -> InFlight:
        """Begin a request, and transfer its first sectors and one half of the next one."""
        sectors = numbers.before
        self._begin(sectors.start, len(sectors))
        self._transfer(len(numbers.consumed) * _SECTOR_WORDS + _SECTOR_WORDS // 2, deadline)
        self._memory.write(self._notes, struct.pack(_NOTES, self._first, self._count, self._through))
        self._take()
        if not self._wants_data():
            raise SetupBroken("The IDE disk is not in mid-transfer, so this run proves nothing.")
        return InFlight(numbers.in_flight)

    def send(self, numbers: Sequence[int], _deadline: Deadline) -> None:
        """Give the driver more sectors, each a request of its own."""
        self._waiting += numbers

    def deliver(self, _count: int, deadline: Deadline) -> list[int]:
        """Transfer the rest of the request, and all sectors that wait; return those that have arrived."""
        self._transfer(self._count * _SECTOR_WORDS, deadline)
        while self._waiting:
            self._begin(self._waiting.pop(0), 1)
            self._transfer(_SECTOR_WORDS, deadline)
        return self._take()

    def _begin(self, first: int, count: int) -> None:
        self._first, self._count, self._through = first, count, 0
        give_command(self._machine, _WRITE if self._writes else _READ, first, count)

    def _transfer(self, end: int, deadline: Deadline) -> None:
        """Transfer the words of the request up to a number.

        Raises:
            DeadlineExpired: the disk does not take or give them in time. SetupBroken: it reports an error.
        """
        while self._through < end:
            deadline.wait_for(self._wants_data, "The IDE disk's next sector")
            number, at = divmod(self._through, _SECTOR_WORDS)
            words = min(_SECTOR_WORDS - at, end - self._through)
            self._move(self._first + number, at, words)
            self._through += words
            if not self._writes and at + words == _SECTOR_WORDS:
                place = self._place(self._first + number)
                self._arrived.append(sector_number(self._memory.read(place, SECTOR_BYTES), written=False))
        if self._through == self._count * _SECTOR_WORDS:
            deadline.wait_for(self._is_idle, "The end of the IDE disk's request")

    def _move(self, number: int, at: int, words: int) -> None:
        """Move words of a sector between guest RAM and the disk."""
        place, size = self._place(number) + at * _WORD_BYTES, words * _WORD_BYTES
        if self._writes:
            found = sector(number, written=True)[at * _WORD_BYTES :][:size]
            for (word,) in struct.iter_unpack("<I", found):
                write_port(self._machine, _DATA, _WORD_BYTES, word)
            return
        found = b"".join(
            struct.pack("<I", read_port(self._machine, _DATA, _WORD_BYTES)) for _ in range(words)
        )
        self._memory.write(place, found)

    def _take(self) -> list[int]:
        """Return the sectors that have arrived since the last call: in guest RAM, or in the image."""
        if self._writes:
            writes = logged_writes(log_of(self._far.disk))[self._seen :]
            self._seen += len(writes)
            numbers = [sector_number(write.data, written=True) for write in writes]
            return [
                number if write.at == number * SECTOR_BYTES else -1
                for number, write in zip(numbers, writes, strict=True)
            ]
        arrived, self._arrived = self._arrived, []
        return arrived

    def _wants_data(self) -> bool:
        return self._status() & (_BUSY | _WANTS_DATA) == _WANTS_DATA

    def _is_idle(self) -> bool:
        return not self._status() & (_BUSY | _WANTS_DATA)

    def _status(self) -> int:
        """Return the disk's status; raises SetupBroken where it reports an error."""
        status = read_port(self._machine, COMMAND, 1)
        if status & _ERROR and not status & _BUSY:
            raise SetupBroken(f"The guest's IDE disk reports an error by status {status:#x}.")
        return status

    def _place(self, number: int) -> int:
        return self._data + number * SECTOR_BYTES
