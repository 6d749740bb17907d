"""Builds a full Debian guest without root: unpacked packages become an ext4 disk with root's ownership."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from guest_images import cpio
from guest_images.init_script import MODULES_FOLDER
from guest_images.initramfs import module_entries, program
from guest_images.kernel_modules import WANTED, Module
from guest_images.root_files import GROUP_OF, ROOT_FOLDERS, TESTER, root_files, root_links
from guest_images.ssh_keys import GuestKeys
from harness.errors import Evidence, SetupBroken

MODULES = (*WANTED, "ext4", "autofs4")
"""What the initramfs loads before it hands over; the disk has no modules."""

DISK_CMDLINE = "root=/dev/vda rw"

PACKAGES = (
    "base-files", "base-passwd", "bash", "bsdutils", "coreutils", "dash", "dbus", "debianutils", "diffutils",
    "e2fsprogs", "findutils", "grep", "gzip", "hostname", "init", "iproute2", "kmod", "less", "libc-bin",
    "login", "mawk", "mount", "ncurses-base", "openssh-server", "passwd", "procps", "sed", "sudo", "systemd",
    "systemd-sysv", "tar", "tzdata", "udev", "util-linux",
)  # fmt: skip

MKFS_PACKAGES = ("e2fsprogs", "libarchive13t64")
"""mke2fs from 1.47.1 on fills a file system from a tar archive, for which it loads libarchive."""

_SIZE_MIB = 640
_UUID = "6f0d6c2e-7a3b-4f55-9d4e-3c1f5b8a9e10"
# In all of it the same time, so that equal packages give equal disks: that of this builder.
_TIME = 1_763_942_400
_LEFT_OUT = ("usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian")
# Who owns what, where that is not root: dpkg-deb -x without root leaves all to whoever runs it.
_OWNERS = {
    "usr/sbin/unix_chkpwd": (0o2755, 0, GROUP_OF["shadow"]),
    "usr/bin/chage": (0o2755, 0, GROUP_OF["shadow"]),
    "usr/bin/expiry": (0o2755, 0, GROUP_OF["shadow"]),
    "var/mail": (0o2775, 0, GROUP_OF["mail"]),
    "home/tester": (0o755, TESTER, TESTER),
    "home/tester/.ssh": (0o700, TESTER, TESTER),
    "root/.ssh": (0o700, 0, 0),
}
_MKFS_SECONDS = 300.0

_INIT = f"""\
#!/bin/busybox sh
# PID 1 of the initramfs: loads drivers, mounts the disk and hands over to its init.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
while read -r module; do
    insmod "/{MODULES_FOLDER}/$module" || echo "snapproof-guest: cannot load $module"
done < /{MODULES_FOLDER}/order
root=$(sed -n 's/.*\\<root=\\([^ ]*\\).*/\\1/p' /proc/cmdline)
tries=0
until [ -b "$root" ] || [ $tries -eq 100 ]; do
    tries=$((tries + 1))
    sleep 0.1
