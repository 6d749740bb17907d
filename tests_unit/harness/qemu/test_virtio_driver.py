"""Contract: a virtio device is set up from outside as VIRTIO 1.2 demands, or the set-up is called broken."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import cast

import pytest

from harness.errors import SetupBroken
from harness.qemu.architectures import find_architecture
from harness.qemu.guest_memory import GuestMemory, PageProtected
from harness.qemu.virtio_driver import Buffer, Queue, VirtioDevice, can_drive
from tests_unit.support.fake_virtio import FakeMemory, FakeVirtio

_BASE = 0x10000


def _queue(memory: FakeMemory, size: int = 8) -> Queue:
    return Queue(cast(GuestMemory, memory), _BASE, size)


@pytest.mark.parametrize(
    ("architecture", "machine", "can"),
    [
        ("x86_64", "pc", True),
        ("x86_64", "pc-q35-6.0", True),
        ("i686", "q35,kernel-irqchip=split", True),
        ("x86_64", "microvm", False),
        ("aarch64", "virt", False),
    ],
)
def test_only_x86_has_the_ports(architecture: str, machine: str, can: bool) -> None:
    """The ports of PCI configuration space are on pc and q35."""
    assert can_drive(find_architecture(architecture), machine) is can


@pytest.mark.parametrize("device_id", [0x1041, 0x1000])
def test_device_is_set_up(device_id: int) -> None:
    """Its registers hold the queue's places, and it is running; both ids of a network card are known."""
    fake = FakeVirtio(device_id, features=2)
    VirtioDevice(fake.machine, 1).start(_queue(FakeMemory()), features=6)
    assert fake.config[4] == 0b111
    assert fake.taken == {0: 2, 1: 1}
    assert [fake.register(place, 8) for place in (32, 40, 48)] == [_BASE, _BASE + 4096, _BASE + 8192]
    assert (fake.register(22, 2), fake.register(24, 2), fake.register(28, 2)) == (0, 8, 1)
    assert fake.register(20, 1) == 0b1111


def test_device_is_told_of_buffers() -> None:
    """A notification goes to the place that the capability names."""
    fake = FakeVirtio(0x1058)
    device = VirtioDevice(fake.machine, 24)
    device.start(_queue(FakeMemory()))
    assert fake.notified == 0
    device.notify()
    assert fake.notified == 1


def test_device_that_is_missing_or_refuses() -> None:
    """Neither is taken for a device that works."""
    with pytest.raises(SetupBroken, match="no virtio device of number 2"):
        VirtioDevice(FakeVirtio(0x1041).machine, 2)
    with pytest.raises(SetupBroken, match="has the status 0x7"):
        VirtioDevice(FakeVirtio(0x1041, features=2).machine, 1).start(_queue(FakeMemory()))
    fake = FakeVirtio(0x1041)
    fake.config[0x34] = 0
    with pytest.raises(SetupBroken, match=r"no registers of VIRTIO 1\.0"):
        VirtioDevice(fake.machine, 1)


def test_queue_in_guest_ram() -> None:
    """Chains are laid out, offered and counted as in VIRTIO 1.2, 2.7."""
    memory = FakeMemory()
    queue = _queue(memory)
    queue.lay_out([[Buffer(0x5000, 24, written=False), Buffer(0x6000, 16)], [Buffer(0x7000, 2048)]])
    rows = [struct.unpack("<QIHH", memory.read(_BASE + 16 * number, 16)) for number in range(3)]
    assert rows == [(0x5000, 24, 1, 1), (0x6000, 16, 2, 0), (0x7000, 2048, 2, 0)]
    ring = struct.unpack("<10H", memory.read(queue.available, 20))
    assert ring == (1, 0, 0, 2, 0, 2, 0, 2, 0, 2)
    queue.offer(65_537)
    assert memory.read(queue.available + 2, 2) == b"\1\0"
    memory.write(queue.used + 2, b"\7\1")
    assert queue.used_count() == 263
    memory.protected.add(queue.available // 4096)
    with pytest.raises(PageProtected):
        queue.offer(2)


def test_chain_that_is_needed_next_is_offered() -> None:
    """The ring takes it at the driver's own index, which wraps; a protected ring has not changed."""
    memory = FakeMemory()
    queue = _queue(memory, size=4)
    queue.lay_out([[Buffer(0x5000, 24), Buffer(0x6000, 16)], [Buffer(0x7000, 2048)]])
    for first in (2, 0, 2, 2, 0):
        queue.offer_chain(first)
    assert queue.offered_count() == 5
    assert struct.unpack("<6H", memory.read(queue.available, 12)) == (1, 5, 0, 0, 2, 2)
    memory.protected.add(queue.available // 4096)
    with pytest.raises(PageProtected):
        queue.offer_chain(2)
    assert queue.offered_count() == 5


def test_window_is_moved_only_where_it_has_to_be() -> None:
    """Each move is three writes to ports; a driver notifies its device again and again."""
    fake = FakeVirtio(0x1042)
    device = VirtioDevice(fake.machine, 2)
    commands: list[str] = []

    def noted(command: str, hmp: Callable[[str], str] = fake.machine.hmp) -> str:
        commands.append(command)
        return hmp(command)

    fake.machine.hmp = noted  # type: ignore[method-assign]
    for _ in range(3):
        device.notify()
    assert fake.notified == 3
    assert len(commands) == 2 * (3 + 3)


def test_device_that_has_given_up() -> None:
    """The bit of its status tells it, and the driver's window is where it was."""
    fake = FakeVirtio(0x1042)
    driver = VirtioDevice(fake.machine, 2)
    driver.start(_queue(FakeMemory()))
    driver.notify()
    assert not VirtioDevice(fake.machine, 2).needs_reset()
    fake.registers[20] |= 64
    assert VirtioDevice(fake.machine, 2).needs_reset()
    driver.notify()
    assert driver.needs_reset()
    driver.notify()
    assert fake.notified == 3
