"""Plays the drivers of an xHCI controller and a USB disk behind it that is read into guest RAM.

See xHCI 1.2: 4.2 (start), 4.3 (devices), 5 (registers), 6 (structures in memory); USB Mass Storage Class,
Bulk-Only Transport 1.0, 5 (a command's and a status' frame).
"""

from __future__ import annotations

import struct

from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.board import Board, PciRegisters, has_id
from tests_functional.foreign_writers.target import PAGES, Target
from tests_functional.lib.drivers.scsi import TEST_UNIT_READY, read_command

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
# Endpoints: the number of their context, their type, and the longest packet of each at "super speed".
_CONTROL, _IN, _OUT = 1, 3, 4
_CONTROL_TYPE, _IN_TYPE, _OUT_TYPE = 4, 6, 2
_CONTROL_PACKET, _BULK_PACKET = 512, 1024
_CONTEXT_BYTES = 32
_SET_CONFIGURATION = bytes((0x00, 9, 1, 0, 0, 0, 0, 0))
_FRAME, _FRAME_BYTES, _ANSWER_BYTES, _FROM_DISK = b"USBC", 31, 13, 0x80
_PASSED = 0
# A disk reports that it was reset to the first command or two (SPC-4, 5.14).
_TRIES = 4
_MOST_BYTES = 64 << 10
_PARTS = PAGES * TARGET_PAGE_BYTES // _MOST_BYTES
_POLL_SECONDS = 0.002