done
mount -t ext4 "$root" /mnt || echo "snapproof-guest: cannot mount $root"
mount --move /dev /mnt/dev
umount /proc
exec switch_root /mnt /usr/lib/systemd/systemd
"""


def boot_initramfs(userland: Path, modules: Iterable[Module]) -> bytes:
    """The initramfs that boots the disk, as an uncompressed cpio archive.

    Args:
        userland: root of the unpacked busybox-static.
        modules: in the order to load them.
    """
    folders = ("bin", "dev", "lib", MODULES_FOLDER, "mnt", "proc")
    return cpio.archive(
        [
            *(cpio.folder(path) for path in folders),
            cpio.character_device("dev/console", 5, 1),
            cpio.file("init", _INIT.encode(), 0o755),
            cpio.file("bin/busybox", program(userland, "busybox").read_bytes(), 0o755),
            *module_entries(modules),
        ]
    )


def build_disk(packages: Path, mkfs: Path, keys: GuestKeys, disk: Path) -> None:
    """Write an ext4 disk image, sparse, that boots with `boot_initramfs`.

    Args:
        packages: root of the unpacked PACKAGES.
        mkfs: root of the unpacked MKFS_PACKAGES.
        keys: of the cache.
        disk: the file to make.

    Raises:
        SetupBroken: mke2fs fails.
    """
    archive = disk.with_suffix(".tar")
    try:
        with archive.open("wb") as file:
            write_archive(packages, keys, file)
        _mke2fs(mkfs, archive, disk)
    finally:
        archive.unlink(missing_ok=True)


def write_archive(packages: Path, keys: GuestKeys, file: io.BufferedIOBase) -> None:
    """Write the disk's content as a tar archive, byte-identical for equal packages and keys."""
    files, links = root_files(keys), root_links()
    added = {*files, *links}
    parents = {str(parent) for path in (*added, *ROOT_FOLDERS) for parent in Path(path).parents} - {"."}
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        there = set()
        for name, path in _walk(packages):
            there.add(name)
            if name not in added:
                _add(tar, name, path)
        for name in sorted((parents | set(ROOT_FOLDERS)) - there):
            tar.addfile(_member(name, tarfile.DIRTYPE, 0o755))
        for name, target in sorted(links.items()):
            member = _member(name, tarfile.SYMTYPE, 0o777)
            member.linkname = target
            tar.addfile(member)
        for name, (mode, user, group, content) in sorted(files.items()):
            member = _member(name, tarfile.REGTYPE, mode, user, group)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    for folder, folders, files in os.walk(root):
        folders.sort()
        base = Path(folder)
        for name in sorted([*folders, *files]):
            path = base / name
            relative = str(path.relative_to(root))
            if not relative.startswith(_LEFT_OUT):
                yield relative, path


def _add(tar: tarfile.TarFile, name: str, path: Path) -> None:
    status = path.lstat()
    if path.is_symlink():
        member = _member(name, tarfile.SYMTYPE, 0o777)
        member.linkname = str(path.readlink())
        tar.addfile(member)
    elif path.is_dir():
        tar.addfile(_member(name, tarfile.DIRTYPE, status.st_mode & 0o7777))
    elif path.is_file():
        member = _member(name, tarfile.REGTYPE, status.st_mode & 0o7777)
        member.size = status.st_size
        with path.open("rb") as content:
            tar.addfile(member, content)


def _member(name: str, kind: bytes, mode: int, user: int = 0, group: int = 0) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mtime = kind, _TIME
    member.mode, member.uid, member.gid = _OWNERS.get(name, (mode, user, group))
    return member


def _mke2fs(root: Path, archive: Path, disk: Path) -> None:
    """Run the mke2fs of the unpacked packages by their own loader, as guest_images.qemu does with QEMU."""
    libraries = root / "usr/lib/x86_64-linux-gnu"
    # fmt: off
    command = [
        str(libraries / "ld-linux-x86-64.so.2"), "--inhibit-cache", "--library-path", str(libraries),
        str(root / "usr/sbin/mke2fs"),
        "-q", "-F", "-t", "ext4", "-m", "0", "-L", "guest", "-J", "size=8",
        "-U", _UUID, "-E", f"hash_seed={_UUID},root_owner=0:0,lazy_itable_init=1",
        "-d", str(archive), str(disk), f"{_SIZE_MIB}M",
    ]
    # fmt: on
    environment = {
        "MKE2FS_CONFIG": str(root / "etc/mke2fs.conf"),
        "SOURCE_DATE_EPOCH": str(_TIME),
        "E2FSPROGS_FAKE_TIME": str(_TIME),
        "LC_ALL": "C",
    }
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", timeout=_MKFS_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise SetupBroken(
            f"mke2fs did not make the guest's disk within {_MKFS_SECONDS:.0f} s.", Evidence(command)
        ) from error
    if done.returncode:
        raise SetupBroken(
            f"mke2fs could not make the guest's disk (exit code {done.returncode}).",
            Evidence(command, done.returncode, done.stderr),
        )
