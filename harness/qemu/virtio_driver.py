"""Drives a virtio device from outside, in a guest that has no driver for it.

The device's registers are reached through PCI configuration space; its queue lies in guest RAM that the guest
does not use. See Virtual I/O Device (VIRTIO) Version 1.2, 2.7 (split virtqueues), 4.1.4 (registers) and
4.1.4.9 (access through configuration space).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.qemu.architectures import TARGET_PAGE_BYTES, Architecture
from harness.qemu.configuration import type_of
from harness.qemu.guest_memory import GuestMemory
from harness.qemu.machine import Machine
from harness.qemu.pci import PciFunction, PciPlace, find_function

# PCI Local Bus 3.0, 6.7: where the list of capabilities begins.
_CAPABILITIES = 0x34
_VENDOR_CAPABILITY = 0x09
_VIRTIO_VENDOR = 0x1AF4
# A device with the number n has the PCI device id 0x1040 + n; one that older drivers know too has another one
# (VIRTIO 1.2, 4.1.2.1).
_MODERN_ID = 0x1040
_OLDER_IDS = {1: 0x1000, 2: 0x1001, 3: 0x1003, 4: 0x1005, 5: 0x1002, 8: 0x1004, 9: 0x1009}
# VIRTIO 1.2, 4.1.4: kinds of capability.
_COMMON, _NOTIFY, _WINDOW = 1, 2, 5
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK = 1, 2, 4, 8
"""Bits of a device's status (VIRTIO 1.2, 2.1)."""
VERSION_1 = 1
"""Feature bit 32 (VIRTIO_F_VERSION_1), in its half of the feature bits."""

_NEEDS_RESET = 64
# VIRTIO 1.2, 4.1.4.3: registers.
_OFFER_SELECT, _OFFER, _FEATURE_SELECT, _FEATURES, _STATUS = 0, 4, 8, 12, 20
_QUEUE_SELECT, _QUEUE_SIZE = 22, 24
_QUEUE_ENABLE, _NOTIFY_OFFSET, _DESCRIPTORS, _AVAILABLE, _USED = 28, 30, 32, 40, 48

_PAGE = TARGET_PAGE_BYTES

_NO_INTERRUPT = 1
DEVICE_WRITES = 2
"""Flag of a buffer that the device writes to; without it the device reads it."""
_NEXT = 1
_INDEX = 1 << 16
_POLL_SECONDS = 0.0005


def can_drive(architecture: Architecture, machine: str) -> bool:
    """Return whether a virtio device of such a machine can be driven from outside.

    Args:
        architecture: the guest's.
        machine: machine type, as for `-machine`.
    """
    found = architecture.machine_type(type_of(machine))
    return found is not None and found.config_ports


@dataclass(frozen=True)
class Buffer:
    """A piece of guest RAM that is given to a device.

    Attributes:
        address: guest-physical.
        size: in bytes.
        written: whether the device writes to it.
    """

    address: int
    size: int
    written: bool = True


