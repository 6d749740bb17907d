"""Makes the disks of a VM host that starts a saved guest, and names their paths in the VM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from harness.hosts.vm import VmDisk
from harness.qemu.architectures import DEFAULT_ARCHITECTURE
from harness.qemu.configuration import MIB
from tests_functional.hosts.portable_warm_guest import PortableWarmGuest
from tests_functional.hosts.snapshots import HostPaths

SPARSE = "sparse"
"""Name of the disk with the second guest."""

# Room for device state and headers beside all of RAM.
_ROOM = 1.05
_ROOM_MIB = 16


def sink_file(folder: Path, flow: str) -> Path:
    """Return the file on this machine that receives a flow's snapshot."""
    return folder / f"vmstate-{flow}"


def vm_disks(
    warm: PortableWarmGuest,
    qemu_disk: Path,
    folder: Path,
    flows: Sequence[str],
    sparse: PortableWarmGuest | None = None,
) -> dict[str, VmDisk]:
    """Return the disks by name; make the empty ones for snapshots in `folder`.

    Args:
        warm: the guest to save there.
        qemu_disk: an image with QEMU.
        folder: receives the files for snapshots.
        flows: the names of these.
        sparse: another guest to save there, which boots from the same files.
    """
    size = (int(warm.stack.ram_mib * _ROOM) + _ROOM_MIB) * MIB
    disks = {
        "qemu": VmDisk(qemu_disk, mounted=True),
        "boot": VmDisk(warm.boot_disk, mounted=True),
        "vmstate": VmDisk(warm.vmstate),
    }
    if sparse is not None:
        disks[SPARSE] = VmDisk(sparse.vmstate)
    for flow in flows:
        path = sink_file(folder, flow)
        with path.open("wb") as file:
            file.truncate(size)
        disks[flow] = VmDisk(path, writable=True)
    return disks


def vm_places(flows: Sequence[str]) -> HostPaths:
    """Return the paths of these disks in the VM host (guest_images/hosts/init.py)."""
    mounted, devices = PurePosixPath("/disks"), PurePosixPath("/dev")
    return HostPaths(
        qemu=mounted / "qemu" / DEFAULT_ARCHITECTURE.qemu,
        vmstate=devices / "disk-vmstate",
        kernel=mounted / "boot/vmlinuz",
        initrd=mounted / "boot/initrd.cpio",
        firmware=mounted / "boot/firmware.bin",
        sinks={flow: devices / f"disk-{flow}" for flow in flows},
        sparse=devices / f"disk-{SPARSE}",
    )
