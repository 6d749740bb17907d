"""Plays the driver of an NVMe disk.

See NVM Express 1.4, 3.1 (registers), 4 (queues and commands), 6.9 (Read) and 6.15 (Write).
"""

from __future__ import annotations

import struct

from harness.errors import SetupBroken
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.board import Board, PciRegisters, has_id
from harness.qemu.guest_memory import GuestMemory
from tests_functional.lib.drivers.disk import Answer, NotedDriver, Transfer
from tests_functional.lib.patience import patient

# QEMU 10.0 hw/nvme/ctrl.c nvme_init_pci().
_ID = (0x1B36, 0x0010)
_CONFIGURATION, _STATUS, _QUEUE_SIZES, _SUBMISSION, _COMPLETION = 0x14, 0x1C, 0x24, 0x28, 0x30
_DOORBELLS = 0x1000
# Entries of 64 bytes (2^6) for commands, and of 16 (2^4) for answers.
_ENABLE = 1 | 6 << 16 | 4 << 20
_READY = 1
_CREATE_SUBMISSION, _CREATE_COMPLETION, _READ, _WRITE = 0x01, 0x05, 0x02, 0x01
_ENTRIES, _COMMAND_BYTES, _ANSWER_BYTES = 32, 64, 16
_CONTIGUOUS = 1
# A list that crosses the end of a page would have to name its next page there.
_LIST_BYTES = 512


class NvmeDisk(NotedDriver):
    """The driver, with a queue of commands and one of answers for each of administration and requests."""

    # A full queue looks like an empty one.
    at_once = _ENTRIES - 1

    def __init__(self, board: Board, memory: GuestMemory, control: int) -> None:
        """Find the disk of a running machine; raises SetupBroken if it has none. See `DiskDriver`."""
        self._queues = [control + page * TARGET_PAGE_BYTES for page in range(4)]
        self._lists = control + 4 * TARGET_PAGE_BYTES
        super().__init__(board, memory, self._lists + _ENTRIES * _LIST_BYTES)
        self._registers = PciRegisters(board, "NVMe disk", has_id(*_ID))

    def start(self) -> None:
        """Make the disk's queues.

        Raises:
            SetupBroken: it does not take commands.
        """
        commands, answers, own_commands, own_answers = self._queues
        self._memory.write(commands, bytes(4 * TARGET_PAGE_BYTES))
        self._registers.open()
        self._registers.put(_QUEUE_SIZES, _ENTRIES - 1 << 16 | _ENTRIES - 1)
        for register, address in ((_SUBMISSION, commands), (_COMPLETION, answers)):
            self._registers.put(register, address)
            self._registers.put(register + 4, 0)
        self._registers.put(_CONFIGURATION, _ENABLE)
        with patient(self._machine) as deadline:
            deadline.wait_for(
                lambda: bool(self._registers.get(_STATUS) & _READY), "The start of the NVMe disk"
            )
        size = _ENTRIES - 1 << 16 | 1
        self._administer(0, _CREATE_COMPLETION, own_answers, size, _CONTIGUOUS)
        self._administer(1, _CREATE_SUBMISSION, own_commands, size, 1 << 16 | _CONTIGUOUS)

    def put(self, transfer: Transfer) -> int:
        """Write a command, and the list of its pages but the first, to guest RAM."""
        place = self._notes.given % _ENTRIES
        first, *pages = (part.address for part in transfer.cut(TARGET_PAGE_BYTES))
        listed = self._lists + place * _LIST_BYTES
        # Two pages need no list (NVM Express 1.4, 4.3).
        second = listed if len(pages) > 1 else next(iter(pages), 0)
        command = struct.pack(
            "<BBHIQQQQQIIII",
            *(_WRITE if transfer.writes else _READ, 0, place, 1, 0, 0, first, second),
            *(transfer.sector, transfer.sectors - 1, 0, 0, 0),
        )
        self._memory.write(listed, struct.pack(f"<{len(pages)}Q", *pages))
        self._memory.write(self._queues[2] + place * _COMMAND_BYTES, command)
        return self._notes.next()

    def tell(self, request: int) -> None:
        """Tell the disk that the queue of commands goes up to a request."""
        self._registers.put(_DOORBELLS + 8, (request + 1) % _ENTRIES)

    def answers(self) -> list[Answer]:
        """Return the new entries of the queue of answers, and tell the disk that they were seen."""
        found = []
        while True:
            place, turn = self._notes.seen % _ENTRIES, self._notes.seen // _ENTRIES
            entry = self._memory.read(self._queues[3] + place * _ANSWER_BYTES, _ANSWER_BYTES)
            _, _, identity, status = struct.unpack("<8xHHHH", entry)
            # The lowest bit of the status changes each time that the disk begins with the queue anew.
            if status & 1 == turn % 2:
                break
            found.append(Answer(self._notes.latest(identity, _ENTRIES), status >> 1))
            self._notes.seen += 1
        if found:
            self._registers.put(_DOORBELLS + 12, self._notes.seen % _ENTRIES)
        return found

    def _administer(self, number: int, operation: int, address: int, size: int, how: int) -> None:
        """Carry out an administrative command; raises SetupBroken where the disk does not."""
        command = struct.pack(
            "<BBHIQQQQIIIIII", operation, 0, number + 1, 0, 0, 0, address, 0, size, how, 0, 0, 0, 0
        )
        self._memory.write(self._queues[0] + number * _COMMAND_BYTES, command)
        answer = self._queues[1] + number * _ANSWER_BYTES
        self._registers.put(_DOORBELLS, number + 1)
        with patient(self._machine) as deadline:
            deadline.wait_for(lambda: any(self._memory.read(answer + 12, 4)), "The NVMe disk's answer")
        (_, status) = struct.unpack("<HH", self._memory.read(answer + 12, 4))
        if status >> 1:
            raise SetupBroken(f"The guest's NVMe disk answers a command by status {status >> 1:#x}.")
        self._registers.put(_DOORBELLS + 4, number + 1)
