"""Plays the driver of a virtio-net card of a bare guest, with a queue in each direction (VIRTIO 1.2, 5.1)."""

from __future__ import annotations

from guest_images.agent.bare_agent import free_ram_at
from harness.deadline import Deadline
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.configuration import MIB
from harness.qemu.guest_memory import GuestMemory
from harness.qemu.machine import Machine
from harness.qemu.virtio_driver import Buffer, Queue, VirtioDevice
from tests_functional.in_flight.device_queue import Progress, progress
from tests_functional.in_flight.used import UsedChains

FRAME_BYTES = 60
"""Bytes of each frame that the guest sends: the shortest one of Ethernet."""

_NUMBER = 1
_TRANSMIT = 1
_SIZE = 128
_BUFFER_BYTES = 2048
# VIRTIO 1.2, 5.1.6: the header in front of each frame.
_HEADER_BYTES = 12


class VirtioNic:
    """The driver; what it knows is in guest RAM, but for how many frames it has seen."""

    def __init__(self, machine: Machine) -> None:
        """Find the card of a running machine.

        Raises:
            SetupBroken: the machine has none.
        """
        self._machine = machine
        self._memory = GuestMemory(machine)
        base = free_ram_at(machine.config.machine, machine.config.ram_mib * MIB)
        self._receive = Queue(self._memory, base, _SIZE)
        self._transmit = Queue(self._memory, self._receive.end, _SIZE)
        self._in = self._transmit.end
        self._out = self._in + _SIZE * _BUFFER_BYTES
        self.end = self._out + _SIZE * TARGET_PAGE_BYTES
        """Guest-physical address behind all that the driver keeps in RAM."""
        self._device = VirtioDevice(machine, _NUMBER)
        self._used = UsedChains(self._receive)

    def start(self, *, buffers: bool) -> None:
        """Set both queues up.

        Args:
            buffers: whether the device is given buffers to receive into.
        """
        inward = [[Buffer(self._in + at * _BUFFER_BYTES, _BUFFER_BYTES)] for at in range(_SIZE)]
        size = _HEADER_BYTES + FRAME_BYTES
        outward = [[Buffer(self._out + at * TARGET_PAGE_BYTES, size, written=False)] for at in range(_SIZE)]
        self._receive.lay_out(inward)
        self._transmit.lay_out(outward)
        self._device.start(self._receive, further={_TRANSMIT: self._transmit})
        if buffers:
            self.allow(_SIZE)

    @property
    def position(self) -> int:
        """Return how many frames the driver has seen, modulo 65,536; see `resume`."""
        return self._used.position

    def resume(self, position: int) -> None:
        """Go on where the driver was."""
        self._used.position = position

    def allow(self, count: int) -> None:
        """Give the device so many buffers in all that the driver has not seen; raises PageProtected."""
        self._receive.offer(self._used.position + count)
        self._device.notify()

    def give_back(self) -> None:
        """Give the device all buffers whose frames the driver has seen; raises PageProtected."""
        self.allow(_SIZE)

    def unseen(self) -> int:
        """Return how many frames the driver has not seen."""
        return self._used.unseen()

    def take(self, count: int, deadline: Deadline) -> list[bytes]:
        """Return the frames that the driver has not seen.

        Args:
            count: how many are expected. It is waited for them, and for more that come soon.
            deadline: for them.
        """
        return [self._frame(*chain) for chain in self._used.take(count, deadline)]

    def put(self, frame: bytes) -> None:
        """Offer the device a frame of at most FRAME_BYTES, without telling it; raises PageProtected."""
        slot = self._transmit.offered_count() % _SIZE
        data = bytes(_HEADER_BYTES) + frame.ljust(FRAME_BYTES, b"\0")
        self._memory.write(self._out + slot * TARGET_PAGE_BYTES, data)
        self._transmit.offer_chain(slot)

    def tell(self) -> None:
        """Tell the device of the frames that it was offered."""
        self._device.notify(_TRANSMIT)

    def sending(self) -> Progress:
        """Return how far the device is with the frames that it was offered."""
        return progress(self._machine, "virtio-net", _TRANSMIT, self._transmit)

    def _frame(self, first: int, size: int) -> bytes:
        return self._memory.read(self._in + first * _BUFFER_BYTES, size)[_HEADER_BYTES:]
