"""Fills ext4 images without root: files and unpacked packages become a tar archive, mke2fs takes that."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

from guest_images.loader import find_loader
from harness.errors import Evidence, SetupBroken

MKFS_PACKAGES = ("e2fsprogs", "libarchive13t64")
"""mke2fs from 1.47.1 on fills a file system from a tar archive, for which it loads libarchive."""

LEFT_OUT = ("usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian")
"""Folders of packages that no program needs."""

TIME = 1_763_942_400
"""The time of everything in an image, so that equal contents give equal images."""

Owner = tuple[int, int, int]
"""Mode, user id and group id."""

_UUID = "6f0d6c2e-7a3b-4f55-9d4e-3c1f5b8a9e10"
_MKFS_SECONDS = 300.0
# An image that is as large as what is in it: per file a block to round up to and an inode, per image the
# superblocks and what directories need.
_BLOCK, _INODE, _SPARE = 4096, 256, 8 << 20


class TreeArchive:
    """A tar archive that becomes the content of an image, byte-identical for equal contents."""

    def __init__(
        self,
        file: io.BufferedIOBase,
        owners: Mapping[str, Owner] | None = None,
        placed: Callable[[str], str] = lambda name: name,
    ) -> None:
        """Begin an archive.

        Args:
            file: where it goes.
            owners: of paths that are not root's with their own mode.
            placed: where a path is to go, say `usr/bin/sh` for `bin/sh`.
        """
        self._tar = tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT)  # noqa: SIM115
        self._owners = owners or {}
        self._placed = placed
        self._there: set[str] = set()
        self.needs = _SPARE
        """Bytes that an image with all this takes."""

    def add_tree(self, root: Path, below: str = "", skip: frozenset[str] = frozenset()) -> None:
        """Add what is in a folder, in order, without what is already there, LEFT_OUT and `skip`."""
        for folder, folders, files in os.walk(root):
            folders.sort()
            for name in sorted([*folders, *files]):
                path = Path(folder) / name
                relative = str(path.relative_to(root))
                if not relative.startswith(LEFT_OUT) and relative not in skip:
                    self._add_path(f"{below}{relative}", path)

    def add_folder(self, name: str, mode: int = 0o755) -> None:
        """Add a folder, and those above it, where they are not there."""
        for parent in [*reversed(Path(name).parents), Path(name)]:
            path = self._placed(str(parent))
            if path not in self._there and path != ".":
                self._add(self._member(path, tarfile.DIRTYPE, mode))

    def add_file(self, name: str, content: bytes, owner: Owner = (0o644, 0, 0)) -> None:
        """Add a file, and the folders above it."""
        self.add_folder(str(Path(name).parent))
        member = self._member(self._placed(name), tarfile.REGTYPE, *owner)
        member.size = len(content)
        self._add(member, io.BytesIO(content))

    def add_path(self, name: str, path: Path) -> None:
        """Add a file of this machine, and the folders above it."""
        self.add_folder(str(Path(name).parent))
        self._add_path(name, path)

    def add_link(self, name: str, target: str) -> None:
        """Add a symbolic link, and the folders above it; one that is there stays."""
        self.add_folder(str(Path(name).parent))
        if self._placed(name) not in self._there:
            member = self._member(self._placed(name), tarfile.SYMTYPE, 0o777)
            member.linkname = target
            self._add(member)

    def close(self) -> None:
        """End the archive."""
        self._tar.close()

    def _add_path(self, name: str, path: Path) -> None:
        name = self._placed(name)
        status = path.lstat()
        if name in self._there:
            return
        if path.is_symlink():
            member = self._member(name, tarfile.SYMTYPE, 0o777)
            member.linkname = str(path.readlink())
            self._add(member)
        elif path.is_dir():
            self._add(self._member(name, tarfile.DIRTYPE, status.st_mode & 0o7777))
        elif path.is_file():
            member = self._member(name, tarfile.REGTYPE, status.st_mode & 0o7777)
            member.size = status.st_size
            with path.open("rb") as content:
                self._add(member, content)

    def _member(self, name: str, kind: bytes, mode: int, user: int = 0, group: int = 0) -> tarfile.TarInfo:
        member = tarfile.TarInfo(name)
        member.type, member.mtime = kind, TIME
        member.mode, member.uid, member.gid = self._owners.get(name, (mode, user, group))
        return member

    def _add(self, member: tarfile.TarInfo, content: io.BufferedIOBase | None = None) -> None:
        self._there.add(member.name)
        self._tar.addfile(member, content)
        self.needs += -(-member.size // _BLOCK) * _BLOCK * 101 // 100 + _BLOCK + 2 * _INODE


def fill_image(
    mkfs: Path,
    image: Path,
    write: Callable[[io.BufferedIOBase], int],
    *,
    label: str,
    size_mib: int | None = None,
    free_mib: int = 0,
    journal: bool = True,
) -> None:
    """Make an image file, sparse, with an ext4 file system of what `write` puts into an archive.

    Args:
        mkfs: root of the unpacked MKFS_PACKAGES.
        image: the file to make.
        write: writes the archive and returns the bytes that an image of it takes.
        label: of the file system.
        size_mib: of the image, by default what it takes.
        free_mib: room beside what it takes.
        journal: whether the file system has one; one that is never written needs none.

    Raises:
        SetupBroken: mke2fs fails.
    """
    archive = image.with_suffix(".tar")
    try:
        with archive.open("wb") as file:
            needs = write(file)
        options = ["-J", "size=8"] if journal else ["-O", "^has_journal"]
        size = size_mib or (needs >> 20) + 1 + free_mib
        _mke2fs(mkfs, [*options, "-L", label, "-d", str(archive), str(image), f"{size}M"])
    finally:
        archive.unlink(missing_ok=True)


def _mke2fs(root: Path, arguments: list[str]) -> None:
    """Run the mke2fs of the unpacked packages by their own loader, as guest_images.qemu does with QEMU."""
    extended = f"hash_seed={_UUID},root_owner=0:0,lazy_itable_init=1"
    # fmt: off
    command = [
        *find_loader(root).command(root, "usr/sbin/mke2fs"),
        "-q", "-F", "-t", "ext4", "-m", "0", "-U", _UUID, "-E", extended, *arguments,
    ]
    # fmt: on
    environment = {
        "MKE2FS_CONFIG": str(root / "etc/mke2fs.conf"),
        "SOURCE_DATE_EPOCH": str(TIME),
        "E2FSPROGS_FAKE_TIME": str(TIME),
        "LC_ALL": "C",
    }
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", timeout=_MKFS_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise SetupBroken(
            f"mke2fs did not make the disk within {_MKFS_SECONDS:.0f} s.", Evidence(command)
        ) from error
    if done.returncode:
        raise SetupBroken(
            f"mke2fs could not make the disk (exit code {done.returncode}).",
            Evidence(command, done.returncode, done.stderr),
        )
