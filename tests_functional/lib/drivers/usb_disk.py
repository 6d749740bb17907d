"""Plays the driver of a USB disk behind any controller.

See USB Mass Storage Class, Bulk-Only Transport 1.0, 5 (a command's and a status' frame).
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.board import Board
from harness.qemu.guest_memory import GuestMemory
from tests_functional.lib.drivers.disk import Answer, NotedDriver, Transfer
from tests_functional.lib.drivers.scsi import CHUNK_BYTES, TEST_UNIT_READY, get_ready, transfer_command
from tests_functional.lib.drivers.usb import IN, OUT, UsbController
from tests_functional.lib.drivers.xhci import Xhci

_FRAME, _FRAME_BYTES, _ANSWER_BYTES, _FROM_DISK = b"USBC", 31, 13, 0x80
_FRAME_HEAD = "<4sIIB"
_PLACES, _FRAME_PLACE, _ANSWER_PLACE = 32, 64, 32
# The disk has not carried out a command; 2 is an error of the frames (USB MSC BBB 1.0, 5.2).
_COMMAND_FAILED = 1


class UsbDisk(NotedDriver):
    """The driver; all that it knows is in guest RAM and in the controller."""

    at_once = 1

    def __init__(
        self,
        board: Board,
        memory: GuestMemory,
        control: int,
        controller: Callable[[Board, GuestMemory, int], UsbController] = Xhci,
    ) -> None:
        """Find the controller of a running machine.

        Args:
            board: reaches the devices of a running machine.
            memory: the guest's.
            control: guest-physical address of pages for what the driver keeps in RAM.
            controller: makes its driver, with the same arguments.

        Raises:
            SetupBroken: the machine has none.
        """
        self._controller = controller(board, memory, control)
        self._frames = control + self._controller.pages * TARGET_PAGE_BYTES
        self._answers = self._frames + _PLACES * _FRAME_PLACE
        super().__init__(board, memory, self._answers + _PLACES * _ANSWER_PLACE)
        # The last long write whose status was asked for; that of a restored guest may be asked for again.
        self._asked = -1

    def start(self) -> None:
        """Start the controller, and make the disk ready.

        Raises:
            SetupBroken: one of them does not answer as it must.
        """
        self._controller.start()
        get_ready(self, self._ask_whether_ready, "USB disk", self._machine, (_COMMAND_FAILED,))

    def _ask_whether_ready(self) -> int:
        request = self._command(TEST_UNIT_READY, 0, _FROM_DISK)
        self._take_answer()
        return request

    def resume(self, told: int) -> list[int]:
        """Go on with what guest RAM has, and return the requests that were not seen answered at T0."""
        self._controller.resume()
        return super().resume(told)

    def put(self, transfer: Transfer) -> int:
        """Write a request to the rings, and send the disk the command of one that reads.

        A restored controller looks at the ring that comes from the disk first, and a disk without a command
        would take that for an error.

        Raises:
            PageProtected: a background snapshot protects a page of the driver.
        """
        command = transfer_command(transfer)
        data = [(piece.address, piece.size) for piece in transfer.pieces]
        if len(data) == 1:
            half = transfer.size // 2
            data = [(transfer.address, half), (transfer.address + half, half)]
        if transfer.writes:
            request = self._command(command, transfer.size, 0, *data)
            self._take_answer()
            return request
        request = self._command(command, transfer.size, _FROM_DISK)
        self._controller.ring(OUT)
        # In two transfers or more: where one waits for all of the data, QEMU 10.0 forgets a status that is
        # asked for already (hw/usb/dev-storage.c usb_msd_command_complete()).
        self._take_answer(*data)
        return request

    def tell(self, request: int) -> None:
        """Have the controller send what is in the rings, and take what comes."""
        self._controller.ring(OUT)
        if not self._is_long_write(request):
            self._controller.ring(IN)

    def answers(self) -> list[Answer]:
        """Return the answer to the one request that the disk can have, if it is there.

        Raises:
            SetupBroken: the controller reports an error.
        """
        request = self._notes.seen
        if request == self._notes.given:
            return []
        if self._is_long_write(request) and request != self._asked:
            if not self._controller.reported(OUT):
                return []
            self._asked = request
            self._controller.ring(IN)
        if not self._controller.reported(IN):
            return []
        self._notes.seen += 1
        return [Answer(request, self._memory.read(self._answer(request) + _ANSWER_BYTES - 1, 1)[0])]

    def _is_long_write(self, request: int) -> bool:
        """Return whether the disk writes in parts: it must have all data before it is asked how that went."""
        frame = self._memory.read(self._frames + request % _PLACES * _FRAME_PLACE, _FRAME_BYTES)
        _, _, size, direction = struct.unpack_from(_FRAME_HEAD, frame)
        return bool(direction != _FROM_DISK and size > CHUNK_BYTES)

    def _command(self, command: bytes, size: int, direction: int, *data: tuple[int, int]) -> int:
        """Put a command, and data to the disk, into the ring; return the request's number."""
        request = self._notes.given
        frame = struct.pack("<4sIIBBB16s", _FRAME, request + 1, size, direction, 0, len(command), command)
        address = self._frames + request % _PLACES * _FRAME_PLACE
        self._memory.write(address, frame)
        self._controller.add(OUT, [(address, _FRAME_BYTES), *data])
        return self._notes.next()

    def _take_answer(self, *data: tuple[int, int]) -> None:
        """Put room for data from the disk, and for the status of the last request, into the ring."""
        self._controller.add(IN, [*data, (self._answer(self._notes.given - 1), _ANSWER_BYTES)])

    def _answer(self, request: int) -> int:
        return self._answers + request % _PLACES * _ANSWER_PLACE
