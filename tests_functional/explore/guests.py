"""Lists the guests that lists of steps run on: machines, kinds of RAM, devices; each with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from harness.qemu.architectures import DEFAULT_ARCHITECTURE
from harness.qemu.virtio_driver import can_drive
from tests_functional.explore.steps import GuestChoice
from tests_functional.lib.run import Run

COVERAGE = 0.4
"""Share of guest RAM that the writers fill at first; the rest is untouched until a step writes there."""

MACHINES = tuple(
    kind.name for kind in DEFAULT_ARCHITECTURE.machines if can_drive(DEFAULT_ARCHITECTURE, kind.name)
) or (DEFAULT_ARCHITECTURE.machine,)
"""Machine types on which a bare guest has I/O ports, which steps use."""

# The harness has QEMU treat a reset as a power-off, and these lists reset guests.
_ALWAYS = ("-action", "reboot=reset")


@dataclass(frozen=True)
class Choice:
    """One thing that a guest may have.

    Attributes:
        reason: why it is tried.
        arguments: of QEMU; `{mib}` stands for the size of RAM in MiB, `{half}` for half of it.
    """

    reason: str
    arguments: tuple[str, ...] = ()


def _backed(backend: str) -> tuple[str, ...]:
    return ("-object", backend, "-machine", "memory-backend=explored-ram")


RAM_KINDS: Mapping[str, Choice] = {
    "anonymous": Choice("what guests have"),
    "memfd": Choice(
        "shared memory, as vhost-user wants it",
        _backed("memory-backend-memfd,id=explored-ram,size={mib}M,share=on"),
    ),
    "memfd-private": Choice(
        "a private mapping of a file: what is written becomes anonymous",
        _backed("memory-backend-memfd,id=explored-ram,size={mib}M,share=off"),
    ),
    "shared-ram": Choice(
        "shared memory without a name",
        _backed("memory-backend-ram,id=explored-ram,size={mib}M,share=on"),
    ),
    "prealloc": Choice(
        "no page is missing, as management asks for with huge pages",
        _backed("memory-backend-ram,id=explored-ram,size={mib}M,prealloc=on"),
    ),
    "two-nodes": Choice(
        "two RAMBlocks, one for each NUMA node",
        (
            *("-object", "memory-backend-ram,id=explored-ram,size={half}M"),
            *("-object", "memory-backend-ram,id=explored-ram-1,size={half}M"),
            *("-numa", "node,memdev=explored-ram", "-numa", "node,memdev=explored-ram-1"),
        ),
    ),
}
"""Kinds of guest RAM by name."""

DEVICES: Mapping[str, Choice] = {
    "rng": Choice("the smallest virtio device", ("-device", "virtio-rng-pci,id=rng,addr=0x8")),
    "vga": Choice("a RAMBlock beside RAM", ("-device", "VGA,id=vga,addr=0x9")),
    "balloon": Choice("gives memory back", ("-device", "virtio-balloon-pci,id=balloon,addr=0xa")),
    "disk": Choice(
        "a disk with requests of QEMU's own",
        (
            *("-blockdev", "null-co,node-name=disk,size=1048576,read-zeroes=on"),
            *("-device", "virtio-blk-pci,id=disk0,drive=disk,addr=0xb"),
        ),
    ),
    "serial": Choice(
        "a chardev that keeps what it gets",
        (
            *("-chardev", "ringbuf,id=ring,size=4096"),
            *(
                "-device",
                "virtio-serial-pci,id=serial,addr=0xc",
                "-device",
                "virtserialport,chardev=ring,id=port",
            ),
        ),
    ),
    "net": Choice(
        "a network card",
        ("-netdev", "user,id=net,restrict=on", "-device", "e1000,netdev=net,id=nic,addr=0xd"),
    ),
    "scsi": Choice(
        "a disk below a controller",
        (
            *("-device", "virtio-scsi-pci,id=scsi,addr=0xe"),
            *("-blockdev", "null-co,node-name=scsi-disk,size=1048576,read-zeroes=on"),
            *("-device", "scsi-hd,drive=scsi-disk,id=scsi0,bus=scsi.0"),
        ),
    ),
    "usb": Choice(
        "a tree of devices",
        ("-device", "qemu-xhci,id=usb,addr=0xf", "-device", "usb-tablet,id=tablet,bus=usb.0"),
    ),
    "iothread": Choice(
        "a disk that another thread serves",
        (
            *("-object", "iothread,id=io"),
            *("-blockdev", "null-co,node-name=io-disk,size=1048576,read-zeroes=on"),
            *("-device", "virtio-blk-pci,id=disk1,drive=io-disk,iothread=io,addr=0x13"),
        ),
    ),
    "sound": Choice(
        "a device with timers of its own",
        (
            *("-audiodev", "none,id=audio", "-device", "intel-hda,id=hda,addr=0x14"),
            *("-device", "hda-duplex,audiodev=audio,id=codec"),
        ),
    ),
    "virtio-mem": Choice(
        "memory whose size management changes",
        (
            *("-m", "maxmem=1G", "-object", "memory-backend-ram,id=more-ram,size=64M"),
            *("-device", "virtio-mem-pci,id=more,memdev=more-ram,requested-size=0,addr=0x15"),
        ),
    ),
    "panic": Choice("the guest can panic", ("-device", "pvpanic", "-action", "panic=pause")),
    "slots": Choice("a DIMM can be plugged in", ("-m", "slots=2,maxmem=1G")),
    "no-shutdown": Choice("a guest that is off stays", ("-no-shutdown",)),
}
"""Devices by name."""


def chosen_arguments(guest: GuestChoice) -> list[str]:
    """Return what QEMU is given for the guest's RAM and devices."""
    choices = (RAM_KINDS[guest.ram], *(DEVICES[name] for name in guest.devices))
    sizes = {"mib": guest.ram_mib, "half": guest.ram_mib // 2}
    return [word.format(**sizes) for choice in choices for word in choice.arguments]


def with_guest(run: Run, guest: GuestChoice) -> Run:
    """Return the run with the guest that a list of steps asks for."""
    extra = [*_ALWAYS, *chosen_arguments(guest)]
    stack = replace(
        run.stack,
        machine=guest.machine,
        accel=guest.accel,
        ram_mib=guest.ram_mib,
        vcpus=guest.vcpus,
        coverage=COVERAGE,
        extra=(*run.stack.extra, *extra),
    )
    return replace(run, stack=stack, pattern=guest.pattern)