class Queue:
    """A queue in guest RAM, at an address where nobody else has anything.

    Its chains of buffers do not change while the device has them. A driver offers them in turn (`offer`), or
    each time the one that it needs (`offer_chain`).

    Attributes:
        size: number of descriptors.
        descriptors: guest-physical address of its first page.
        available: that of the page with the driver's ring.
        used: that of the page with the device's ring.
        end: the address behind its pages.
    """

    def __init__(self, memory: GuestMemory, base: int, size: int) -> None:
        """Describe a queue.

        Args:
            memory: the guest's.
            base: guest-physical address of its first page.
            size: number of descriptors, a power of two.
        """
        self._memory = memory
        self.size = size
        self.descriptors, self.available, self.used, self.end = (base + page * _PAGE for page in range(4))

    def lay_out(self, chains: list[list[Buffer]]) -> None:
        """Write the descriptors of some chains of buffers, and rings that hold none of them yet.

        Args:
            chains: those that are offered in turn; none where each is written when it is needed.
        """
        heads, at = [], 0
        for chain in chains:
            self.describe(at, chain)
            heads.append(at)
            at += len(chain)
        ring = [heads[number % len(heads)] if heads else 0 for number in range(self.size)]
        self._memory.write(self.available, struct.pack(f"<HH{self.size}H", _NO_INTERRUPT, 0, *ring))
        self._memory.write(self.used, bytes(4 + 8 * self.size))

    def describe(self, first: int, chain: list[Buffer]) -> None:
        """Write the descriptors of one chain of buffers, which the device does not have.

        Args:
            first: number of its first descriptor.
            chain: the buffers.

        Raises:
            PageProtected: a background snapshot protects the descriptors.
        """
        table = bytearray()
        for number, buffer in enumerate(chain, 1):
            more = number < len(chain)
            flags = (_NEXT if more else 0) | (DEVICE_WRITES if buffer.written else 0)
            table += struct.pack("<QIHH", buffer.address, buffer.size, flags, first + number if more else 0)
        self._memory.write(self.descriptors + 16 * first, bytes(table))

    def offer(self, count: int) -> None:
        """Offer chains to the device until it has been offered `count` since the queue was laid out.

        Raises:
            PageProtected: a background snapshot protects the ring, which has not changed.
        """
        self._memory.write(self.available + 2, struct.pack("<H", count % _INDEX))

    def offer_chain(self, first: int) -> None:
        """Offer one chain to the device, whichever it is.

        Args:
            first: number of its first descriptor.

        Raises:
            PageProtected: a background snapshot protects the ring, which has not changed.
        """
        offered = self.offered_count()
        self._memory.write(self.available + 4 + 2 * (offered % self.size), struct.pack("<H", first))
        self.offer(offered + 1)

    def offered_count(self) -> int:
        """Return how many chains the device has been offered, modulo 65,536."""
        return int(struct.unpack("<H", self._memory.read(self.available + 2, 2))[0])

    def used_count(self) -> int:
        """Return how many chains the device has used, modulo 65,536."""
        return int(struct.unpack("<H", self._memory.read(self.used + 2, 2))[0])

    def used_chains(self, first: int, count: int) -> list[tuple[int, int]]:
        """Return chains that the device has used, in its order, by first descriptor and bytes written.

        Args:
            first: how many were used before the first of them, modulo 65,536.
            count: how many; not more than the queue has descriptors.
        """
        ring = self._memory.read(self.used + 4, 8 * self.size)
        places = ((first + number) % self.size for number in range(count))
        return [struct.unpack_from("<II", ring, 8 * place) for place in places]

    def wait_used(self, deadline: Deadline, what: str) -> None:
        """Wait until the device has used all that it was offered.

        Args:
            deadline: for it.
            what: names it in the error, as the subject of a sentence.

        Raises:
            DeadlineExpired: it has not in time.
        """
        offered = self.offered_count()
        deadline.wait_for(lambda: self.used_count() == offered, what, interval=_POLL_SECONDS)


class DrivenVirtio(Protocol):
    """A virtio device that is driven from outside, behind PCI or registers in memory."""

    def start(self, queue: Queue, features: int = 0, further: Mapping[int, Queue] | None = None) -> None:
        """Reset the device, and set it up with one queue, and further ones where there are any."""

    def notify(self, further: int | None = None) -> None:
        """Tell the device that the queue, or a further one of that number, has been offered more."""


