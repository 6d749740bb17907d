"""Plays the driver of an NVMe disk that reads marked blocks into guest RAM.

See NVM Express 1.4, 3.1 (registers), 4 (queues and commands), and 6.9 (Read).
"""

from __future__ import annotations

import struct

from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.board import Board, PciRegisters, has_id
from tests_functional.foreign_writers.target import PAGES, Target

# QEMU 10.0 hw/nvme/ctrl.c nvme_init_pci().
_ID = (0x1B36, 0x0010)
_CONFIGURATION, _STATUS, _QUEUE_SIZES, _SUBMISSION, _COMPLETION = 0x14, 0x1C, 0x24, 0x28, 0x30
_DOORBELLS = 0x1000
# Entries of 64 bytes (2^6) for commands, and of 16 (2^4) for answers.
_ENABLE = 1 | 6 << 16 | 4 << 20
_READY = 1
_CREATE_SUBMISSION, _CREATE_COMPLETION, _READ = 0x01, 0x05, 0x02
_ENTRIES, _COMMAND_BYTES, _ANSWER_BYTES = 32, 64, 16
_READS = 16
_READ_PAGES = PAGES // _READS
_SECTORS = TARGET_PAGE_BYTES // 512
_CONTIGUOUS = 1
# A list that crosses the end of a page would have to name its next page there.
_LIST_BYTES = 512
_POLL_SECONDS = 0.002


class NvmeReads:
    """The driver, with a queue of commands and one of answers for each of administration and reads."""

    pages = PAGES

    def __init__(self, board: Board, target: Target) -> None:
        """Find the disk of a running machine.

        Args:
            board: reaches the devices of a running machine.
            target: the pages that the disk is read into.

        Raises:
            SetupBroken: the machine has none.
        """
        self._memory, self._data = target.memory, target.data
        self._queues = [target.control + page * TARGET_PAGE_BYTES for page in range(4)]
        self._lists = target.control + 4 * TARGET_PAGE_BYTES
        self._registers = PciRegisters(board, "NVMe disk", has_id(*_ID))

    def start(self) -> None:
        """Make the disk's queues.

        Raises:
            SetupBroken: it does not take commands.
        """
        commands, answers, read_commands, read_answers = self._queues
        self._memory.write(commands, bytes(4 * TARGET_PAGE_BYTES))
        self._registers.open()
        self._registers.put(_QUEUE_SIZES, _ENTRIES - 1 << 16 | _ENTRIES - 1)
        for register, address in ((_SUBMISSION, commands), (_COMPLETION, answers)):
            self._registers.put(register, address)
            self._registers.put(register + 4, 0)
        self._registers.put(_CONFIGURATION, _ENABLE)
        Deadline(10).wait_for(
            lambda: bool(self._registers.get(_STATUS) & _READY), "The start of the NVMe disk"
        )
        size = _ENTRIES - 1 << 16 | 1
        self._administer(0, _CREATE_COMPLETION, read_answers, size, _CONTIGUOUS)
        self._administer(1, _CREATE_SUBMISSION, read_commands, size, 1 << 16 | _CONTIGUOUS)

    def offer(self, number: int) -> None:
        """Write the commands of a pass to guest RAM.

        Raises:
            PageProtected: a background snapshot protects a page of the driver.
        """
        first = number * _READS % _ENTRIES
        commands = b"".join(self._read(number, read) for read in range(_READS))
        self._memory.write(self._queues[2] + first * _COMMAND_BYTES, commands)
        self._memory.write(self._queues[3] + first * _ANSWER_BYTES, bytes(_READS * _ANSWER_BYTES))
        for read in range(_READS):
            start = self._data + read * _READ_PAGES * TARGET_PAGE_BYTES
            pages = [start + page * TARGET_PAGE_BYTES for page in range(1, _READ_PAGES)]
            self._memory.write(self._list(read), struct.pack(f"<{len(pages)}Q", *pages))

    def write(self, number: int, deadline: Deadline) -> None:
        """Tell the disk of the commands of a pass, and wait until it has carried them out.

        Raises:
            DeadlineExpired: it has not in time. SetupBroken: a command failed.
        """
        first = number * _READS % _ENTRIES
        answers = self._queues[3] + first * _ANSWER_BYTES
        # A command's number is in its answer, and none has the number 0.
        self._registers.put(_DOORBELLS + 8, (first + _READS) % _ENTRIES)

        def done() -> bool:
            found = self._memory.read(answers, _READS * _ANSWER_BYTES)
            entries = list(struct.iter_unpack("<8xHHHH", found))
            if any(identity and status >> 1 for _, _, identity, status in entries):
                raise SetupBroken("The guest's NVMe disk reports an error of a read.")
            return all(identity for _, _, identity, _ in entries)

        deadline.wait_for(done, "The NVMe disk's answer", interval=_POLL_SECONDS)
        self._registers.put(_DOORBELLS + 12, (first + _READS) % _ENTRIES)

    def _administer(self, number: int, operation: int, address: int, size: int, how: int) -> None:
        """Carry out an administrative command; raises SetupBroken where the disk does not."""
        command = struct.pack(
            "<BBHIQQQQIIIIII", operation, 0, number + 1, 0, 0, 0, address, 0, size, how, 0, 0, 0, 0
        )
        self._memory.write(self._queues[0] + number * _COMMAND_BYTES, command)
        answer = self._queues[1] + number * _ANSWER_BYTES
        self._registers.put(_DOORBELLS, number + 1)
        Deadline(10).wait_for(lambda: any(self._memory.read(answer + 12, 4)), "The NVMe disk's answer")
        (_, status) = struct.unpack("<HH", self._memory.read(answer + 12, 4))
        if status >> 1:
            raise SetupBroken(f"The guest's NVMe disk answers a command by status {status >> 1:#x}.")
        self._registers.put(_DOORBELLS + 4, number + 1)

    def _read(self, number: int, read: int) -> bytes:
        start = self._data + read * _READ_PAGES * TARGET_PAGE_BYTES
        place = (number * _READS + read) * _READ_PAGES * _SECTORS
        return struct.pack(
            "<BBHIQQQQQIIII",
            *(_READ, 0, read + 1, 1, 0, 0, start, self._list(read)),
            *(place, _READ_PAGES * _SECTORS - 1, 0, 0, 0),
        )

    def _list(self, read: int) -> int:
        """Return the address of the list of a command's pages, all but the first."""
        return self._lists + read * _LIST_BYTES
