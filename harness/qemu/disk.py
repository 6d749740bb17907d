"""Probe the format of a guest's disk image, and create qcow2 files: overlays and empty disks."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError

KEPT_FILE = "disk-at-t0.qcow2"
"""File name of the copy of a guest's disk that its snapshots are restored with, in the machine's folder."""

# QEMU docs/interop/qcow2.rst: magic "QFI\xfb", version at byte 4, virtual size at byte 24.
_QCOW2_MAGIC = b"QFI\xfb"
_SIZE_AT = 24
_SECTOR = 512
# A raw file counts as a disk image if it has one of these: the boot signature of an MBR or GPT disk (at byte
# 510), or the magic of a file system.
_RAW_SIGNS = (
    (510, b"\x55\xaa"),
    (0x438, b"\x53\xef"),  # ext2, ext3, ext4 (Linux fs/ext4/ext4.h, EXT4_SUPER_MAGIC)
    (0, b"XFSB"),
    (0x10040, b"_BHRfS_M"),  # btrfs
)
_OTHER_FORMATS = {b"KDMV": "vmdk", b"conectix": "vpc", b"vhdxfile": "vhdx", b"QED\0": "qed"}

_CLUSTER_BITS = 16
_CLUSTER = 1 << _CLUSTER_BITS
_HEADER_BYTES = 104
_BACKING_FORMAT = 0xE2792ACA
_BACKING_NAME_LIMIT = 1023


@dataclass(frozen=True)
class Disk:
    """A disk image that QEMU reads but never writes.

    Attributes:
        path: the file.
        format: `raw` or `qcow2`.
        size: size of the disk in the guest, in bytes.
    """

    path: Path
    format: str
    size: int


@dataclass(frozen=True)
class KeptDisk:
    """A copy of a guest's disk that belongs to its snapshots, as long as the guest does not write to it.

    Attributes:
        disk: the copy, made after the guest's last write.
        writes: writes and discards that QEMU had counted when it was made.
    """

    disk: Disk
    writes: int


def probe_disk(path: Path) -> Disk:
    """Find out the format and size of a disk image by its content.

    Raises:
        UsageError: it does not exist, cannot be read, or is no raw or qcow2 disk image.
    """
    try:
        with path.open("rb") as file:
            head = file.read(0x10048)
            length = file.seek(0, 2)
    except OSError as error:
        raise UsageError(f"The disk image '{path}' cannot be read: {error.strerror}.") from error
    if head.startswith(_QCOW2_MAGIC) and len(head) >= _SIZE_AT + 8:
        return Disk(path.absolute(), "qcow2", struct.unpack_from(">Q", head, _SIZE_AT)[0])
    for magic, name in _OTHER_FORMATS.items():
        if head.startswith(magic):
            raise UsageError(f"The disk image '{path}' is in the format {name}; convert it to qcow2 or raw.")
    if not any(head[at : at + len(sign)] == sign for at, sign in _RAW_SIGNS):
        raise UsageError(
            f"'{path}' is not a disk image: it has neither the magic of qcow2, nor a partition table, nor a "
            "file system of ext2, ext3, ext4, XFS or btrfs."
        )
    return Disk(path.absolute(), "raw", -(-length // _SECTOR) * _SECTOR)


def make_overlay(base: Disk, path: Path) -> Disk:
    """Create a qcow2 overlay: it reads as `base`, and takes all writes.

    Not by qemu-img, which is in a package of its own and may be missing for the QEMU under test. The file has
    version 3 and clusters of 64 KiB: header, refcount table, refcount block, then the L1 table.

    Raises:
        UsageError: the path of `base` is too long for the format.
    """
    name = str(base.path).encode()
    if len(name) > _BACKING_NAME_LIMIT:
        raise UsageError(
            f"The path of the disk image '{base.path}' is longer than the {_BACKING_NAME_LIMIT} bytes that "
            "qcow2 allows; move it."
        )
    kind = base.format.encode()
    extensions = struct.pack(">II", _BACKING_FORMAT, len(kind)) + kind + bytes(-len(kind) % 8) + bytes(8)
    return _write_qcow2(path, base.size, extensions, name)


def make_empty_disk(path: Path, size: int) -> Disk:
    """Create a qcow2 file without a backing file, which reads as zeros."""
    return _write_qcow2(path, size, bytes(8), b"")


def _write_qcow2(path: Path, size: int, extensions: bytes, name: bytes) -> Disk:
    """Write the metadata of an empty qcow2 file; `name` is that of its backing file, empty for none."""
    entries_in_l2 = _CLUSTER // 8
    l1_entries = -(-size // (_CLUSTER * entries_in_l2))
    l1_clusters = max(1, -(-l1_entries * 8 // _CLUSTER))
    backing_at = _HEADER_BYTES + len(extensions) if name else 0
    # fmt: off
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        _QCOW2_MAGIC, 3, backing_at, len(name), _CLUSTER_BITS, size,
        0, l1_entries, 3 * _CLUSTER, _CLUSTER, 1, 0, 0,
        0, 0, 0, 4, _HEADER_BYTES,
    )
    # fmt: on
    with path.open("wb") as file:
        file.write(header + extensions + name)
        file.seek(_CLUSTER)
        file.write(struct.pack(">Q", 2 * _CLUSTER))
        file.seek(2 * _CLUSTER)
        file.write(struct.pack(">H", 1) * (3 + l1_clusters))
        file.truncate((3 + l1_clusters) * _CLUSTER)
    return Disk(path.absolute(), "qcow2", size)