class VirtioDevice:
    """A virtio-pci device of a running machine, found by its number in VIRTIO 1.2, section 5."""

    def __init__(self, machine: Machine, number: int, queue: int = 0) -> None:
        """Find the device.

        Args:
            machine: QEMU.
            number: the device's, in VIRTIO 1.2, section 5.
            queue: number of the queue that is used.

        Raises:
            SetupBroken: the machine has no such device, or no ports to reach it by.
        """
        self._space = PciFunction(machine, _place_of(machine, number))
        self._queue = queue
        self._opened: tuple[int, int, int] | None = None
        self._places = self._capabilities()

    def start(self, queue: Queue, features: int = 0, further: Mapping[int, Queue] | None = None) -> None:
        """Reset the device, and set it up with one queue, and further ones where there are any.

        Args:
            queue: laid out already.
            features: of the device's own feature bits 0 to 31, those to take where it offers them.
            further: other queues by their number, laid out already.

        Raises:
            SetupBroken: the device does not accept that.
        """
        self._space.enable()
        self._set(_STATUS, 1, 0)
        self._set(_STATUS, 1, ACKNOWLEDGE | DRIVER)
        self._set(_OFFER_SELECT, 4, 0)
        for half, wanted in enumerate((self._get(_OFFER, 4) & features, VERSION_1)):
            self._set(_FEATURE_SELECT, 4, half)
            self._set(_FEATURES, 4, wanted)
        self._set(_STATUS, 1, ACKNOWLEDGE | DRIVER | FEATURES_OK)
        for number, one in {self._queue: queue, **(further or {})}.items():
            self._set_up(number, one)
        self._set(_STATUS, 1, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)
        if (status := self._get(_STATUS, 1)) != ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK:
            raise SetupBroken(f"The virtio device was set up and has the status {status:#x}.")

    def notify(self, further: int | None = None) -> None:
        """Tell the device that the queue, or a further one of that number, has been offered more."""
        queue = self._queue if further is None else further
        bar, offset, place = self._places[_NOTIFY]
        if queue:
            # VIRTIO 1.2, 4.1.4.4: the capability ends in a multiplier for the queue's own offset.
            self._set(_QUEUE_SELECT, 2, queue)
            offset += self._get(_NOTIFY_OFFSET, 2) * self._space.read(place + 16, 4)
        self._access(bar, offset, 2)
        self._space.write(self._window + 16, 2, queue)

    def needs_reset(self) -> bool:
        """Return whether the device has given up (VIRTIO 1.2, 2.1.2); its driver is not disturbed."""
        registers = [(4, 1), (8, 4), (12, 4)]
        before = [self._space.read(self._window + place, size) for place, size in registers]
        found = self._get(_STATUS, 1) & _NEEDS_RESET
        for (place, size), value in zip(registers, before, strict=True):
            self._space.write(self._window + place, size, value)
        self._opened = None
        return bool(found)

    def _set_up(self, number: int, queue: Queue) -> None:
        self._set(_QUEUE_SELECT, 2, number)
        self._set(_QUEUE_SIZE, 2, queue.size)
        for register, address in (
            (_DESCRIPTORS, queue.descriptors),
            (_AVAILABLE, queue.available),
            (_USED, queue.used),
        ):
            self._set(register, 4, address % (1 << 32))
            self._set(register + 4, 4, address >> 32)
        self._set(_QUEUE_ENABLE, 2, 1)

    @property
    def _window(self) -> int:
        return self._places[_WINDOW][2]

    def _set(self, register: int, size: int, value: int) -> None:
        bar, offset, _ = self._places[_COMMON]
        self._access(bar, offset + register, size)
        self._space.write(self._window + 16, size, value)

    def _get(self, register: int, size: int) -> int:
        bar, offset, _ = self._places[_COMMON]
        self._access(bar, offset + register, size)
        return self._space.read(self._window + 16, size)

    def _access(self, bar: int, offset: int, size: int) -> None:
        """Point the window at a register, unless it already is: nobody else moves it."""
        if self._opened == (bar, offset, size):
            return
        self._opened = bar, offset, size
        self._space.write(self._window + 4, 1, bar)
        self._space.write(self._window + 8, 4, offset)
        self._space.write(self._window + 12, 4, size)

    def _capabilities(self) -> dict[int, tuple[int, int, int]]:
        """Return (BAR, offset in it, place in configuration space) of each kind of capability."""
        found: dict[int, tuple[int, int, int]] = {}
        place = self._space.read(_CAPABILITIES, 1)
        while place:
            head = self._space.read(place, 4)
            if head & 0xFF == _VENDOR_CAPABILITY:
                found[head >> 24] = (self._space.read(place + 4, 1), self._space.read(place + 8, 4), place)
            place = head >> 8 & 0xFF
        if not {_COMMON, _NOTIFY, _WINDOW} <= found.keys():
            raise SetupBroken("The virtio device has no registers of VIRTIO 1.0.")
        return found


def _place_of(machine: Machine, number: int) -> PciPlace:
    ids = (_MODERN_ID + number, _OLDER_IDS.get(number, _MODERN_ID + number))
    found = find_function(machine, lambda device: _is_virtio(device, ids))
    if found is None:
        raise SetupBroken(f"The machine has no virtio device of number {number}.")
    return found


def _is_virtio(device: Mapping[str, Any], ids: tuple[int, ...]) -> bool:
    found = device["id"]
    return found["vendor"] == _VIRTIO_VENDOR and found["device"] in ids
