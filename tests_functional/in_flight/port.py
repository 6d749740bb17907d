"""A port of a virtio-serial device of a bare guest, whose driver the host plays: bytes in both directions.

See VIRTIO 1.2, 5.3. It is no console: of what a console's far end does not take, QEMU drops the rest
(QEMU 10.0 hw/char/virtio-console.c flush_buf()).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from guest_images.agent.bare_agent import free_ram_at
from harness.deadline import Deadline
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.configuration import MIB
from harness.qemu.guest_memory import GuestMemory
from harness.qemu.machine import Machine
from harness.qemu.virtio_driver import Buffer, Queue, VirtioDevice
from tests_functional.in_flight.numbers import Counts, Numbers
from tests_functional.in_flight.pipes import PIPE_PAGE_BYTES, Pipes
from tests_functional.in_flight.stream import InFlight
from tests_functional.in_flight.used import UsedChains
from tests_functional.in_flight.words import WORD_BYTES, packed, unpacked

_NUMBER = 3
# VIRTIO 1.2, 5.3.2 and 5.3.3: the queues to the device about its ports and those of port 1, and the feature
# VIRTIO_CONSOLE_F_MULTIPORT.
_CONTROL, _RECEIVE, _TRANSMIT = 3, 4, 5
_FEATURE_MULTIPORT = 1 << 1
# VIRTIO 1.2, 5.3.6.2: port, event and value of what the driver says: it is ready, so is
# port 1, which is open.
_PORT = 1
_SAID = ((0, 0, 1), (_PORT, 3, 1), (_PORT, 6, 1))
_SAID_BYTES = 8
_IN_BUFFERS, _IN_BYTES = 32, 16
_PER_BUFFER = _IN_BYTES // WORD_BYTES

IN_COUNTS = Counts(consumed=_PER_BUFFER, in_flight=3 * _PER_BUFFER, later=_PER_BUFFER)
"""A buffer that the guest has seen, three that it has not, and one that is filled later."""

OUT_COUNTS = Counts(consumed=16, in_flight=3 * PIPE_PAGE_BYTES // WORD_BYTES, later=16)
"""What is in flight are three pages of the pipe, of which it takes one."""

_OUT_QUEUE = 4
_START_SECONDS = 10.0
# The first descriptors of the chains that the guest sends; what is in flight has two buffers.
_CONSUMED, _IN_FLIGHT, _LATER = 0, 1, 3


class _Port:
    def __init__(self, machine: Machine, far: Pipes) -> None:
        self._far = far
        self._memory = GuestMemory(machine)
        base = free_ram_at(machine.config.machine, machine.config.ram_mib * MIB)
        self._receive = Queue(self._memory, base, _IN_BUFFERS)
        self._transmit = Queue(self._memory, self._receive.end, _OUT_QUEUE)
        self._control = Queue(self._memory, self._transmit.end, _OUT_QUEUE)
        self._said = self._control.end
        self._in = self._said + TARGET_PAGE_BYTES
        self._consumed = self._in + TARGET_PAGE_BYTES
        self._later = self._consumed + TARGET_PAGE_BYTES
        self._flight = self._later + TARGET_PAGE_BYTES
        self._device = VirtioDevice(machine, _NUMBER, _RECEIVE)
        self._used = UsedChains(self._receive)

    def start(self) -> None:
        """Set the queues up, open the port, and give the device all buffers to receive into."""
        buffers = [Buffer(self._in + at * _IN_BYTES, _IN_BYTES) for at in range(_IN_BUFFERS)]
        self._receive.lay_out([[buffer] for buffer in buffers])
        half = OUT_COUNTS.in_flight * WORD_BYTES // 2
        self._transmit.lay_out(
            [
                [Buffer(self._consumed, OUT_COUNTS.consumed * WORD_BYTES, written=False)],
                [Buffer(self._flight + at * half, half, written=False) for at in (0, 1)],
                [Buffer(self._later, OUT_COUNTS.later * WORD_BYTES, written=False)],
            ]
        )
        said = [Buffer(self._said + at * _SAID_BYTES, _SAID_BYTES, written=False) for at in range(len(_SAID))]
        self._memory.write(self._said, b"".join(struct.pack("<IHH", *words) for words in _SAID))
        self._control.lay_out([[buffer] for buffer in said])
        further = {_TRANSMIT: self._transmit, _CONTROL: self._control}
        self._device.start(self._receive, _FEATURE_MULTIPORT, further)
        self._control.offer(len(_SAID))
        self._device.notify(_CONTROL)
        self._control.wait_used(Deadline(_START_SECONDS), "The opening of the port")
        self._receive.offer(_IN_BUFFERS)
        self._device.notify()

    def resume(self, position: int) -> None:
        """Go on where the driver was with the queue that it receives from."""
        self._used.position = position


class PortIn(_Port):
    """Bytes towards the guest; in flight they are in used buffers."""

    def fill(self, numbers: Numbers, deadline: Deadline) -> InFlight:
        """Send bytes, and have the guest see the first buffer."""
        self.send(numbers.consumed, deadline)
        self._used.take(len(numbers.consumed) // _PER_BUFFER, deadline)
        self.send(numbers.in_flight, deadline)
        return InFlight(numbers.in_flight, self._used.position)

    def send(self, numbers: Sequence[int], deadline: Deadline) -> None:
        """Send bytes, and wait until QEMU has read them."""
        self._far.send(packed(numbers), deadline)

    def deliver(self, count: int, deadline: Deadline) -> list[int]:
        """Have the guest see all used buffers."""
        found = b""
        for first, size in self._used.take(count // _PER_BUFFER, deadline):
            found += self._memory.read(self._in + first * _IN_BYTES, size)
        return unpacked(found)


class PortOut(_Port):
    """Bytes from the guest; in flight is the rest of a buffer of which the far end has taken a part."""

    def fill(self, numbers: Numbers, deadline: Deadline) -> InFlight:
        """Have the guest send more than the far end takes."""
        self._offer(_CONSUMED, self._consumed, numbers.consumed)
        self._far.receive(len(numbers.consumed) * WORD_BYTES, deadline)
        self._far.fill(PIPE_PAGE_BYTES)
        self._offer(_IN_FLIGHT, self._flight, numbers.in_flight)
        deadline.wait_for(lambda: self._far.waiting() == PIPE_PAGE_BYTES, "The filling of the pipe")
        return InFlight(numbers.in_flight[PIPE_PAGE_BYTES // WORD_BYTES :])

    def send(self, numbers: Sequence[int], _deadline: Deadline) -> None:
        """Have the guest send bytes."""
        self._offer(_LATER, self._later, numbers)

    def deliver(self, count: int, deadline: Deadline) -> list[int]:
        """Have the far end take all bytes."""
        return unpacked(self._far.receive(count * WORD_BYTES, deadline))

    def _offer(self, chain: int, place: int, numbers: Sequence[int]) -> None:
        self._memory.write(place, packed(numbers))
        self._transmit.offer_chain(chain)
        self._device.notify(_TRANSMIT)
