"""Builds a full Debian guest without root: unpacked packages become an ext4 disk with root's ownership."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

from guest_images.disks.ext4_image import TreeArchive, fill_image
from guest_images.guests.initramfs import disk_initramfs
from guest_images.guests.kernel_modules import GUEST_MODULES, Module
from guest_images.guests.root_files import GROUP_OF, ROOT_FOLDERS, TESTER, root_files, root_links
from guest_images.guests.ssh_keys import GuestKeys

MODULES = (*GUEST_MODULES, "ext4", "autofs4")
"""Modules that the initramfs loads before it starts the disk's init; the disk has none."""

DISK_CMDLINE = "root=/dev/vda rw"
"""Words that the kernel command line of a guest with a disk has in addition."""

PACKAGES = (
    "base-files", "base-passwd", "bash", "bsdutils", "coreutils", "dash", "dbus", "debianutils", "diffutils",
    "e2fsprogs", "findutils", "grep", "gzip", "hostname", "init", "iproute2", "kmod", "less", "libc-bin",
    "login", "mawk", "mount", "ncurses-base", "openssh-server", "passwd", "procps", "qemu-guest-agent", "sed",
    "sudo", "systemd", "systemd-sysv", "tar", "tzdata", "udev", "util-linux",
)  # fmt: skip

_SIZE_MIB = 640
# Mode, user and group of paths that are not root's with their own mode. `dpkg-deb -x` without root gives all
# files to the user who runs it.
_OWNERS = {
    "usr/sbin/unix_chkpwd": (0o2755, 0, GROUP_OF["shadow"]),
    "usr/bin/chage": (0o2755, 0, GROUP_OF["shadow"]),
    "usr/bin/expiry": (0o2755, 0, GROUP_OF["shadow"]),
    "var/mail": (0o2775, 0, GROUP_OF["mail"]),
    "home/tester": (0o755, TESTER, TESTER),
    "home/tester/.ssh": (0o700, TESTER, TESTER),
    "root/.ssh": (0o700, 0, 0),
}


def boot_initramfs(userland: Path, modules: Iterable[Module]) -> bytes:
    """Return the initramfs that boots the disk, as an uncompressed cpio archive.

    Args:
        userland: root of the unpacked busybox-static.
        modules: the modules in the order to load them.
    """
    return disk_initramfs(userland, modules, "snapproof-guest", "/usr/lib/systemd/systemd")


def build_disk(packages: Path, mkfs: Path, keys: GuestKeys, disk: Path) -> None:
    """Write a sparse ext4 disk image that boots with `boot_initramfs`.

    Args:
        packages: root of the unpacked PACKAGES.
        mkfs: root of the unpacked `ext4_image.mkfs_packages`.
        keys: the SSH keys of the cache.
        disk: the file to make.

    Raises:
        SetupBroken: mke2fs fails.
    """
    fill_image(
        mkfs, disk, lambda file: write_archive(packages, keys, file), label="guest", size_mib=_SIZE_MIB
    )


def write_archive(packages: Path, keys: GuestKeys, file: io.BufferedIOBase) -> int:
    """Write the disk's content as a tar archive; return the size of an image with it, in bytes.

    Equal packages and keys give equal archives.
    """
    files, links = root_files(keys), root_links()
    archive = TreeArchive(file, _OWNERS)
    archive.add_tree(packages, skip=frozenset((*files, *links)))
    for name in ROOT_FOLDERS:
        archive.add_folder(name)
    for name, target in sorted(links.items()):
        archive.add_link(name, target)
    for name, (mode, user, group, content) in sorted(files.items()):
        archive.add_file(name, content, (mode, user, group))
    archive.close()
    return archive.image_bytes
