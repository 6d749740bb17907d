"""Plays the driver of a virtio-mem device in a bare guest, from outside: it plugs memory in and out."""

from __future__ import annotations

import struct

from guest_images.agent.bare_agent import free_ram_at
from harness.deadline import Deadline
from harness.errors import DeadlineExpired, SetupBroken
from harness.qemu.configuration import MIB
from harness.qemu.guest_memory import GuestMemory
from harness.qemu.machine import Machine
from harness.qemu.virtio_driver import Buffer, Queue, VirtioDevice

_NUMBER = 24
# VIRTIO 1.2, 5.15.3: memory that is not plugged in may be inaccessible, which QEMU can demand of a driver.
_UNPLUGGED_INACCESSIBLE = 1 << 1
# VIRTIO 1.2, 5.15.6: requests and the answer to one that was carried out.
_PLUG, _UNPLUG, _ACK = 0, 1, 0
_REQUEST_BYTES, _ANSWER_BYTES = 24, 10
_QUEUE_SIZE = 4
_SECONDS = 10.0

PIECE_MIB = 16
"""Memory is plugged in and out in pieces of so many MiB, each a multiple of the device's own block."""


class BareVirtioMem:
    """The driver; one for each device and boot."""

    def __init__(self, machine: Machine, address: int, block_bytes: int) -> None:
        """Set the device up.

        Args:
            machine: QEMU.
            address: guest-physical address of the device's memory.
            block_bytes: the device's block.

        Raises:
            SetupBroken: the device does not accept that.
        """
        self._address = address
        self._blocks = PIECE_MIB * MIB // block_bytes
        self._memory = GuestMemory(machine)
        base = free_ram_at(machine.config.machine, machine.config.ram_mib * MIB)
        self._queue = Queue(self._memory, base, _QUEUE_SIZE)
        self._request = self._queue.end
        self._answer = self._request + _REQUEST_BYTES
        self._queue.lay_out(
            [[Buffer(self._request, _REQUEST_BYTES, written=False), Buffer(self._answer, _ANSWER_BYTES)]]
        )
        self._device = VirtioDevice(machine, _NUMBER)
        self._device.start(self._queue, _UNPLUGGED_INACCESSIBLE)
        self._asked = 0
        self._plugged: frozenset[int] = frozenset()

    def plug(self, wanted: frozenset[int]) -> None:
        """Plug pieces in and out until exactly these are plugged in; QEMU must have asked for as much.

        Args:
            wanted: numbers of pieces of PIECE_MIB.

        Raises:
            SetupBroken: the device refuses.
        """
        for piece in sorted(self._plugged - wanted):
            self._ask(_UNPLUG, piece)
        for piece in sorted(wanted - self._plugged):
            self._ask(_PLUG, piece)
        self._plugged = wanted

    def _ask(self, request: int, piece: int) -> None:
        address = self._address + piece * PIECE_MIB * MIB
        self._memory.write(self._request, struct.pack("<H6xQH6x", request, address, self._blocks))
        self._asked += 1
        self._queue.offer(self._asked)
        self._device.notify()
        try:
            self._queue.wait_used(Deadline(_SECONDS), "virtio-mem's answer")
        except DeadlineExpired as error:
            raise SetupBroken(f"The virtio-mem device does not answer. {error}") from error
        (found,) = struct.unpack("<H", self._memory.read(self._answer, 2))
        if found != _ACK:
            what = "in" if request == _PLUG else "out"
            raise SetupBroken(
                f"The virtio-mem device does not plug piece {piece} {what}: it answers {found}."
            )
