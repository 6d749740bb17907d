"""Contract: virtio devices behind registers in memory are set up from outside, in a real QEMU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.linux.socket_folder import socket_folder
from harness.qemu.guest_memory import GuestMemory
from harness.qemu.machine import Machine
from harness.qemu.memory_tree import region_addresses
from harness.qemu.pci import MemorySpace, PciFunction, find_function
from harness.qemu.qtest import Qtest, qtest_arguments
from harness.qemu.virtio_driver import Buffer, Queue
from harness.qemu.virtio_mmio import MODERN_REGISTERS, VirtioMmioDevice
from tests_unit.support.real_machine import RAM_MIB, real_machine

_RANDOM, _CONSOLE = 4, 3
_DEVICES = ("-device", "virtio-rng-device", "-device", "virtio-serial-device,max_ports=1")
_BASE = (RAM_MIB - 1) << 20
_STATUS, _FEATURES_TAKEN = 0x70, 0x20


@contextmanager
def _machine(folder: Path, *arguments: str, machine: str = "microvm") -> Iterator[tuple[Machine, Qtest]]:
    with socket_folder() as sockets:
        path = sockets / "q"
        with real_machine(folder, *qtest_arguments(path), *arguments, machine=machine) as started:
            yield started, Qtest(path)


def test_device_writes_to_a_queue(tmp_path: Path) -> None:
    """The device of that number is found among others, and fills the buffers that it is told of."""
    with _machine(tmp_path, *MODERN_REGISTERS, *_DEVICES) as (machine, qtest):
        memory = GuestMemory(machine)
        queue = Queue(memory, _BASE, 4)
        queue.lay_out([[Buffer(queue.end + 64 * number, 64)] for number in range(2)])
        device = VirtioMmioDevice(machine, qtest, _RANDOM)
        device.start(queue, features=0xFFFFFFFF)
        queue.offer(1)
        assert queue.used_count() == 0
        device.notify()
        queue.wait_used(Deadline(10), "The random numbers")
        assert any(memory.read(queue.end, 64))
        assert not any(memory.read(queue.end + 64, 64))
        queue.offer(2)
        device.notify()
        queue.wait_used(Deadline(10), "The random numbers")
        assert any(memory.read(queue.end + 64, 64))


def test_further_queue_is_set_up_and_told(tmp_path: Path) -> None:
    """A console's control queue takes a message by its own number, and answers in another one."""
    with _machine(tmp_path, *MODERN_REGISTERS, *_DEVICES) as (machine, qtest):
        memory = GuestMemory(machine)
        inward, control_in, control_out = (Queue(memory, _BASE + at * 0x4000, 4) for at in range(3))
        buffer = _BASE + 0x10000
        inward.lay_out([[Buffer(buffer, 8)]])
        control_in.lay_out([[Buffer(buffer + 64, 32)]])
        control_out.lay_out([[Buffer(buffer + 128, 8, written=False)]])
        device = VirtioMmioDevice(machine, qtest, _CONSOLE)
        device.start(inward, further={2: control_in, 3: control_out})
        control_in.offer(1)
        device.notify(2)
        # VIRTIO 1.2, 5.3.6.2: VIRTIO_CONSOLE_DEVICE_READY.
        memory.write(buffer + 128, bytes((0, 0, 0, 0, 0, 0, 1, 0)))
        control_out.offer(1)
        device.notify(3)
        control_out.wait_used(Deadline(10), "The console's answer")
        assert (inward.used_count(), control_in.used_count()) == (0, 0)


def test_device_that_is_not_there_or_cannot_be_used(tmp_path: Path) -> None:
    """A device that is missing, older registers, and a queue that is too long for it are each named."""
    with _machine(tmp_path / "new", *MODERN_REGISTERS, *_DEVICES) as (machine, qtest):
        with pytest.raises(SetupBroken, match="has no virtio device of number 9"):
            VirtioMmioDevice(machine, qtest, 9)
        device = VirtioMmioDevice(machine, qtest, _RANDOM)
        with pytest.raises(SetupBroken, match="Queue 0 of the virtio device has at most 1024 places"):
            device.start(Queue(GuestMemory(machine), _BASE, 2048))
        # Queue 7 does not exist.
        with pytest.raises(SetupBroken, match="Queue 7 of the virtio device has at most 0 places"):
            VirtioMmioDevice(machine, qtest, _RANDOM, 7).start(Queue(GuestMemory(machine), _BASE, 4))
    old = ("-global", "virtio-mmio.force-legacy=on")
    with (
        _machine(tmp_path / "old", *old, *_DEVICES) as (machine, qtest),
        pytest.raises(SetupBroken, match="registers of version 1, not 2"),
    ):
        VirtioMmioDevice(machine, qtest, _RANDOM)


def test_configuration_space_in_memory(tmp_path: Path) -> None:
    """Slots and functions are told apart, and each size of an access is read and written."""
    devices = (
        *("-device", "e1000,addr=2.0,multifunction=on,romfile="),
        *("-device", "pci-testdev,addr=2.3", "-device", "e1000,addr=4.0,romfile="),
    )
    with _machine(tmp_path, *devices, machine="microvm,pcie=on") as (machine, qtest):
        space = MemorySpace(machine, qtest)
        place = find_function(
            machine, lambda device: device["id"]["vendor"] == 0x1B36 and device["slot"] == 2
        )
        assert place is not None
        assert (place.slot, place.function) == (2, 3)
        test = PciFunction(machine, place, space)
        assert [test.read(0, size) for size in (1, 2, 4)] == [0x36, 0x1B36, 0x00051B36]
        assert test.read(2, 2) == 0x0005
        card = find_function(machine, lambda device: device["slot"] == 4)
        assert card is not None
        function = PciFunction(machine, card, space)
        assert function.read(2, 2) == 0x100E
        first = region_addresses(machine, "gpex_mmio_window")[0]
        function.give_memory(0, first)
        function.enable()
        assert (function.read(0x10, 4), function.read(4, 2) & 7) == (first, 7)
        # The card's status register, with its link up.
        assert qtest.read(first + 8, 4) & 0x80000000 == 0x80000000


def test_machine_without_configuration_space_in_memory(tmp_path: Path) -> None:
    """A machine without PCI has none."""
    with (
        _machine(tmp_path) as (machine, qtest),
        pytest.raises(SetupBroken, match="no PCI configuration space in memory"),
    ):
        MemorySpace(machine, qtest)
