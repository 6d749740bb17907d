"""A QEMU build as a disk: an ext4 image that a VM host mounts to run it."""

from __future__ import annotations

import io
from hashlib import sha256
from pathlib import Path

from guest_images import ext4_image
from guest_images.cache import Cache, Log, publish_folder
from guest_images.catalogue import USERLAND_SUITE, suite
from guest_images.ext4_image import MKFS_PACKAGES, TreeArchive, fill_image
from guest_images.packages import PackageSet, find_tree, manifest_digest, provide_tree
from guest_images.qemu import ProvisionedQemu

_DISK = "qemu.raw"


def mkfs_root(cache: Cache, log: Log, mirror: str | None = None) -> Path:
    """Root of the unpacked packages that ext4_image makes file systems with.

    Raises:
        MachineryMissing, SetupBroken: see `packages.provide_tree`.
    """
    wanted = PackageSet("mkfs", suite(USERLAND_SUITE), MKFS_PACKAGES)
    return (find_tree(wanted, cache) or provide_tree(wanted, cache, log, mirror=mirror)).root


def qemu_disk(qemu: ProvisionedQemu, mkfs: Path, cache: Cache, log: Log) -> Path:
    """Return an image with the QEMU as `/qemu-system-x86_64` and its `root/`, made where there is none.

    Raises:
        SetupBroken: mke2fs fails, or the disk is full.
    """
    builder = sha256(Path(ext4_image.__file__).read_bytes() + qemu.executable.read_bytes()).hexdigest()
    name = f"qemu-{qemu.name}-{manifest_digest(qemu.manifest)[:12]}-{builder[:8]}"
    final = cache.path("hosts", name)
    if not (final / _DISK).exists():
        with cache.lock("hosts", log), cache.staging("hosts") as staging:
            log(f"Making a disk of QEMU '{qemu.name}'.")
            staged = staging / "disk"
            staged.mkdir()

            def write(file: io.BufferedIOBase) -> int:
                archive = TreeArchive(file)
                archive.add_path(qemu.executable.name, qemu.executable)
                archive.add_folder("root")
                archive.add_tree(qemu.executable.parent / "root", below="root/")
                archive.close()
                return archive.needs

            fill_image(mkfs, staged / _DISK, write, label="qemu", journal=False)
            publish_folder(staged, final)
    return final / _DISK
