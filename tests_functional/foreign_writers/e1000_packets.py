"""Plays the driver of an e1000 network card that receives marked packets.

See PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual, 3.2 (receive descriptors).
"""

from __future__ import annotations

import struct
from pathlib import Path

from harness.deadline import Deadline
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.board import Board, PciRegisters, has_id
from tests_functional.foreign_writers.marks import MARK_BYTES, Marks
from tests_functional.foreign_writers.packets import PACKETS, send_packets
from tests_functional.foreign_writers.target import Target

_ID = (0x8086, 0x100E)
_RECEIVE_CONTROL, _RING, _RING_BYTES, _HEAD, _TAIL = 0x100, 0x2800, 0x2808, 0x2810, 0x2818
# Buffers of 2,048 bytes are the default.
_ENABLE, _UNICAST, _BROADCAST = 1 << 1, 1 << 3, 1 << 15
_DESCRIPTOR_BYTES, _STATUS, _DONE = 16, 12, 1
# A full ring looks like an empty one, so it has room for two passes.
_DESCRIPTORS = 2 * PACKETS
_POLL_SECONDS = 0.002


class E1000Packets:
    """The driver and the sender; the driver's ring is in guest RAM, and its place in it in the card."""

    pages = PACKETS

    def __init__(self, board: Board, target: Target, marks: Marks, socket: Path) -> None:
        """Find the card of a running machine.

        Args:
            board: reaches the devices of a running machine.
            target: the pages that the packets arrive in.
            marks: those that the packets have.
            socket: where QEMU takes packets, of its place.

        Raises:
            SetupBroken: the machine has no card.
        """
        self._memory, self._ring, self._data = target.memory, target.control, target.data
        self._marks, self._socket = marks, socket
        self._registers = PciRegisters(board, "e1000 card", has_id(*_ID))

    def start(self) -> None:
        """Set the card up, as the guest's driver would."""
        self._registers.open()
        ring = [
            struct.pack("<QQ", self._data + number % PACKETS * TARGET_PAGE_BYTES, 0)
            for number in range(_DESCRIPTORS)
        ]
        self._memory.write(self._ring, b"".join(ring))
        for register, value in (
            (_RING, self._ring),
            (_RING + 4, 0),
            (_RING_BYTES, _DESCRIPTORS * _DESCRIPTOR_BYTES),
            (_HEAD, 0),
            (_TAIL, 0),
            (_RECEIVE_CONTROL, _ENABLE | _UNICAST | _BROADCAST),
        ):
            self._registers.put(register, value)

    def offer(self, _number: int) -> None:
        """Give the card room for the packets of a pass.

        Raises:
            PageProtected: a background snapshot protects a page of the driver.
        """
        first = self._registers.get(_TAIL)
        for number in range(first, first + PACKETS):
            self._memory.write(self._descriptor(number) + 8, bytes(8))
        self._registers.put(_TAIL, (first + PACKETS) % _DESCRIPTORS)

    def write(self, number: int, deadline: Deadline) -> None:
        """Send the packets of a pass, and wait until the card has written them to guest RAM.

        Raises:
            DeadlineExpired: it has not in time. SetupBroken: QEMU takes no packets.
        """
        # Its last descriptor is done when all are: the card takes them in turn.
        last = self._descriptor(self._registers.get(_TAIL) + _DESCRIPTORS - 1)
        send_packets(self._socket, self._marks, number, MARK_BYTES, deadline)
        deadline.wait_for(
            lambda: bool(self._memory.read(last + _STATUS, 1)[0] & _DONE),
            "The arrival of the packets",
            interval=_POLL_SECONDS,
        )

    def _descriptor(self, number: int) -> int:
        return self._ring + number % _DESCRIPTORS * _DESCRIPTOR_BYTES
