"""Plays the driver of a Cirrus display card whose blitter writes marks into its video RAM.

See CL-GD5446 Technical Reference Manual (bit block transfers), and hw/display/cirrus_vga.c of QEMU 10.0.
"""

from __future__ import annotations

from harness.deadline import Deadline
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.board import Board, PciRegisters, has_id
from harness.qemu.configuration import MIB
from tests_functional.foreign_writers.marks import MARK_BYTES, Marks
from tests_functional.foreign_writers.target import PAGES, Target

TARGET_OFFSET = 256 << 10
"""Offset of the target pages in the card's video RAM, which has 4 MiB."""

_ID = (0x1013, 0x00B8)
_WHAT = "Cirrus display card"
# The first base address register is of 32 MiB, with the video RAM at its beginning.
_MEMORY_BAR, _REGISTER_BAR, _REGISTERS_AT = 0, 1, 32 * MIB
_SOURCE = 64 << 10
# Ports 0x3CE and 0x3CF; graphics register 0x0B, of extensions, with which video RAM is seen as it is.
_GRAPHICS_INDEX, _GRAPHICS_VALUE, _EXTENSIONS = 0x0E, 0x0F, 0x0B
_BLITTER = 0x100
_WIDTH, _HEIGHT, _TARGET_PITCH, _SOURCE_PITCH, _TO, _FROM = 0x08, 0x0A, 0x0C, 0x0E, 0x10, 0x14
_MODE, _OPERATION, _STATUS = 0x18, 0x1A, 0x40
_PLAIN, _INVERT_SOURCE = 0, 0xD0
_START, _BUSY = 2, 1 | 2
_POLL_SECONDS = 0.002


class BlitterCopies:
    """The driver; the marks that it has copied are in video RAM too, inverted, so none is found there."""

    pages = PAGES

    def __init__(self, board: Board, target: Target, marks: Marks) -> None:
        """Find the card of a running machine.

        Args:
            board: reaches the devices of a running machine.
            target: the pages of video RAM that are written.
            marks: those that are written.

        Raises:
            SetupBroken: the machine has no card.
        """
        self._memory, self._marks = target.memory, marks
        self._source = target.data - TARGET_OFFSET + _SOURCE
        self._video = PciRegisters(board, _WHAT, has_id(*_ID))
        self._registers = PciRegisters(board, _WHAT, has_id(*_ID), _REGISTERS_AT)

    def start(self) -> None:
        """Give video RAM and registers their places, and say what all passes have in common."""
        self._video.open(_MEMORY_BAR)
        self._registers.open(_REGISTER_BAR)
        self._registers.put(_GRAPHICS_INDEX, _EXTENSIONS, 1)
        self._registers.put(_GRAPHICS_VALUE, 0, 1)
        # A row for each page: its first bytes are a mark.
        for register, size, value in (
            (_WIDTH, 2, MARK_BYTES - 1),
            (_HEIGHT, 2, PAGES - 1),
            (_TARGET_PITCH, 2, TARGET_PAGE_BYTES),
            (_SOURCE_PITCH, 2, MARK_BYTES),
            # A further byte would be the write mask.
            *((_TO + byte, 1, TARGET_OFFSET >> 8 * byte & 0xFF) for byte in range(3)),
            *((_FROM + byte, 1, _SOURCE >> 8 * byte & 0xFF) for byte in range(3)),
            (_MODE, 1, _PLAIN),
            (_OPERATION, 1, _INVERT_SOURCE),
        ):
            self._registers.put(_BLITTER + register, value, size)

    def offer(self, number: int) -> None:
        """Write the inverted marks of a pass to video RAM.

        Raises:
            PageProtected: a background snapshot protects a page of them.
        """
        marks = b"".join(self._marks.one(number, index) for index in range(PAGES))
        self._memory.write(self._source, bytes(byte ^ 0xFF for byte in marks))

    def write(self, _number: int, deadline: Deadline) -> None:
        """Have the blitter copy the marks of the pass that was offered last, and invert them.

        Raises:
            DeadlineExpired: it does not end in time.
        """
        self._registers.put(_BLITTER + _STATUS, _START, 1)
        deadline.wait_for(
            lambda: not self._registers.get(_BLITTER + _STATUS, 1) & _BUSY,
            "The end of the copy by the display card",
            interval=_POLL_SECONDS,
        )
