"""Plays the driver of an xHCI controller with one USB device, which has one bulk endpoint in each direction.

See xHCI 1.2: 4.2 (start), 4.3 (devices), 5 (registers), 6 (structures in memory).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.board import Board, PciRegisters, has_id
from harness.qemu.guest_memory import GuestMemory
from tests_functional.lib.drivers.disk import Piece
from tests_functional.lib.drivers.usb import IN, OUT, SET_CONFIGURATION
from tests_functional.lib.patience import patient

# QEMU 10.0 hw/usb/hcd-xhci-pci.c, qemu-xhci.
_ID = (0x1B36, 0x000D)
# Capability registers, and operational ones from the offset on that the first of these names.
_PORTS, _DOORBELLS_AT, _RUNTIME_AT = 0x04, 0x14, 0x18
_COMMAND, _COMMAND_RING, _CONTEXTS, _SLOTS, _PORT_STATUS = 0x00, 0x18, 0x30, 0x38, 0x400
_RUN, _RESET = 1, 2
_CONNECTED, _ENABLED, _PORT_RESET = 1 << 0, 1 << 1, 1 << 4
# Registers of the first interrupter, in the runtime registers.
_SEGMENTS, _SEGMENT_TABLE, _DEQUEUE = 0x28, 0x30, 0x38
# Types of a transfer request block, in its bits 10 to 15.
_NORMAL, _SETUP, _STATUS_STAGE, _ENABLE_SLOT, _ADDRESS, _CONFIGURE = 1, 2, 4, 9, 11, 12
_TRANSFER_EVENT, _COMMAND_EVENT = 32, 33
_CYCLE, _REPORT, _IMMEDIATE, _TO_HOST = 1 << 0, 1 << 5, 1 << 6, 1 << 16
_SUCCESS = 1
_BLOCK_BYTES, _EVENTS = 16, 256
_CONTROL = 1
# Types of endpoints, and the longest packet of each at "super speed".
_CONTROL_TYPE, _IN_TYPE, _OUT_TYPE = 4, 6, 2
_CONTROL_PACKET, _BULK_PACKET = 512, 1024
_CONTEXT_BYTES = 32
# A block of a ring crosses no multiple of 64 KiB (xHCI 1.2, 6.4.1).
_MOST_BYTES = 64 << 10
_RING_BYTES = {IN: 2 * TARGET_PAGE_BYTES, OUT: TARGET_PAGE_BYTES}


class Xhci:
    """The driver; the controller's rings and contexts are in guest RAM, and no ring is used twice."""

    pages = 9
    """Pages of guest RAM that the driver keeps its rings and contexts in."""

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
        pages = [control + page * TARGET_PAGE_BYTES for page in range(self.pages)]
        self._contexts, self._commands, self._events, self._input, self._output, self._control = pages[:6]
        self._rings = {OUT: pages[6], IN: pages[7]}
        self._used = {OUT: 0, IN: 0}
        self._registers = PciRegisters(board, "xHCI controller", has_id(*_ID))
        self._commanded, self._slot = 0, 1

    def start(self) -> None:
        """Start the controller, and configure the device.

        Raises:
            SetupBroken: one of them does not answer as it must.
        """
        self._memory.write(self._contexts, bytes(self.pages * TARGET_PAGE_BYTES))
        self._registers.open()
        operational = self._registers.get(0, 1)
        self._start_controller(operational)
        port = self._find_port(operational)
        self._slot = self._order(_ENABLE_SLOT, 0) >> 24
        self._memory.write(self._contexts + 8 * self._slot, struct.pack("<Q", self._output))
        self._give_input({_CONTROL: _endpoint(_CONTROL_TYPE, _CONTROL_PACKET, self._control)}, port)
        self._order(_ADDRESS, self._input)
        self._configure_device()
        bulk = {
            IN: _endpoint(_IN_TYPE, _BULK_PACKET, self._rings[IN]),
            OUT: _endpoint(_OUT_TYPE, _BULK_PACKET, self._rings[OUT]),
        }
        self._give_input(bulk, port)
        self._order(_CONFIGURE, self._input)

    def resume(self) -> None:
        """Find out from guest RAM how far the rings are used; the one device has the first slot."""
        for endpoint, ring in self._rings.items():
            blocks = struct.iter_unpack("<12xI", self._memory.read(ring, _RING_BYTES[endpoint]))
            self._used[endpoint] = sum(flags & _CYCLE for (flags,) in blocks)

    def add(self, endpoint: int, transfers: Sequence[tuple[int, int]]) -> None:
        """Add transfers to an endpoint's ring, of which the end of the last one is reported.

        Args:
            endpoint: IN or OUT.
            transfers: guest-physical address and bytes of each.

        Raises:
            PageProtected: a background snapshot protects the ring.
        """
        parts = [part for transfer in transfers for part in Piece(*transfer).cut(_MOST_BYTES)]
        blocks = b"".join(
            _block(part.address, part.size, _NORMAL, _REPORT if number == len(parts) else 0)
            for number, part in enumerate(parts, 1)
        )
        self._memory.write(self._next(endpoint), blocks)
        self._used[endpoint] += len(parts)

    def ring(self, endpoint: int) -> None:
        """Tell the controller that an endpoint's ring has more."""
        self._registers.put(self._registers.get(_DOORBELLS_AT) + 4 * self._slot, endpoint)

    def reported(self, endpoint: int) -> bool:
        """Return whether the last transfer in an endpoint's ring has ended.

        Raises:
            SetupBroken: one has failed.
        """
        return self._event(_TRANSFER_EVENT, self._next(endpoint) - _BLOCK_BYTES) is not None

    def _next(self, endpoint: int) -> int:
        return self._rings[endpoint] + self._used[endpoint] * _BLOCK_BYTES

    def _start_controller(self, operational: int) -> None:
        table = self._contexts + TARGET_PAGE_BYTES // 2
        self._memory.write(table, struct.pack("<QII", self._events, _EVENTS, 0))
        runtime = self._registers.get(_RUNTIME_AT)
        self._registers.put(operational + _COMMAND, _RESET)
        self._registers.put(operational + _SLOTS, 1)
        self._registers.put(runtime + _SEGMENTS, 1)
        for register, value in (
            (operational + _CONTEXTS, self._contexts),
            (operational + _COMMAND_RING, self._commands | _CYCLE),
            (runtime + _DEQUEUE, self._events),
            (runtime + _SEGMENT_TABLE, table),
        ):
            self._registers.put(register, value)
            self._registers.put(register + 4, 0)
        self._registers.put(operational + _COMMAND, _RUN)

    def _find_port(self, operational: int) -> int:
        """Return the number of the port that the device is at, which is enabled then.

        Raises:
            SetupBroken: there is none.
        """
        for port in range(1, 1 + (self._registers.get(_PORTS) >> 24)):
            register = operational + _PORT_STATUS + 16 * (port - 1)
            if self._registers.get(register) & _CONNECTED:
                if not self._registers.get(register) & _ENABLED:
                    self._registers.put(register, _PORT_RESET)
                return port
        raise SetupBroken("The guest's xHCI controller has no device at any port.")

    def _give_input(self, endpoints: dict[int, bytes], port: int) -> None:
        """Write the contexts for the next command, of the device at a port and of its endpoints."""
        # "Super speed" is number 4.
        slot = struct.pack("<II24x", 4 << 20 | max(endpoints) << 27, port << 16)
        added = 1 | sum(1 << number for number in endpoints)
        body = struct.pack("<II24x", 0, added) + slot
        for number in range(1, 1 + max(endpoints)):
            body += endpoints.get(number, bytes(_CONTEXT_BYTES))
        self._memory.write(self._input, body)

    def _configure_device(self) -> None:
        (request,) = struct.unpack("<Q", SET_CONFIGURATION)
        status = self._control + _BLOCK_BYTES
        self._memory.write(
            self._control,
            _block(request, 8, _SETUP, _IMMEDIATE) + _block(0, 0, _STATUS_STAGE, _REPORT | _TO_HOST),
        )
        self.ring(_CONTROL)
        with patient(self._machine) as deadline:
            self._wait(_TRANSFER_EVENT, status, deadline)

    def _order(self, kind: int, parameter: int) -> int:
        """Have the controller carry out a command; return the last word of its event."""
        place = self._commands + self._commanded * _BLOCK_BYTES
        self._commanded += 1
        slot = 0 if kind == _ENABLE_SLOT else self._slot << 24
        self._memory.write(place, _block(parameter, 0, kind, slot))
        self._registers.put(self._registers.get(_DOORBELLS_AT), 0)
        with patient(self._machine) as deadline:
            return self._wait(_COMMAND_EVENT, place, deadline)

    def _wait(self, kind: int, place: int, deadline: Deadline) -> int:
        """Wait for the event of a request block, and return its last word.

        Raises:
            DeadlineExpired: there is none in time. SetupBroken: it reports an error.
        """
        deadline.wait_for(
            lambda: self._event(kind, place) is not None, "The answer of the guest's xHCI controller"
        )
        return self._event(kind, place) or 0

    def _event(self, kind: int, place: int) -> int | None:
        """Return the last word of the event of a request block, None where there is none.

        Raises:
            SetupBroken: it or an earlier event of a transfer reports an error.
        """
        events = self._memory.read(self._events, _EVENTS * _BLOCK_BYTES)
        for pointer, status, control in struct.iter_unpack("<QII", events):
            code, found = status >> 24, control >> 10 & 0x3F
            if found in (_TRANSFER_EVENT, kind) and code != _SUCCESS:
                raise SetupBroken(f"The guest's xHCI controller reports error {code}.")
            if pointer == place and found == kind:
                return int(control)
        return None


def _block(parameter: int, size: int, kind: int, flags: int = 0) -> bytes:
    """Return a request block that is the controller's."""
    return struct.pack("<QII", parameter, size, kind << 10 | flags | _CYCLE)


def _endpoint(kind: int, packet: int, ring: int) -> bytes:
    """Return the context of an endpoint, which may try three times."""
    return struct.pack("<IIQ16x", 0, 3 << 1 | kind << 3 | packet << 16, ring | _CYCLE)
