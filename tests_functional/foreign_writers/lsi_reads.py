"""Plays the driver of an LSI 53C895A, a SCSI controller that runs programs in guest RAM.

See LSI53C895A Technical Manual 2.2, chapter 5 (SCRIPTS), and hw/scsi/lsi53c895a.c of QEMU 10.0.
"""

from __future__ import annotations

import struct

from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.board import Board, PciRegisters, has_id
from tests_functional.foreign_writers.target import PAGES, Target
from tests_functional.lib.drivers.scsi import GOOD, TEST_UNIT_READY, read_command

_ID = (0x1000, 0x0012)
# The first base address register is of the same registers as ports.
_BAR = 1
_DMA_STATUS, _PROGRAM, _VALUE = 0x0C, 0x2C, 0x30
_INTERRUPTED = 1 << 2
# Phases of the SCSI bus, in bits 24 to 26 of an instruction.
_DATA_IN, _COMMAND_OUT, _STATUS_IN, _MESSAGE_OUT, _MESSAGE_IN = 1, 2, 3, 6, 7
_SELECT, _WAIT_RESELECT = 0x41000008, 0x50000000
_JUMP, _JUMP_IN_PHASE, _INTERRUPT = 0x80080000, 0x800A0000, 0x98080000
_DONE, _LOST = 1, 2
_INSTRUCTION_BYTES = 8
_READS = 48
_READ_PAGES = PAGES // _READS
_PLACE_BYTES = 256
# In a request's place, behind its program: the command, the status, the messages to and from the disk.
_CDB, _STATUS, _IDENTIFY, _MESSAGE = 200, 216, 217, 218
_IDENTIFIED, _UNANSWERED = 0x80, 0xFF
_TRIES = 4
_POLL_SECONDS = 0.001


class LsiReads:
    """The driver; its programs are in guest RAM."""

    pages = PAGES

    def __init__(self, board: Board, target: Target) -> None:
        """Find the controller of a running machine.

        Raises:
            SetupBroken: the machine has none.
        """
        self._memory, self._programs, self._data = target.memory, target.control, target.data
        self._registers = PciRegisters(board, "LSI 53C895A", has_id(*_ID))

    def start(self) -> None:
        """Wait until the disk takes commands.

        Raises:
            SetupBroken: it does not.
        """
        self._registers.open(_BAR)
        for _ in range(_TRIES):
            self._memory.write(self._programs, self._request(self._programs, TEST_UNIT_READY, 0))
            self._run(self._programs, Deadline(10))
            if self._memory.read(self._programs + _STATUS, 1)[0] == GOOD:
                return
        raise SetupBroken("The guest's SCSI disk is not ready.")

    def offer(self, number: int) -> None:
        """Write the programs of a pass to guest RAM.

        Raises:
            PageProtected: a background snapshot protects a page of the driver.
        """
        programs = b""
        for read in range(_READS):
            command = read_command((number * _READS + read) * _READ_PAGES, _READ_PAGES)
            place = self._programs + read * _PLACE_BYTES
            programs += self._request(place, command, self._data + read * _READ_PAGES * TARGET_PAGE_BYTES)
        self._memory.write(self._programs, programs)

    def write(self, _number: int, deadline: Deadline) -> None:
        """Have the controller run one program after another.

        Raises:
            DeadlineExpired: it does not end in time. SetupBroken: a read fails.
        """
        for read in range(_READS):
            place = self._programs + read * _PLACE_BYTES
            self._run(place, deadline)
            status = self._memory.read(place + _STATUS, 1)[0]
            if status != GOOD:
                raise SetupBroken(f"The guest's SCSI disk answers a read by status {status:#x}.")

    def _run(self, program: int, deadline: Deadline) -> None:
        # The controller begins at the write of the last of the four bytes.
        self._registers.put(_PROGRAM, program)
        deadline.wait_for(
            lambda: bool(self._registers.get(_DMA_STATUS, 1) & _INTERRUPTED),
            "The end of the SCSI controller's program",
            interval=_POLL_SECONDS,
        )
        if (value := self._registers.get(_VALUE)) != _DONE:
            raise SetupBroken(f"The program of the guest's SCSI controller ended with {value}.")

    def _request(self, place: int, command: bytes, data: int) -> bytes:
        """Return a program that lies at `place`, with what it sends and takes behind it."""
        following, got_data, got_status, got_message = (
            place + instruction * _INSTRUCTION_BYTES for instruction in (3, 7, 9, 12)
        )
        program = [
            (_SELECT, 0),
            (_MESSAGE_OUT << 24 | 1, place + _IDENTIFY),
            (_COMMAND_OUT << 24 | len(command), place + _CDB),
            (_JUMP_IN_PHASE | _DATA_IN << 24, got_data),
            (_JUMP_IN_PHASE | _STATUS_IN << 24, got_status),
            (_JUMP_IN_PHASE | _MESSAGE_IN << 24, got_message),
            (_INTERRUPT, _LOST),
            (_DATA_IN << 24 | _READ_PAGES * TARGET_PAGE_BYTES, data),
            (_JUMP, following),
            (_STATUS_IN << 24 | 1, place + _STATUS),
            (_MESSAGE_IN << 24 | 1, place + _MESSAGE),
            (_INTERRUPT, _DONE),
            # The disk leaves the bus while it reads: two messages before, and one when it comes back.
            (_MESSAGE_IN << 24 | 2, place + _MESSAGE),
            (_WAIT_RESELECT, following),
            (_MESSAGE_IN << 24 | 1, place + _MESSAGE),
            (_JUMP, following),
        ]
        body = b"".join(struct.pack("<II", *instruction) for instruction in program).ljust(_CDB, b"\0")
        body += command.ljust(_STATUS - _CDB, b"\0") + bytes((_UNANSWERED, _IDENTIFIED))
        return body.ljust(_PLACE_BYTES, b"\0")
