"""Builds filled ext4 images without root: files and packages go into a tar archive, which mke2fs reads."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

from guest_images.catalogue import userland_suite
from guest_images.packages.loader import find_loader
from guest_images.packages.unpacked import PackageSet, provide_tree
from guest_images.programs import run_program
from guest_images.provisioning import Provisioning
from harness.errors import Evidence, SetupBroken

# From 1.47.1 on mke2fs can fill a file system from a tar archive; it loads libarchive for that.
_MKFS_PACKAGES = ("e2fsprogs", "libarchive13t64")

LEFT_OUT = ("usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian")
"""Folders of packages that are left out of images, since no program needs them."""

TIME = 1_763_942_400
"""Time of all files in an image, in seconds since 1970; fixed, so that equal contents give equal images."""

Owner = tuple[int, int, int]
"""Mode, user id and group id."""

_UUID = "6f0d6c2e-7a3b-4f55-9d4e-3c1f5b8a9e10"
_MKFS_SECONDS = 300.0
# What an image takes beside the files' content: a block to round up to and an inode for each file, and room
# for superblocks and directories. Blocks of an ext4 file system of this size have 4 KiB.
_BLOCK_BYTES, _INODE_BYTES, _SPARE_BYTES = 4 << 10, 256, 8 << 20


def mkfs_packages() -> PackageSet:
    """Return the packages of the mke2fs that `fill_image` runs on this machine."""
    return PackageSet("mkfs", userland_suite(), _MKFS_PACKAGES)


def mkfs_root(provisioning: Provisioning) -> Path:
    """Return the root of the unpacked `mkfs_packages`; raise the errors of `unpacked.provide_tree`."""
    return provide_tree(mkfs_packages(), provisioning).root


class TreeArchive:
    """A tar archive to fill an image with; it is byte-identical for equal contents."""

    def __init__(
        self,
        file: io.BufferedIOBase,
        owners: Mapping[str, Owner] | None = None,
        placed: Callable[[str], str] = lambda name: name,
    ) -> None:
        """Begin an archive.

        Args:
            file: the archive is written to it.
            owners: mode, user and group of paths that are not root's, or have another mode in the image.
            placed: returns the path in the image for a path that is added, e.g. `usr/bin/sh` for `bin/sh`.
        """
        self._tar = tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT)  # noqa: SIM115
        self._owners = owners or {}
        self._placed = placed
        self._there: set[str] = set()
        self.image_bytes = _SPARE_BYTES
        """Size of an image with all that was added, in bytes."""

    def add_tree(self, root: Path, below: str = "", skip: frozenset[str] = frozenset()) -> None:
        """Add the content of a folder in a fixed order; paths that were added before stay.

        Args:
            root: the folder.
            below: beginning of the paths in the image, with a slash at its end.
            skip: paths below `root` that are left out, as LEFT_OUT is.
        """
        for folder, folders, files in os.walk(root):
            folders.sort()
            for name in sorted([*folders, *files]):
                path = Path(folder) / name
                relative = str(path.relative_to(root))
                if not relative.startswith(LEFT_OUT) and relative not in skip:
                    self._add_path(f"{below}{relative}", path)

    def add_folder(self, name: str, mode: int = 0o755) -> None:
        """Add a folder and its parents, unless they were added before."""
        for parent in [*reversed(Path(name).parents), Path(name)]:
            path = self._placed(str(parent))
            if path not in self._there and path != ".":
                self._add(self._member(path, tarfile.DIRTYPE, mode))

    def add_file(self, name: str, content: bytes, owner: Owner = (0o644, 0, 0)) -> None:
        """Add a file with the given content, and its parent folders."""
        self.add_folder(str(Path(name).parent))
        member = self._member(self._placed(name), tarfile.REGTYPE, *owner)
        member.size = len(content)
        self._add(member, io.BytesIO(content))

    def add_path(self, name: str, path: Path) -> None:
        """Add a file of this machine, and its parent folders."""
        self.add_folder(str(Path(name).parent))
        self._add_path(name, path)

    def add_link(self, name: str, target: str) -> None:
        """Add a symbolic link and its parent folders, unless the path was added before."""
        self.add_folder(str(Path(name).parent))
        if self._placed(name) not in self._there:
            member = self._member(self._placed(name), tarfile.SYMTYPE, 0o777)
            member.linkname = target
            self._add(member)

    def close(self) -> None:
        """Write the end of the archive."""
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
        blocks_bytes = -(-member.size // _BLOCK_BYTES) * _BLOCK_BYTES
        self.image_bytes += blocks_bytes * 101 // 100 + _BLOCK_BYTES + 2 * _INODE_BYTES


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
    """Make a sparse image file with an ext4 file system that is filled from an archive.

    Args:
        mkfs: root of the unpacked `mkfs_packages`.
        image: the file to make.
        write: writes the archive, and returns the size in bytes of an image with its content.
        label: the file system's label.
        size_mib: size of the image, by default as much as its content takes.
        free_mib: room for further files, where `size_mib` is not given.
        journal: whether the file system gets a journal; one that is never written to needs none.

    Raises:
        SetupBroken: mke2fs fails.
    """
    archive = image.with_suffix(".tar")
    try:
        with archive.open("wb") as file:
            content_bytes = write(file)
        options = ["-J", "size=8"] if journal else ["-O", "^has_journal"]
        size = size_mib or (content_bytes >> 20) + 1 + free_mib
        _mke2fs(mkfs, [*options, "-L", label, "-d", str(archive), str(image), f"{size}M"])
    finally:
        archive.unlink(missing_ok=True)


def _mke2fs(root: Path, arguments: list[str]) -> None:
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
    }
    done = run_program("mke2fs", "make the disk", command, _MKFS_SECONDS, environment=environment)
    if done.returncode:
        raise SetupBroken(
            f"mke2fs could not make the disk '{arguments[-2]}' (exit code {done.returncode}).",
            Evidence(command, done.returncode, done.stderr),
        )
