"""Gives a bare guest packets: its network card writes them to guest RAM, and the host plays the driver."""

from __future__ import annotations

import contextlib
import socket

from guest_images.agent.bare_agent import free_ram_at
from harness.deadline import Deadline
from harness.guest.shell import GuestUnreachable
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.configuration import MIB
from harness.qemu.guest_memory import GuestMemory, PageProtected
from harness.qemu.machine import Machine
from harness.qemu.virtio_driver import Buffer, Queue, VirtioDevice

_NETWORK_CARD = 1
# Each packet has a page of its own, so that each is a write to another protected page.
_BUFFERS = 64
_BUFFER_BYTES = 2048
_CONNECT_SECONDS = 1.0
_POLL_SECONDS = 0.02


class BareNic:
    """The network card of a bare guest whose `Stack` has one; its state is in guest RAM and in QEMU."""

    def __init__(self, machine: Machine) -> None:
        """Find the card's queue in the RAM of a running machine.

        Raises:
            MachineryMissing: QEMU's process id is not known.
        """
        self._machine = machine
        base = free_ram_at(machine.config.machine, machine.config.ram_mib * MIB)
        self._queue = Queue(GuestMemory(machine), base, _BUFFERS)

    def start(self) -> None:
        """Set the card up, as the guest's driver would; a restored guest has it set up already.

        Raises:
            SetupBroken: the card cannot be set up.
        """
        device = VirtioDevice(self._machine, _NETWORK_CARD)
        pages = (self._queue.end + number * TARGET_PAGE_BYTES for number in range(_BUFFERS))
        self._queue.lay_out([[Buffer(address, _BUFFER_BYTES)] for address in pages])
        device.start(self._queue)
        self._queue.offer(_BUFFERS)
        device.notify()

    def received(self) -> int:
        """Return how many packets the card has written to guest RAM so far, modulo 65,536."""
        return self._queue.used_count()

    def poke(self) -> None:
        """Have QEMU send the guest a packet, by a connection to a port that it forwards.

        QEMU asks the guest for its address first (ARP); this packet is the one that arrives.
        """
        # While the ring is protected the card has what it was offered before.
        with contextlib.suppress(PageProtected):
            self._queue.offer(self.received() + _BUFFERS)
        with contextlib.suppress(OSError):
            socket.create_connection(self._machine.ssh, _CONNECT_SECONDS).close()

    def wait_received(self, deadline: Deadline) -> None:
        """Wait until the card has written another packet to guest RAM.

        Raises:
            GuestUnreachable: it does not in time.
        """
        before = self.received()
        while self.received() == before:
            if deadline.expired or not self._machine.alive():
                raise GuestUnreachable(
                    f"The guest's network card wrote no packet to guest RAM within {deadline.seconds:.0f} s."
                )
            self.poke()
            deadline.nap(_POLL_SECONDS)
