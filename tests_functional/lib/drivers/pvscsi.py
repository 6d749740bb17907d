"""Plays the driver of a disk behind VMware's paravirtual SCSI controller, with rings in guest RAM.

See hw/scsi/vmw_pvscsi.h of QEMU 10.0 (registers, descriptors and the state of the rings).
"""

from __future__ import annotations

import struct

from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.board import Board, PciRegisters, has_id
from harness.qemu.guest_memory import GuestMemory
from tests_functional.lib.drivers.disk import Answer, NotedDriver, Transfer
from tests_functional.lib.drivers.scsi import TEST_UNIT_READY, get_ready, transfer_command

_ID = (0x15AD, 0x07C0)
_COMMAND, _COMMAND_DATA, _KICK = 0x0000, 0x0004, 0x4018
_RESET, _SET_UP_RINGS = 1, 3
# Each ring has one page.
_REQUEST_BYTES, _ANSWER_BYTES = 128, 32
_PLACES, _ANSWER_PLACES = TARGET_PAGE_BYTES // _REQUEST_BYTES, TARGET_PAGE_BYTES // _ANSWER_BYTES
_REST = 31 * 8
_NO_DATA, _FROM_DISK, _TO_DISK = 1 << 2, 1 << 3, 1 << 4
_REQUEST, _ANSWER = "<QQQQII16sB8sBBBB", "<QQIHH"
_SIMPLE_TAG = 0x20
# In the state of the rings: the driver's place among the requests, and the device's among the answers.
_OFFERED, _ANSWERED = 0, 12


class PvscsiDisk(NotedDriver):
    """The driver of the disk with number 0."""

    at_once = _PLACES

    def __init__(self, board: Board, memory: GuestMemory, control: int) -> None:
        """Find the controller of a running machine; raises SetupBroken if it has none. See `DiskDriver`."""
        pages = [control + page * TARGET_PAGE_BYTES for page in range(4)]
        self._state, self._requests, self._answers, notes = pages
        super().__init__(board, memory, notes)
        self._registers = PciRegisters(board, "PVSCSI controller", has_id(*_ID))

    def start(self) -> None:
        """Set the rings up, and wait until the disk takes commands.

        Raises:
            SetupBroken: it does not.
        """
        self._memory.write(self._state, bytes(3 * TARGET_PAGE_BYTES))
        self._registers.open()
        self._registers.put(_COMMAND, _RESET)
        self._registers.put(_COMMAND, _SET_UP_RINGS)
        # The numbers of a ring's pages are in a place for 32 of them.
        numbers = (page // TARGET_PAGE_BYTES for page in (self._state, self._requests, self._answers))
        pages = struct.pack(f"<IIQQ{_REST}xQ{_REST}x", 1, 1, *numbers)
        for (word,) in struct.iter_unpack("<I", pages):
            self._registers.put(_COMMAND_DATA, word)
        get_ready(self, lambda: self._put(TEST_UNIT_READY, _NO_DATA, 0, 0), "SCSI disk", self._machine)

    def put(self, transfer: Transfer) -> int:
        """Write a request's descriptor to guest RAM, and offer it to the device."""
        flags = _TO_DISK if transfer.writes else _FROM_DISK
        return self._put(transfer_command(transfer), flags, transfer.address, transfer.size)

    def tell(self, _request: int) -> None:
        """Tell the controller that there are requests; it sees all that are offered."""
        self._registers.put(_KICK, 0)

    def answers(self) -> list[Answer]:
        """Return what the controller has put into the ring of answers since the last call."""
        (count,) = struct.unpack("<I", self._memory.read(self._state + _ANSWERED, 4))
        found = []
        while self._notes.seen < count:
            place = self._answers + self._notes.seen % _ANSWER_PLACES * _ANSWER_BYTES
            number, _, _, host, status = struct.unpack(
                _ANSWER, self._memory.read(place, struct.calcsize(_ANSWER))
            )
            found.append(Answer(number, host << 8 | status))
            self._notes.seen += 1
        return found

    def _put(self, command: bytes, flags: int, address: int, size: int) -> int:
        number = self._notes.given
        request = struct.pack(
            _REQUEST,
            *(number, address, size, 0, 0, flags, command, len(command), bytes(8)),
            *(_SIMPLE_TAG, 0, 0, 0),
        )
        place = self._requests + number % _PLACES * _REQUEST_BYTES
        self._memory.write(place, request.ljust(_REQUEST_BYTES, b"\0"))
        self._memory.write(self._state + _OFFERED, struct.pack("<I", number + 1))
        return self._notes.next()
