"""Plays the drivers of network cards with rings of descriptors, which receive marked packets.

See PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual, 3.2 (e1000), and the data
sheet of the RTL8139C+, 9 (C+ mode), with hw/net/rtl8139.c of QEMU 10.0.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.deadline import Deadline
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.board import Board, PciRegisters, has_id
from tests_functional.foreign_writers.marks import MARK_BYTES, Marks
from tests_functional.foreign_writers.packets import PACKETS, send_packets
from tests_functional.foreign_writers.target import Target

_DESCRIPTOR_BYTES = 16
# A full ring of an e1000 looks like an empty one, so it has room for two passes.
_DESCRIPTORS = 2 * PACKETS
_BUFFER_BYTES = 2048
_POLL_SECONDS = 0.002


@dataclass(frozen=True)
class Card:
    """A kind of network card.

    Attributes:
        name: for errors.
        id: PCI vendor and device.
        bar: number of the base address register of its registers in memory.
        registers: what starts it with a ring at an address: register, value and size of each.
        tail: the register with the number of the first descriptor that the card does not have, None where
            each descriptor says whose it is.
        descriptor: makes one that the card has, of its number and the address of its buffer.
        done: returns whether a descriptor's packet has arrived.
    """

    name: str
    id: tuple[int, int]
    bar: int
    registers: Callable[[int], Sequence[tuple[int, int, int]]]
    tail: int | None
    descriptor: Callable[[int, int], bytes]
    done: Callable[[bytes], bool]


_E1000_TAIL = 0x2818
_E1000_ENABLE, _E1000_UNICAST, _E1000_BROADCAST = 1 << 1, 1 << 3, 1 << 15

E1000 = Card(
    "e1000 card",
    (0x8086, 0x100E),
    0,
    lambda ring: (
        (0x2800, ring, 4),
        (0x2804, 0, 4),
        (0x2808, _DESCRIPTORS * _DESCRIPTOR_BYTES, 4),
        (0x2810, 0, 4),
        (_E1000_TAIL, 0, 4),
        # Buffers of 2,048 bytes are the default.
        (0x100, _E1000_ENABLE | _E1000_UNICAST | _E1000_BROADCAST, 4),
    ),
    _E1000_TAIL,
    lambda _, address: struct.pack("<QQ", address, 0),
    lambda descriptor: bool(descriptor[12] & 1),
)

_OWN, _END_OF_RING = 1 << 31, 1 << 30

RTL8139 = Card(
    "RTL8139 card",
    (0x10EC, 0x8139),
    1,
    lambda ring: (
        # Receiving in C+ mode; the ring; broadcasts and all packets to it; and the receiver.
        (0xE0, 1 << 1, 2),
        (0xE4, ring, 4),
        (0xE8, 0, 4),
        (0x44, 1 << 3 | 1, 4),
        (0x37, 1 << 3, 1),
    ),
    None,
    lambda number, address: struct.pack(
        "<IIQ", _OWN | (_END_OF_RING if number == _DESCRIPTORS - 1 else 0) | _BUFFER_BYTES, 0, address
    ),
    lambda descriptor: not descriptor[3] & _OWN >> 24,
)
"""A card whose descriptors say themselves whether the card has them."""


class CardPackets:
    """The driver and the sender; the driver's ring is in guest RAM, and how many passes it has offered."""

    pages = PACKETS

    def __init__(self, card: Card, board: Board, target: Target, marks: Marks, socket: Path) -> None:
        """Find the card of a running machine.

        Args:
            card: its kind.
            board: reaches the devices of a running machine.
            target: the pages that the packets arrive in.
            marks: those that the packets have.
            socket: where QEMU takes packets, of its place.

        Raises:
            SetupBroken: the machine has no card.
        """
        self._card, self._memory, self._ring, self._data = card, target.memory, target.control, target.data
        self._offered = self._ring + _DESCRIPTORS * _DESCRIPTOR_BYTES
        self._marks, self._socket = marks, socket
        self._registers = PciRegisters(board, card.name, has_id(*card.id))

    def start(self) -> None:
        """Set the card up, as the guest's driver would; without descriptors of its own."""
        self._registers.open(self._card.bar)
        self._memory.write(self._ring, bytes(_DESCRIPTORS * _DESCRIPTOR_BYTES + 4))
        for register, value, size in self._card.registers(self._ring):
            self._registers.put(register, value, size)

    def offer(self, _number: int) -> None:
        """Give the card room for the packets of a pass.

        Raises:
            PageProtected: a background snapshot protects a page of the driver.
        """
        first = self._passes() * PACKETS
        for number in range(PACKETS):
            at = (first + number) % _DESCRIPTORS
            descriptor = self._card.descriptor(at, self._data + number * TARGET_PAGE_BYTES)
            self._memory.write(self._ring + at * _DESCRIPTOR_BYTES, descriptor)
        self._memory.write(self._offered, struct.pack("<I", self._passes() + 1))
        if self._card.tail is not None:
            self._registers.put(self._card.tail, (first + PACKETS) % _DESCRIPTORS)

    def write(self, number: int, deadline: Deadline) -> None:
        """Send the packets of a pass, and wait until the card has written them to guest RAM.

        Raises:
            DeadlineExpired: it has not in time. SetupBroken: QEMU takes no packets.
        """
        # Its last descriptor is done when all are: the card takes them in turn.
        last = self._ring + (self._passes() * PACKETS - 1) % _DESCRIPTORS * _DESCRIPTOR_BYTES
        send_packets(self._socket, self._marks, number, MARK_BYTES, deadline)
        deadline.wait_for(
            lambda: self._card.done(self._memory.read(last, _DESCRIPTOR_BYTES)),
            "The arrival of the packets",
            interval=_POLL_SECONDS,
        )

    def _passes(self) -> int:
        return int(struct.unpack("<I", self._memory.read(self._offered, 4))[0])