class UsbReads:
    """The drivers; the controller's rings and contexts are in guest RAM.

    No ring is used twice: its place for each pass follows from the number of the pass.
    """

    pages = PAGES

    def __init__(self, board: Board, target: Target) -> None:
        """Find the controller of a running machine.

        Args:
            board: reaches the devices of a running machine.
            target: the pages that the disk is read into.

        Raises:
            SetupBroken: the machine has none.
        """
        self._memory, self._data = target.memory, target.data
        pages = [target.control + page * TARGET_PAGE_BYTES for page in range(11)]
        self._contexts, self._commands, self._events, self._input, self._output, self._control = pages[:6]
        self._out, self._in, self._frames, self._answers = pages[6], pages[7], pages[9], pages[10]
        self._registers = PciRegisters(board, "xHCI controller", has_id(*_ID))
        self._commanded, self._slot = 0, 1

    def start(self) -> None:
        """Start the controller, and make the disk ready.

        Raises:
            SetupBroken: one of them does not answer as it must.
        """
        self._memory.write(self._contexts, bytes(11 * TARGET_PAGE_BYTES))
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
            _IN: _endpoint(_IN_TYPE, _BULK_PACKET, self._in),
            _OUT: _endpoint(_OUT_TYPE, _BULK_PACKET, self._out),
        }
        self._give_input(bulk, port)
        self._order(_CONFIGURE, self._input)
        passed = False
        for attempt in range(_TRIES):
            answer = self._answers + attempt * _BLOCK_BYTES
            self._send(attempt, TEST_UNIT_READY, 0)
            self._memory.write(
                self._in + attempt * _BLOCK_BYTES, _block(answer, _ANSWER_BYTES, _NORMAL, _REPORT)
            )
            self._ring(_IN)
            self._wait(_TRANSFER_EVENT, self._in + attempt * _BLOCK_BYTES, Deadline(10))
            passed = self._memory.read(answer + _ANSWER_BYTES - 1, 1)[0] == _PASSED
        if not passed:
            raise SetupBroken("The guest's USB disk is not ready.")

    def offer(self, number: int) -> None:
        """Send the disk the command of a pass, and give the controller the pages for its answer.

        Raises:
            PageProtected: a background snapshot protects a page of the driver.
        """
        self._send(_TRIES + number, read_command(number * PAGES, PAGES), PAGES * TARGET_PAGE_BYTES)
        blocks = [_block(self._data + part * _MOST_BYTES, _MOST_BYTES, _NORMAL) for part in range(_PARTS)]
        blocks.append(_block(self._answer(number), _ANSWER_BYTES, _NORMAL, _REPORT))
        self._memory.write(self._last(number) - _PARTS * _BLOCK_BYTES, b"".join(blocks))

    def write(self, number: int, deadline: Deadline) -> None:
        """Let the disk send its answer, and wait until the controller has written it to guest RAM.

        Raises:
            DeadlineExpired: it has not in time. SetupBroken: the disk or the controller reports an error.
        """
        # A controller that was restored begins by itself.
        self._ring(_IN)
        self._wait(_TRANSFER_EVENT, self._last(number), deadline)
        status = self._memory.read(self._answer(number) + _ANSWER_BYTES - 1, 1)[0]
        if status != _PASSED:
            raise SetupBroken(f"The guest's USB disk answers a read by status {status}.")

    def _last(self, number: int) -> int:
        """Return the address of the last request block of a pass, which takes the disk's status."""
        return self._in + (_TRIES + number * (_PARTS + 1) + _PARTS) * _BLOCK_BYTES

    def _answer(self, number: int) -> int:
        return self._answers + (_TRIES + number) * _BLOCK_BYTES

    def _send(self, place: int, command: bytes, size: int) -> None:
        """Send the disk a command whose answer has so many bytes."""
        frame = struct.pack("<4sIIBBB16s", _FRAME, place + 1, size, _FROM_DISK, 0, len(command), command)
        address = self._frames + place * 2 * _CONTEXT_BYTES
        self._memory.write(address, frame)
        block = self._out + place * _BLOCK_BYTES
        self._memory.write(block, _block(address, _FRAME_BYTES, _NORMAL, _REPORT))
        self._ring(_OUT)
        self._wait(_TRANSFER_EVENT, block, Deadline(10))

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
        """Return the number of the port that the disk is at, which is enabled then.

        Raises:
            SetupBroken: there is none.
        """
        for port in range(1, 1 + (self._registers.get(_PORTS) >> 24)):
            register = operational + _PORT_STATUS + 16 * (port - 1)
            if self._registers.get(register) & _CONNECTED:
                if not self._registers.get(register) & _ENABLED:
                    self._registers.put(register, _PORT_RESET)
                return port
        raise SetupBroken("The guest's xHCI controller has no disk at any port.")

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
        (request,) = struct.unpack("<Q", _SET_CONFIGURATION)
        status = self._control + _BLOCK_BYTES
        self._memory.write(
            self._control,
            _block(request, 8, _SETUP, _IMMEDIATE) + _block(0, 0, _STATUS_STAGE, _REPORT | _TO_HOST),
        )
        self._ring(_CONTROL)
        self._wait(_TRANSFER_EVENT, status, Deadline(10))

    def _order(self, kind: int, parameter: int) -> int:
        """Have the controller carry out a command; return the last word of its event."""
        place = self._commands + self._commanded * _BLOCK_BYTES
        self._commanded += 1
        slot = 0 if kind == _ENABLE_SLOT else self._slot << 24
        self._memory.write(place, _block(parameter, 0, kind, slot))
        self._registers.put(self._registers.get(_DOORBELLS_AT), 0)
        return self._wait(_COMMAND_EVENT, place, Deadline(10))

    def _ring(self, endpoint: int) -> None:
        self._registers.put(self._registers.get(_DOORBELLS_AT) + 4 * self._slot, endpoint)

    def _wait(self, kind: int, place: int, deadline: Deadline) -> int:
        """Wait for the event of a request block, and return its last word.

        Raises:
            DeadlineExpired: there is none in time. SetupBroken: it reports an error.
        """
        found = 0

        def happened() -> bool:
            nonlocal found
            events = self._memory.read(self._events, _EVENTS * _BLOCK_BYTES)
            for pointer, status, control in struct.iter_unpack("<QII", events):
                code = status >> 24
                if control >> 10 & 0x3F == _TRANSFER_EVENT and code != _SUCCESS:
                    raise SetupBroken(f"The guest's xHCI controller reports error {code} of a transfer.")
                if pointer == place and control >> 10 & 0x3F == kind:
                    if code != _SUCCESS:
                        raise SetupBroken(f"The guest's xHCI controller answers a command by {code}.")
                    found = control
                    return True
            return False

        deadline.wait_for(happened, "The xHCI controller's answer", interval=_POLL_SECONDS)
        return int(found)


def _block(parameter: int, size: int, kind: int, flags: int = 0) -> bytes:
    """Return a request block that is the controller's."""
    return struct.pack("<QII", parameter, size, kind << 10 | flags | _CYCLE)


def _endpoint(kind: int, packet: int, ring: int) -> bytes:
    """Return the context of an endpoint, which may try three times."""
    return struct.pack("<IIQ16x", 0, 3 << 1 | kind << 3 | packet << 16, ring | _CYCLE)
