"""Plays the driver of a virtio-net card that receives marked packets, and sends it these packets."""

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

_NUMBER = 1
PACKETS = 256
"""Packets in a pass, as many as the card's queue has places."""

_BUFFER_BYTES = 2048
# VIRTIO 1.2, 5.1.6: the header in front of each packet. An Ethernet header has 14 bytes.
_HEADER_BYTES = 12
_BEFORE_MARK = MARK_BYTES - _HEADER_BYTES
# A broadcast from a locally administered address, of a type for experiments (IEEE 802).
_ETHERNET = bytes.fromhex("ffffffffffff 525400000001 88b5")
_LEAST_BYTES = 60


class Packets:
    """The driver and the sender; what the driver knows is in guest RAM."""

    pages = PACKETS

    def __init__(self, board: Board, target: Target, marks: Marks, peer: Path) -> None:
        """Find the card of a running machine.

        Args:
            board: reaches the devices of a running machine.
            target: the pages that the packets arrive in.
            marks: those that the packets have.
            peer: the socket where QEMU takes packets.

        Raises:
            SetupBroken: the machine has no card.
        """
        self._queue = Queue(target.memory, target.control, PACKETS)
        self._data = target.data
        self._marks = marks
        self._peer = peer
        self._device = board.virtio(_NUMBER)

    def start(self) -> None:
        """Set the card up, as the guest's driver would.

        Raises:
            SetupBroken: the device does not accept that.
        """
        pages = (self._data + number * TARGET_PAGE_BYTES for number in range(PACKETS))
        self._queue.lay_out([[Buffer(address, _BUFFER_BYTES)] for address in pages])
        self._device.start(self._queue)

    def offer(self, _number: int) -> None:
        """Give the card room for the packets of a pass.

        Raises:
            PageProtected: a background snapshot protects a page of the driver.
        """
        self._queue.offer(self._queue.offered_count() + PACKETS)
        self._device.notify()

    def write(self, number: int, deadline: Deadline) -> None:
        """Send the packets of a pass, and wait until the card has written them to guest RAM.

        Raises:
            DeadlineExpired: it has not in time. SetupBroken: QEMU takes no packets.
        """
        send_packets(self._peer, self._marks, number, _BEFORE_MARK, deadline)
        self._queue.wait_used(deadline, "The arrival of the packets")


def send_packets(peer: Path, marks: Marks, number: int, before: int, deadline: Deadline) -> None:
    """Send the packets of a pass.

    Args:
        peer: the socket where QEMU takes packets.
        marks: those that the packets have.
        number: of the pass.
        before: bytes in front of a mark, so that the card writes it to a multiple of its size.
        deadline: for all packets.

    Raises:
        SetupBroken: QEMU takes no packets.
    """
    head = _ETHERNET.ljust(before, b"\0")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(deadline.remaining())
            for index in range(PACKETS):
                packet = (head + marks.one(number, index)).ljust(_LEAST_BYTES, b"\0")
                sender.sendto(packet, str(peer))
    except OSError as error:
        raise SetupBroken(f"QEMU takes no packets for the guest: {error}.") from error
