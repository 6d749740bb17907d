"""Asks QEMU where a virtio device is in a queue, and whether it works (QMP of QEMU 7.2 and later)."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import SetupBroken
from harness.qemu.machine import Machine
from harness.qemu.qmp import CommandRefused
from harness.qemu.virtio_driver import Queue, VirtioDevice

_INDEX = 1 << 16
# Devices of these tests, by QEMU's names for them; the numbers are those of VIRTIO 1.2, section 5.
_NUMBERS = {"virtio-net": 1, "virtio-blk": 2, "virtio-serial": 3, "virtio-scsi": 8}


@dataclass(frozen=True)
class Progress:
    """How far driver and device are in a queue, in chains, each modulo 65,536.

    Attributes:
        offered: chains that the driver has put into its ring.
        taken: those of them that the device has taken out.
        used: those that it has put into its own ring.
    """

    offered: int
    taken: int
    used: int

    @property
    def in_hand(self) -> int:
        """Return how many chains the device has taken and not used."""
        return (self.taken - self.used) % _INDEX

    def __str__(self) -> str:
        """Return the three counts as the end of a sentence."""
        return (
            f"the driver has offered {self.offered} chains, the device taken {self.taken}, used {self.used}"
        )


def progress(machine: Machine, name: str, number: int, queue: Queue) -> Progress:
    """Return how far a device is in one of its queues.

    Args:
        machine: QEMU.
        name: what QEMU calls the device, such as "virtio-net".
        number: of the queue.
        queue: the driver's view of it.

    Raises:
        SetupBroken: QEMU has no such device. CommandRefused: it has no such queue.
    """
    paths = [one["path"] for one in machine.qmp.execute("x-query-virtio") if one["name"] == name]
    if not paths:
        raise SetupBroken(f"QEMU has no device '{name}'.")
    return Progress(queue.offered_count(), taken_chains(machine, paths[0], number), queue.used_count())


def taken_chains(machine: Machine, path: str, number: int) -> int:
    """Return how many chains a device has taken from one of its queues, modulo 65,536.

    Args:
        machine: QEMU.
        path: QOM path of the virtio device.
        number: of the queue.

    Raises:
        CommandRefused: QEMU has no such device or queue.
    """
    answer = machine.qmp.execute("x-query-virtio-queue-status", {"path": path, "queue": number})
    return int(answer["last-avail-idx"])


def broken_devices(machine: Machine) -> list[str]:
    """Return the names of the virtio devices that QEMU has given up, since it took their queues for wrong.

    See `virtio_error()` in QEMU 10.0 hw/virtio/virtio.c. The devices themselves are asked: QEMU 11.1.3 aborts
    at `x-query-virtio-status` (docs/findings.md, F47). A QEMU without `x-query-virtio` (before 7.2) has none.
    """
    try:
        devices = machine.qmp.execute("x-query-virtio")
    except CommandRefused:
        return []
    found = sorted({one["name"] for one in devices} & _NUMBERS.keys())
    return [name for name in found if VirtioDevice(machine, _NUMBERS[name]).needs_reset()]
