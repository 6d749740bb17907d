"""Puts a QEMU build on a disk: an ext4 image that a VM host mounts, to run the QEMU."""

from __future__ import annotations

import io
from hashlib import sha256
from pathlib import Path

from guest_images.cache import publish_folder
from guest_images.disks import ext4_image
from guest_images.disks.ext4_image import TreeArchive, fill_image
from guest_images.packages.unpacked import manifest_digest
from guest_images.provisioning import Provisioning
from guest_images.qemu.builds import ProvisionedQemu

_DISK = "qemu.raw"


def build_qemu_disk(qemu: ProvisionedQemu, mkfs: Path, provisioning: Provisioning) -> Path:
    """Return a disk image of a QEMU build; make it where the cache lacks it.

    Args:
        qemu: the QEMU. The disk has its executable at the top, under its own name, and the folder `root`.
        mkfs: root of the unpacked `ext4_image.mkfs_packages`.
        provisioning: the mirror, the cache, and the log of slow steps.

    Raises:
        SetupBroken: mke2fs fails, or the disk is full.
    """
    builder = sha256(Path(ext4_image.__file__).read_bytes() + qemu.executable.read_bytes()).hexdigest()
    name = f"qemu-{qemu.name}-{manifest_digest(qemu.manifest)[:12]}-{builder[:8]}"
    final = provisioning.cache.path("hosts", name)
    if not (final / _DISK).exists():
        with provisioning.locked_staging("hosts") as staging:
            provisioning.log(f"Making a disk of QEMU '{qemu.name}'.")
            staged = staging / "disk"
            staged.mkdir()

            def write(file: io.BufferedIOBase) -> int:
                archive = TreeArchive(file)
                archive.add_path(qemu.executable.name, qemu.executable)
                archive.add_folder("root")
                archive.add_tree(qemu.executable.parent / "root", below="root/")
                archive.close()
                return archive.image_bytes

            fill_image(mkfs, staged / _DISK, write, label="qemu", journal=False)
            publish_folder(staged, final)
    return final / _DISK
