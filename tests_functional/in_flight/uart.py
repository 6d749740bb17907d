"""A UART (16550A) of a bare guest, whose driver the host plays through its I/O ports.

See PC16550D, 8.0 (registers), and QEMU 10.0 hw/char/serial.c.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.deadline import Deadline
from harness.qemu.io_ports import read_port, write_port
from harness.qemu.machine import Machine
from tests_functional.in_flight.numbers import Counts, Numbers
from tests_functional.in_flight.pipes import Pipes
from tests_functional.in_flight.stream import InFlight

PORT = 0x2F8
"""The ports of the second UART of a PC; the first one is the guest's console."""

COUNTS = Counts(consumed=4, in_flight=10, later=4)
"""Those of before T0 are as many as QEMU takes into the FIFO of 16 bytes: up to its trigger level."""

_DATA, _FIFO_CONTROL, _LINE_STATUS = 0, 2, 5
# The trigger level is 14 bytes.
_FIFO_ENABLE, _DATA_READY = 0xC1, 1
_QUIET_READS = 8
_POLL_SECONDS = 0.01


class _Uart:
    def __init__(self, machine: Machine, far: Pipes) -> None:
        self._machine = machine
        self._far = far

    def start(self) -> None:
        """Turn the FIFOs on."""
        write_port(self._machine, PORT + _FIFO_CONTROL, 1, _FIFO_ENABLE)

    def resume(self, _position: int) -> None:
        """Do nothing: all that the driver knows is in the device."""


class UartIn(_Uart):
    """Bytes towards the guest; in flight they are in the receive FIFO."""

    def fill(self, numbers: Numbers, deadline: Deadline) -> InFlight:
        """Send bytes, and have the guest read some."""
        self.send(numbers.before, deadline)
        for _ in numbers.consumed:
            self._read()
        return InFlight(numbers.in_flight)

    def send(self, numbers: Sequence[int], deadline: Deadline) -> None:
        """Send bytes, and wait until QEMU has put them into the FIFO."""
        self._far.send(bytes(numbers), deadline)

    def deliver(self, count: int, deadline: Deadline) -> list[int]:
        """Have the guest read all bytes of the FIFO."""
        found: list[int] = []
        quiet = 0
        while quiet < _QUIET_READS and not (deadline.expired and len(found) < count):
            if read_port(self._machine, PORT + _LINE_STATUS, 1) & _DATA_READY:
                found.append(self._read())
                quiet = 0
            else:
                quiet += len(found) >= count
                deadline.nap(_POLL_SECONDS)
        return found

    def _read(self) -> int:
        return read_port(self._machine, PORT + _DATA, 1)


class UartOut(_Uart):
    """Bytes from the guest; in flight they are in the transmit FIFO, and one in the shift register."""

    def fill(self, numbers: Numbers, deadline: Deadline) -> InFlight:
        """Send bytes, the last of them where the far end takes no more."""
        self.send(numbers.consumed, deadline)
        self._far.receive(len(numbers.consumed), deadline)
        self._far.fill()
        self.send(numbers.in_flight, deadline)
        return InFlight(numbers.in_flight)

    def send(self, numbers: Sequence[int], _deadline: Deadline) -> None:
        """Have the guest send bytes."""
        for number in numbers:
            write_port(self._machine, PORT + _DATA, 1, number)

    def deliver(self, count: int, deadline: Deadline) -> list[int]:
        """Have the far end take all bytes."""
        return list(self._far.receive(count, deadline))
