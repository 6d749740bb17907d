"""Plays the driver of an LSI 53C895A, a SCSI controller that runs programs in guest RAM.

See LSI53C895A Technical Manual 2.2, chapter 5 (SCRIPTS), and hw/scsi/lsi53c895a.c of QEMU 10.0.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import partial

from harness.errors import SetupBroken
from harness.qemu.board import Board, PciRegisters, has_id
from harness.qemu.guest_memory import GuestMemory
from tests_functional.lib.drivers.disk import Answer, NotedDriver, Piece, Transfer
from tests_functional.lib.drivers.scsi import TEST_UNIT_READY, get_ready, transfer_command

_ID = (0x1000, 0x0012)
# The first base address register is of the same registers as ports.
_BAR = 1
_DMA_STATUS, _PROGRAM, _VALUE = 0x0C, 0x2C, 0x30
_INTERRUPTED = 1 << 2
# Phases of the SCSI bus, in bits 24 to 26 of an instruction.
_DATA_OUT, _DATA_IN, _COMMAND_OUT, _STATUS_IN, _MESSAGE_OUT, _MESSAGE_IN = 0, 1, 2, 3, 6, 7
_SELECT, _WAIT_RESELECT = 0x41000008, 0x50000000
_JUMP, _JUMP_IN_PHASE, _INTERRUPT = 0x80080000, 0x800A0000, 0x98080000
_DONE, _LOST = 1, 2
_INSTRUCTION_BYTES = 8
_PLACES, _PLACE_BYTES = 96, 256
# In a request's place, behind its program: the command, the status, the messages to and from the disk.
_CDB, _STATUS, _IDENTIFY, _MESSAGE = 200, 216, 217, 218
_IDENTIFIED, _UNANSWERED = 0x80, 0xFF


class LsiDisk(NotedDriver):
    """The driver of the disk with number 0; its programs are in guest RAM."""

    at_once = 1

    def __init__(self, board: Board, memory: GuestMemory, control: int) -> None:
        """Find the controller of a running machine; raises SetupBroken if it has none. See `DiskDriver`."""
        self._programs = control
        super().__init__(board, memory, control + _PLACES * _PLACE_BYTES)
        self._registers = PciRegisters(board, "LSI 53C895A", has_id(*_ID))

    def start(self) -> None:
        """Wait until the disk takes commands.

        Raises:
            SetupBroken: it does not.
        """
        self._registers.open(_BAR)
        ask = partial(self._write_program, TEST_UNIT_READY, _DATA_IN, ())
        get_ready(self, ask, "SCSI disk", self._machine)

    def put(self, transfer: Transfer) -> int:
        """Write a request's program to guest RAM."""
        phase = _DATA_OUT if transfer.writes else _DATA_IN
        return self._write_program(transfer_command(transfer), phase, transfer.pieces)

    def tell(self, request: int) -> None:
        """Have the controller run a request's program."""
        # It begins at the write of the last of the four bytes.
        self._registers.put(_PROGRAM, self._place(request))

    def answers(self) -> list[Answer]:
        """Return the answer to the one request that the controller can have, if its program has ended.

        Raises:
            SetupBroken: it has ended where it should not.
        """
        request = self._notes.seen
        if request == self._notes.given or not self._registers.get(_DMA_STATUS, 1) & _INTERRUPTED:
            return []
        if (value := self._registers.get(_VALUE)) != _DONE:
            raise SetupBroken(f"The program of the guest's SCSI controller reports its end by {value}.")
        self._notes.seen += 1
        return [Answer(request, self._memory.read(self._place(request) + _STATUS, 1)[0])]

    def _place(self, request: int) -> int:
        return self._programs + request % _PLACES * _PLACE_BYTES

    def _write_program(self, command: bytes, phase: int, data: Sequence[Piece]) -> int:
        """Write a program, with what it sends and takes behind it, and return the request's number."""
        place, moves = self._place(self._notes.given), len(data)
        following, got_data, got_status, got_message = (
            place + instruction * _INSTRUCTION_BYTES for instruction in (3, 7, 8 + moves, 11 + moves)
        )
        program = [
            (_SELECT, 0),
            (_MESSAGE_OUT << 24 | 1, place + _IDENTIFY),
            (_COMMAND_OUT << 24 | len(command), place + _CDB),
            (_JUMP_IN_PHASE | phase << 24, got_data),
            (_JUMP_IN_PHASE | _STATUS_IN << 24, got_status),
            (_JUMP_IN_PHASE | _MESSAGE_IN << 24, got_message),
            (_INTERRUPT, _LOST),
            *((phase << 24 | piece.size, piece.address) for piece in data),
            (_JUMP, following),
            (_STATUS_IN << 24 | 1, place + _STATUS),
            (_MESSAGE_IN << 24 | 1, place + _MESSAGE),
            (_INTERRUPT, _DONE),
            # The disk leaves the bus while it works: two messages before, and one when it comes back.
            (_MESSAGE_IN << 24 | 2, place + _MESSAGE),
            (_WAIT_RESELECT, following),
            (_MESSAGE_IN << 24 | 1, place + _MESSAGE),
            (_JUMP, following),
        ]
        body = b"".join(struct.pack("<II", *instruction) for instruction in program).ljust(_CDB, b"\0")
        body += command.ljust(_STATUS - _CDB, b"\0") + bytes((_UNANSWERED, _IDENTIFIED))
        self._memory.write(place, body.ljust(_PLACE_BYTES, b"\0"))
        return self._notes.next()
