"""Plays the driver of a disk behind an LSI MegaRAID SAS 1078, whose requests are frames in guest RAM.

See hw/scsi/mfi.h (frames, and registers) and hw/scsi/megasas.c of QEMU 10.0.
"""

from __future__ import annotations

import struct

from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.board import Board, PciRegisters, has_id
from harness.qemu.guest_memory import GuestMemory
from tests_functional.lib.drivers.disk import Answer, NotedDriver, Notes, Transfer
from tests_functional.lib.drivers.scsi import TEST_UNIT_READY, get_ready, transfer_command

_ID = (0x1000, 0x0060)
_INBOUND = 0x40
# A frame that hands a command to a logical disk; and how its data go, in flags.
_SCSI, _TO_DISK, _FROM_DISK = 0x03, 1 << 3, 1 << 4
_NONE = 0
_FRAME, _CDB_BYTES = "<BBBBBBBBQHHIQ16sII", 16
_STATUS = 2
_UNANSWERED, _LEAST_BYTES = 0xFF, 4
# QEMU 10.0 hw/scsi/mfi.h, MFI_STAT_SCSI_DONE_WITH_ERROR: the disk has a status other than GOOD.
_DISK_REFUSED = 0x2D
# QEMU maps 2 KiB from the beginning of a frame on.
_PLACES, _PLACE_BYTES = 16, TARGET_PAGE_BYTES // 2


class MegasasDisk(NotedDriver):
    """The driver of the disk with number 0; its frames are in guest RAM, which has their status too."""

    at_once = _PLACES

    def __init__(self, board: Board, memory: GuestMemory, control: int) -> None:
        """Find the controller of a running machine; raises SetupBroken if it has none. See `DiskDriver`."""
        self._frames = control
        super().__init__(board, memory, control + _PLACES * _PLACE_BYTES)
        self._registers = PciRegisters(board, "MegaRAID SAS controller", has_id(*_ID))
        self._told: list[int] = []

    def start(self) -> None:
        """Wait until the disk takes commands.

        Raises:
            SetupBroken: it does not.
        """
        self._registers.open()
        # The controller refuses a frame without data.
        unused = self._frames + _PLACES * _PLACE_BYTES + Notes.BYTES
        get_ready(
            self,
            lambda: self._put(TEST_UNIT_READY, _NONE, unused, _LEAST_BYTES),
            "SCSI disk",
            self._machine,
            (_DISK_REFUSED,),
        )

    def resume(self, told: int) -> list[int]:
        """Go on with what guest RAM has, and return the requests that were not seen answered at T0."""
        found = super().resume(told)
        self._told = found[:told]
        return found

    def put(self, transfer: Transfer) -> int:
        """Write a request's frame to guest RAM."""
        flags = _TO_DISK if transfer.writes else _FROM_DISK
        return self._put(transfer_command(transfer), flags, transfer.address, transfer.size)

    def tell(self, request: int) -> None:
        """Give the controller a request's frame."""
        if request not in self._told:
            self._told.append(request)
        self._registers.put(_INBOUND, self._place(request))

    def answers(self) -> list[Answer]:
        """Return the requests whose frames have a status now."""
        statuses = {number: self._memory.read(self._place(number) + _STATUS, 1)[0] for number in self._told}
        done = [Answer(number, status) for number, status in statuses.items() if status != _UNANSWERED]
        self._told = [number for number in self._told if statuses[number] == _UNANSWERED]
        self._notes.seen += len(done)
        return done

    def _put(self, command: bytes, flags: int, address: int, size: int) -> int:
        head = (_SCSI, 0, _UNANSWERED, 0, 0, 0, len(command), 1, 0, flags, 0, size, 0)
        frame = struct.pack(_FRAME, *head, command.ljust(_CDB_BYTES, b"\0"), address, size)
        self._memory.write(self._place(self._notes.given), frame)
        return self._notes.next()

    def _place(self, request: int) -> int:
        return self._frames + request % _PLACES * _PLACE_BYTES
