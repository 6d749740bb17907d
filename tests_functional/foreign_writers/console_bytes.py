"""Plays the driver of a virtio console that takes marks from a socket; see VIRTIO 1.2, 5.3."""

from __future__ import annotations

import socket
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.board import Board
from harness.qemu.virtio_driver import Buffer, Queue
from tests_functional.foreign_writers.marks import MARK_BYTES, Marks
from tests_functional.foreign_writers.target import Target

_NUMBER = 3
# QEMU 10.0 hw/char/virtio-serial-bus.c: the size of the queue of the first port.
_BUFFERS = 128


class ConsoleBytes:
    """The driver and the sender; what the driver knows is in guest RAM."""

    pages = _BUFFERS

    def __init__(self, board: Board, target: Target, marks: Marks, peer: Path) -> None:
        """Find the console of a running machine.

        Args:
            board: reaches the devices of a running machine.
            target: the pages that the marks arrive in, one in each.
            marks: those that are sent.
            peer: the socket where QEMU takes them.

        Raises:
            SetupBroken: the machine has no console.
        """
        self._queue = Queue(target.memory, target.control, _BUFFERS)
        self._data, self._marks, self._peer = target.data, marks, peer
        self._device = board.virtio(_NUMBER)

    def start(self) -> None:
        """Set the console up without its control queue: the first port is open then.

        Raises:
            SetupBroken: the device does not accept that.
        """
        pages = (self._data + number * TARGET_PAGE_BYTES for number in range(_BUFFERS))
        self._queue.lay_out([[Buffer(address, MARK_BYTES)] for address in pages])
        self._device.start(self._queue)

    def offer(self, _number: int) -> None:
        """Give the console room for the marks of a pass.

        Raises:
            PageProtected: a background snapshot protects a page of the driver.
        """
        self._queue.offer(self._queue.offered_count() + _BUFFERS)
        self._device.notify()

    def write(self, number: int, deadline: Deadline) -> None:
        """Send the marks of a pass, and wait until the console has written them to guest RAM.

        Raises:
            DeadlineExpired: it has not in time. SetupBroken: QEMU takes no bytes.
        """
        try:
            with socket.socket(socket.AF_UNIX) as sender:
                sender.settimeout(deadline.remaining())
                sender.connect(str(self._peer))
                sender.sendall(b"".join(self._marks.one(number, index) for index in range(_BUFFERS)))
                self._queue.wait_used(deadline, "The arrival of the bytes")
        except OSError as error:
            raise SetupBroken(f"QEMU takes no bytes for the guest's console: {error}.") from error
