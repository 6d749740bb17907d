"""Plays the driver of a virtio device that takes marks from a socket.

A console (VIRTIO 1.2, 5.3) hands over what it is sent, and an entropy device (5.4) what it asks a daemon for.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.board import Board
from harness.qemu.virtio_driver import Buffer, Queue
from tests_functional.foreign_writers.marks import MARK_BYTES, Marks
from tests_functional.foreign_writers.target import Target


@dataclass(frozen=True)
class SocketDevice:
    """A kind of device.

    Attributes:
        number: in VIRTIO 1.2, section 5.
        buffers: size of its first queue in QEMU.
    """

    number: int
    buffers: int


# QEMU 10.0 hw/char/virtio-serial-bus.c and hw/virtio/virtio-rng.c.
CONSOLE, ENTROPY = SocketDevice(3, 128), SocketDevice(4, 8)


class SocketBytes:
    """The driver and the sender; what the driver knows is in guest RAM."""

    def __init__(self, device: SocketDevice, board: Board, target: Target, marks: Marks, peer: Path) -> None:
        """Find the device of a running machine.

        Args:
            device: its kind.
            board: reaches the devices of a running machine.
            target: the pages that the marks arrive in, one in each.
            marks: those that are sent.
            peer: the socket where QEMU takes them.

        Raises:
            SetupBroken: the machine has none.
        """
        self.pages = device.buffers
        self._queue = Queue(target.memory, target.control, self.pages)
        self._data, self._marks, self._peer = target.data, marks, peer
        self._device = board.virtio(device.number)

    def start(self) -> None:
        """Set the device up; a console without its control queue, and so with its first port open.

        Raises:
            SetupBroken: the device does not accept that.
        """
        pages = (self._data + number * TARGET_PAGE_BYTES for number in range(self.pages))
        self._queue.lay_out([[Buffer(address, MARK_BYTES)] for address in pages])
        self._device.start(self._queue)

    def offer(self, _number: int) -> None:
        """Give the device room for the marks of a pass.

        Raises:
            PageProtected: a background snapshot protects a page of the driver.
        """
        self._queue.offer(self._queue.offered_count() + self.pages)
        self._device.notify()

    def write(self, number: int, deadline: Deadline) -> None:
        """Send the marks of a pass, and wait until the device has written them to guest RAM.

        Raises:
            DeadlineExpired: it has not in time. SetupBroken: QEMU takes no bytes.
        """
        try:
            with socket.socket(socket.AF_UNIX) as sender:
                sender.settimeout(deadline.remaining())
                sender.connect(str(self._peer))
                sender.sendall(b"".join(self._marks.one(number, index) for index in range(self.pages)))
                self._queue.wait_used(deadline, "The arrival of the bytes")
        except OSError as error:
            raise SetupBroken(f"QEMU takes no bytes for the guest: {error}.") from error
