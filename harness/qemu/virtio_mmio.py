"""Drives a virtio device behind registers in memory from outside, in a guest that has no driver for it.

See Virtual I/O Device (VIRTIO) Version 1.2, 4.2.2 (registers). QEMU has them only with the property
`force-legacy=off` of its bus (QEMU 10.0 hw/virtio/virtio-mmio.c); without it, those of older drivers.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.errors import SetupBroken
from harness.qemu.machine import Machine
from harness.qemu.memory_tree import region_addresses
from harness.qemu.qtest import Qtest
from harness.qemu.virtio_driver import (
    ACKNOWLEDGE,
    DRIVER,
    DRIVER_OK,
    FEATURES_OK,
    VERSION_1,
    Queue,
)

MODERN_REGISTERS = ("-global", "virtio-mmio.force-legacy=off")
"""Arguments of a QEMU whose virtio devices have the registers of VIRTIO 1.0."""

# QEMU 10.0 hw/virtio/virtio-mmio.c virtio_mmio_realizefn(): the name of each device's registers.
_REGION = "virtio-mmio"
_MODERN = 2
_VERSION, _DEVICE_ID, _OFFER, _OFFER_SELECT, _FEATURES, _FEATURE_SELECT = 0x04, 0x08, 0x10, 0x14, 0x20, 0x24
_QUEUE_SELECT, _QUEUE_MOST, _QUEUE_SIZE, _QUEUE_READY, _NOTIFY = 0x30, 0x34, 0x38, 0x44, 0x50
_STATUS, _DESCRIPTORS, _AVAILABLE, _USED = 0x70, 0x80, 0x90, 0xA0


class VirtioMmioDevice:
    """A virtio device of a running machine, found by its number in VIRTIO 1.2, section 5."""

    def __init__(self, machine: Machine, qtest: Qtest, number: int, queue: int = 0) -> None:
        """Find the device.

        Args:
            machine: QEMU.
            qtest: reaches its registers.
            number: the device's, in VIRTIO 1.2, section 5.
            queue: number of the queue that is used.

        Raises:
            SetupBroken: the machine has no such device, or not with these registers.
        """
        self._qtest, self._queue = qtest, queue
        places = region_addresses(machine, _REGION)
        found = [place for place in places if qtest.read(place + _DEVICE_ID, 4) == number]
        if not found:
            raise SetupBroken(f"The machine has no virtio device of number {number}.")
        self._place = found[0]
        if (version := self._get(_VERSION)) != _MODERN:
            raise SetupBroken(f"The virtio device has registers of version {version}, not {_MODERN}.")

    def start(self, queue: Queue, features: int = 0, further: Mapping[int, Queue] | None = None) -> None:
        """Reset the device, and set it up with one queue, and further ones where there are any.

        Args:
            queue: laid out already.
            features: of the device's own feature bits 0 to 31, those to take where it offers them.
            further: other queues by their number, laid out already.

        Raises:
            SetupBroken: the device does not accept that.
        """
        self._set(_STATUS, 0)
        self._set(_STATUS, ACKNOWLEDGE | DRIVER)
        self._set(_OFFER_SELECT, 0)
        for half, wanted in enumerate((self._get(_OFFER) & features, VERSION_1)):
            self._set(_FEATURE_SELECT, half)
            self._set(_FEATURES, wanted)
        self._set(_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK)
        for number, one in {self._queue: queue, **(further or {})}.items():
            self._set_up(number, one)
        self._set(_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)
        if (status := self._get(_STATUS)) != ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK:
            raise SetupBroken(f"The virtio device was set up and has the status {status:#x}.")

    def notify(self, further: int | None = None) -> None:
        """Tell the device that the queue, or a further one of that number, has been offered more."""
        self._set(_NOTIFY, self._queue if further is None else further)

    def _set_up(self, number: int, queue: Queue) -> None:
        self._set(_QUEUE_SELECT, number)
        if (most := self._get(_QUEUE_MOST)) < queue.size:
            raise SetupBroken(f"Queue {number} of the virtio device has at most {most} places.")
        self._set(_QUEUE_SIZE, queue.size)
        for register, address in (
            (_DESCRIPTORS, queue.descriptors),
            (_AVAILABLE, queue.available),
            (_USED, queue.used),
        ):
            self._set(register, address % (1 << 32))
            self._set(register + 4, address >> 32)
        self._set(_QUEUE_READY, 1)

    def _get(self, register: int) -> int:
        return self._qtest.read(self._place + register, 4)

    def _set(self, register: int, value: int) -> None:
        self._qtest.write(self._place + register, 4, value)
