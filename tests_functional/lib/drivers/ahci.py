"""Plays the driver of a SATA disk behind an AHCI controller.

See Serial ATA AHCI 1.3.1, 3 (registers), 4.2 (lists and tables in memory) and 5.6.4 (queued commands), and
ATA8-ACS, READ DMA EXT, READ FPDMA QUEUED and the same that write.
"""

from __future__ import annotations

import struct

from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.board import Board, PciRegisters, has_id
from harness.qemu.guest_memory import GuestMemory
from tests_functional.lib.drivers.disk import Answer, NotedDriver, Transfer

# QEMU 10.0 include/hw/pci/pci_ids.h: ICH9's controller, whose registers are in the sixth BAR.
_ID, _BAR = (0x8086, 0x2922), 5
_CONTROL, _ENABLED = 0x04, 1 << 31
_LIST, _ANSWERS, _COMMAND, _STATUS, _ACTIVE, _ISSUE = (
    0x100 + offset for offset in (0x00, 0x08, 0x18, 0x20, 0x34, 0x38)
)
_TAKE_ANSWERS, _START = 1 << 4, 1
_FAILED = 1
_SLOTS = 32
_TABLE_BYTES, _REGIONS, _HEADER_BYTES = 256, 0x80, 32
_TO_DEVICE, _IS_COMMAND, _USE_LBA = 0x27, 0x80, 0x40
# By whether they write.
_DMA_EXT, _FPDMA_QUEUED = (0x25, 0x35), (0x60, 0x61)
# Length of the command's frame in words of 32 bits, and that it writes.
_FRAME_WORDS, _WRITES = 5, 1 << 6


class AhciDisk(NotedDriver):
    """The driver of the first port's disk; its command list and tables are in guest RAM."""

    def __init__(
        self, board: Board, memory: GuestMemory, control: int, *, at_once: int = 1, queued: bool = False
    ) -> None:
        """Find the controller of a running machine.

        Args:
            board: reaches the devices of a running machine.
            memory: the guest's.
            control: guest-physical address of pages for what the driver keeps in RAM.
            at_once: how many commands the driver lets the disk have; at most 32.
            queued: whether they are queued ones (NCQ), of which the disk works on several at a time.

        Raises:
            SetupBroken: the machine has none.
        """
        self.at_once, self._queued = at_once, queued
        self._list, self._answered, self._tables = (control + page * TARGET_PAGE_BYTES for page in (0, 1, 2))
        super().__init__(board, memory, self._tables + _SLOTS * _TABLE_BYTES)
        # The first of two on q35, which has one of its own in a higher slot.
        self._registers = PciRegisters(board, "AHCI controller", has_id(*_ID))
        self._told: list[int] = []

    def start(self) -> None:
        """Let the controller take commands."""
        self._registers.open(_BAR)
        self._registers.put(_CONTROL, _ENABLED)
        for register, address in ((_LIST, self._list), (_ANSWERS, self._answered)):
            self._registers.put(register, address)
            self._registers.put(register + 4, 0)
        self._registers.put(_COMMAND, _TAKE_ANSWERS)
        self._registers.put(_COMMAND, _TAKE_ANSWERS | _START)

    def resume(self, told: int) -> list[int]:
        """Go on with what guest RAM has, and return the requests that were not seen answered at T0."""
        found = super().resume(told)
        self._told = found[:told]
        return found

    def put(self, transfer: Transfer) -> int:
        """Write a command, its header and its table to guest RAM."""
        slot = self._notes.given % _SLOTS
        table = self._tables + slot * _TABLE_BYTES
        about = _FRAME_WORDS | len(transfer.pieces) << 16 | (_WRITES if transfer.writes else 0)
        header = struct.pack("<IIII16x", about, 0, table, 0)
        # A region may have 4 MiB (AHCI 1.3.1, 4.2.3.3).
        regions = (struct.pack("<QII", piece.address, 0, piece.size - 1) for piece in transfer.pieces)
        frame = self._frame(transfer, slot).ljust(_REGIONS, b"\0")
        self._memory.write(self._list + slot * _HEADER_BYTES, header)
        self._memory.write(table, (frame + b"".join(regions)).ljust(_TABLE_BYTES, b"\0"))
        return self._notes.next()

    def tell(self, request: int) -> None:
        """Give the controller a command."""
        if request not in self._told:
            self._told.append(request)
        if self._queued:
            self._registers.put(_ACTIVE, 1 << request % _SLOTS)
        self._registers.put(_ISSUE, 1 << request % _SLOTS)

    def answers(self) -> list[Answer]:
        """Return the commands that the controller has no longer; a failed one it keeps."""
        if not self._told:
            return []
        status = self._registers.get(_STATUS)
        left = self._registers.get(_ISSUE) | (self._registers.get(_ACTIVE) if self._queued else 0)
        if status & _FAILED:
            self._notes.seen += 1
            return [Answer(self._told.pop(0), status & 0xFF)]
        done = [request for request in self._told if not left & 1 << request % _SLOTS]
        self._told = [request for request in self._told if request not in done]
        self._notes.seen += len(done)
        return [Answer(request, 0) for request in done]

    def _frame(self, transfer: Transfer, slot: int) -> bytes:
        place, count = transfer.sector.to_bytes(6, "little"), transfer.sectors
        command, low, high, last = _DMA_EXT[transfer.writes], 0, 0, count
        if self._queued:
            command, low, high, last = _FPDMA_QUEUED[transfer.writes], count & 0xFF, count >> 8, slot << 3
        frame = bytes((_TO_DEVICE, _IS_COMMAND, command, low, *place[:3], _USE_LBA, *place[3:], high))
        return frame + struct.pack("<HHI", last, 0, 0)
