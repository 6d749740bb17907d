"""Plays the driver of an EHCI controller with one USB device, which has one bulk endpoint in each direction.

See EHCI 1.0: 2.3 (registers), 3.5 (transfer descriptors), 3.6 (queue heads) and 4.10 (asynchronous schedule).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from harness.errors import SetupBroken
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.board import Board, PciRegisters, has_id
from harness.qemu.guest_memory import GuestMemory
from tests_functional.lib.drivers.disk import Piece
from tests_functional.lib.drivers.usb import IN, OUT, SET_CONFIGURATION
from tests_functional.lib.patience import patient

# QEMU 10.0 hw/usb/hcd-ehci-pci.c, usb-ehci.
_ID = (0x8086, 0x24CD)
# Capability registers, and operational ones from the offset on that the first of these names.
_PORTS = 0x04
_COMMAND, _SCHEDULE, _CONFIGURED, _PORT_STATUS = 0x00, 0x18, 0x40, 0x44
_RUN, _RESET, _GO_THROUGH = 1 << 0, 1 << 1, 1 << 5
_CONNECTED, _ENABLED, _PORT_RESET = 1 << 0, 1 << 2, 1 << 8
# Descriptors: a link, a second one for short transfers, the token, five pages.
_DESCRIPTOR, _DESCRIPTOR_BYTES = "<III5I", 32
_NOWHERE, _QUEUE_HEAD = 1, 1 << 1
_ACTIVE, _ERRORS = 1 << 7, 0b1111000
_OUT_PACKET, _IN_PACKET, _SETUP_PACKET = 0, 1 << 8, 2 << 8
_THREE_TRIES, _SECOND_TOGGLE = 3 << 10, 1 << 31
_MOST_BYTES = 5 * TARGET_PAGE_BYTES
# Queue heads: a link, what the endpoint is, how often it may send, its descriptor of now, and a copy of that.
_HEAD, _HEAD_BYTES = "<IIIIIII5I", 64
_HIGH_SPEED, _TOGGLE_IN_DESCRIPTOR, _HEAD_OF_LIST, _ONCE = 2 << 12, 1 << 14, 1 << 15, 1 << 30
_CONTROL, _CONTROL_PACKET, _BULK_PACKET = 0, 64, 512
_HEADS = (_CONTROL, OUT, IN)
# How many descriptors an endpoint has, in a ring of which one is always free.
_SIZES = {
    _CONTROL: 4,
    OUT: TARGET_PAGE_BYTES // _DESCRIPTOR_BYTES,
    IN: 4 * TARGET_PAGE_BYTES // _DESCRIPTOR_BYTES,
}


class Ehci:
    """The driver; each endpoint has a schedule of its own, and the controller goes through one at a time.

    The device keeps address 0.
    """

    pages = 6
    """Pages of guest RAM that the driver keeps queue heads and descriptors in."""

    def __init__(self, board: Board, memory: GuestMemory, control: int) -> None:
        """Find the controller of a running machine.

        Args:
            board: reaches the devices of a running machine.
            memory: the guest's.
            control: guest-physical address of `pages` for what the driver keeps in RAM.

        Raises:
            SetupBroken: the machine has none.
        """
        self._machine, self._memory = board.machine, memory
        self._heads = {endpoint: control + at * _HEAD_BYTES for at, endpoint in enumerate(_HEADS)}
        # How many descriptors each endpoint was given.
        self._counters = control + len(_HEADS) * _HEAD_BYTES
        self._setup = self._counters + _HEAD_BYTES
        own = self._setup + _HEAD_BYTES
        self._rings = {_CONTROL: own, OUT: control + TARGET_PAGE_BYTES, IN: control + 2 * TARGET_PAGE_BYTES}
        self._given = dict.fromkeys(_HEADS, 0)
        self._registers = PciRegisters(board, "EHCI controller", has_id(*_ID))

    def start(self) -> None:
        """Start the controller, and configure the device.

        Raises:
            SetupBroken: one of them does not answer as it must.
        """
        self._memory.write(self._heads[_CONTROL], bytes(self.pages * TARGET_PAGE_BYTES))
        self._registers.open()
        self._put(_COMMAND, _RESET)
        self._put(_CONFIGURED, 1)
        self._enable_port()
        for endpoint in _HEADS:
            self._lay_out(endpoint)
        self._memory.write(self._setup, SET_CONFIGURATION)
        self._give(_CONTROL, _SETUP_PACKET, [(self._setup, len(SET_CONFIGURATION))])
        self._give(_CONTROL, _IN_PACKET | _SECOND_TOGGLE, [(0, 0)])
        self.ring(_CONTROL)
        self._wait(_CONTROL)

    def resume(self) -> None:
        """Find out from guest RAM how many descriptors each endpoint was given."""
        found = struct.unpack("<III", self._memory.read(self._counters, 12))
        self._given = dict(zip(_HEADS, found, strict=True))

    def add(self, endpoint: int, transfers: Sequence[tuple[int, int]]) -> None:
        """Give an endpoint transfers, of which the end of the last one is reported.

        Args:
            endpoint: IN or OUT.
            transfers: guest-physical address and bytes of each.

        Raises:
            PageProtected: a background snapshot protects the descriptors.
        """
        # A part between two multiples of five pages lies in no more than five.
        parts = [part for transfer in transfers for part in Piece(*transfer).cut(_MOST_BYTES)]
        packet = _IN_PACKET if endpoint == IN else _OUT_PACKET
        self._give(endpoint, packet, [(part.address, part.size) for part in parts])

    def ring(self, endpoint: int) -> None:
        """Have the controller go through an endpoint's schedule; before that of IN, through that of OUT.

        Raises:
            SetupBroken: a transfer has failed, or does not end.
        """
        if endpoint == IN:
            self._wait(OUT)
        self._put(_COMMAND, _RUN)
        self._put(_SCHEDULE, self._heads[endpoint])
        self._put(_COMMAND, _RUN | _GO_THROUGH)

    def reported(self, endpoint: int) -> bool:
        """Return whether the last transfer of an endpoint has ended.

        Raises:
            SetupBroken: one has failed.
        """
        token = self._token(self._heads[endpoint] + 16)
        if token & _ERRORS and not token & _ACTIVE:
            raise SetupBroken(f"The guest's EHCI controller reports a failed transfer by token {token:#x}.")
        if self._token(self._place(endpoint, self._given[endpoint] - 1)) & _ACTIVE:
            return False
        # So that it does not begin with a transfer from the device that is given before the command for it.
        self._put(_COMMAND, _RUN)
        return True

    def _wait(self, endpoint: int) -> None:
        with patient(self._machine) as deadline:
            deadline.wait_for(lambda: self.reported(endpoint), "The answer of the guest's EHCI controller")

    def _enable_port(self) -> None:
        """Reset the port that the device is at, which enables it; raises SetupBroken where there is none."""
        for port in range(self._registers.get(_PORTS) & 0xF):
            register = _PORT_STATUS + 4 * port
            status = self._get(register)
            if status & _CONNECTED:
                self._put(register, status | _PORT_RESET)
                self._put(register, status)
                if self._get(register) & _ENABLED:
                    return
        raise SetupBroken("The guest's EHCI controller has no fast device at any port.")

    def _lay_out(self, endpoint: int) -> None:
        """Write an endpoint's queue head, which is a schedule alone, and its ring without a transfer."""
        head = self._heads[endpoint]
        packet = _BULK_PACKET << 16 | endpoint >> 1 << 8
        if endpoint == _CONTROL:
            packet = _CONTROL_PACKET << 16 | _TOGGLE_IN_DESCRIPTOR
        about = packet | _HIGH_SPEED | _HEAD_OF_LIST
        first = self._place(endpoint, 0)
        body = struct.pack(_HEAD, head | _QUEUE_HEAD, about, _ONCE, 0, first, _NOWHERE, 0, *(0,) * 5)
        self._memory.write(head, body)
        ring = [self._descriptor(endpoint, number, 0, 0, 0) for number in range(_SIZES[endpoint])]
        self._memory.write(first, b"".join(ring))

    def _give(self, endpoint: int, packet: int, parts: Sequence[tuple[int, int]]) -> None:
        """Give an endpoint descriptors, of some kind of packet; the controller sees all of them or none."""
        first = self._given[endpoint]
        for number, (address, size) in reversed(list(enumerate(parts, first))):
            token = packet | size << 16 | _THREE_TRIES | _ACTIVE
            body = self._descriptor(endpoint, number, token, address, size)
            self._memory.write(self._place(endpoint, number), body)
        self._given[endpoint] += len(parts)
        self._memory.write(self._counters, struct.pack("<III", *self._given.values()))

    def _descriptor(self, endpoint: int, number: int, token: int, address: int, size: int) -> bytes:
        """Return a descriptor, by how many the endpoint was given before it."""
        pages = [part.address for part in Piece(address, size).cut(TARGET_PAGE_BYTES)]
        pages += [0] * (5 - len(pages))
        return struct.pack(_DESCRIPTOR, self._place(endpoint, number + 1), _NOWHERE, token, *pages)

    def _place(self, endpoint: int, number: int) -> int:
        return self._rings[endpoint] + number % _SIZES[endpoint] * _DESCRIPTOR_BYTES

    def _token(self, descriptor: int) -> int:
        return int(struct.unpack("<I", self._memory.read(descriptor + 8, 4))[0])

    def _get(self, register: int) -> int:
        return self._registers.get(self._registers.get(0, 1) + register)

    def _put(self, register: int, value: int) -> None:
        self._registers.put(self._registers.get(0, 1) + register, value)
