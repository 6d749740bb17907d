"""Lists which tests of foreign writers each profile runs."""

from __future__ import annotations

from collections.abc import Mapping

from harness.qemu.architectures import AARCH64, MICROVM, Q35
from tests_functional.foreign_writers.kinds import WRITER_KINDS
from tests_functional.lib.profile_row import ANY_GUEST, QUICK_GUEST, ProfileRow

_WRITERS = "foreign_writers/test_foreign_writers.py:ForeignWriters"

_GUEST: Mapping[str, str | int | float] = {"ram_mib": 128, "coverage": 0.7, "guest": QUICK_GUEST}

_VIRTIO = ("virtio-blk", "virtio-net", "virtio-console", "virtio-scsi")
_PCI = ("ahci", "nvme", "e1000", "lsi53c895a", "usb-storage")
_TOO = ("virtio-rng", "cirrus")
_MACHINES: Mapping[str, tuple[Mapping[str, str], tuple[str, ...], str]] = {
    AARCH64.name: (
        {"guest": f"{QUICK_GUEST}-{AARCH64.name}"},
        (*_VIRTIO, "virtio-rng", *_PCI),
        "other code of QEMU's for RAM and CPUs, and devices by registers in memory",
    ),
    MICROVM.name: (
        {"machine": MICROVM.name, "accel": "tcg"},
        (*_VIRTIO, "virtio-rng"),
        "a machine without PCI, whose virtio devices have registers in memory",
    ),
    "tcg": ({"accel": "tcg"}, _TOO, "the same where QEMU itself runs the guest"),
    Q35.name: ({"machine": Q35.name, "accel": "tcg"}, _TOO, "the same on the other machine type of PCs"),
}

ROWS = (
    *(
        ProfileRow(
            f"foreign-writers.{name}",
            f"{_WRITERS}.test_writer",
            kind.reason,
            {**_GUEST, "writer": name},
            kinds=ANY_GUEST,
        )
        for name, kind in WRITER_KINDS.items()
    ),
    *(
        ProfileRow(
            f"foreign-writers.{name}-{machine}",
            f"{_WRITERS}.test_writer",
            reason,
            {**_GUEST, **parameters, "writer": name},
            kinds=ANY_GUEST,
        )
        for machine, (parameters, names, reason) in _MACHINES.items()
        for name in names
    ),
    ProfileRow(
        "foreign-writers.9p-folder",
        f"{_WRITERS}.test_mounted_folder",
        "QEMU saves nothing of what a 9p device knows, and must refuse where that would be lost",
        _GUEST,
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "foreign-writers.firmware-tables",
        f"{_WRITERS}.test_firmware_tables",
        "QEMU itself writes to RAMBlocks that are read-only for the guest, and are not protected",
        _GUEST,
        kinds=ANY_GUEST,
    ),
)
