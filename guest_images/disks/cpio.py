"""Writes initramfs archives in the kernel's `newc` cpio format, byte-identical for equal contents."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# Format: Linux Documentation/driver-api/early-userspace/buffer-format.rst. All numbers are 8 hex digits.
_MAGIC = b"070701"
_HEADER_BYTES = 110
_BLOCK_BYTES = 512


@dataclass(frozen=True)
class ArchiveEntry:
    """A file, folder, link or device node of an archive; root owns it, and its time is 0.

    Attributes:
        path: relative to the root of the archive, without a slash at either end.
        mode: file type and permission bits, as in st_mode.
        data: file content, or the target of a symbolic link.
        device: major and minor number of a device node.
    """

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def folder(path: str, mode: int = 0o755) -> ArchiveEntry:
    """Return the entry of a folder."""
    return ArchiveEntry(path, stat.S_IFDIR | mode)


def file(path: str, data: bytes, mode: int = 0o644) -> ArchiveEntry:
    """Return the entry of a regular file."""
    return ArchiveEntry(path, stat.S_IFREG | mode, data)


def link(path: str, target: str) -> ArchiveEntry:
    """Return the entry of a symbolic link."""
    return ArchiveEntry(path, stat.S_IFLNK | 0o777, target.encode())


def character_device(path: str, major: int, minor: int, mode: int = 0o600) -> ArchiveEntry:
    """Return the entry of a character device node, which needs no root to be put into an archive."""
    return ArchiveEntry(path, stat.S_IFCHR | mode, device=(major, minor))


def archive(entries: Iterable[ArchiveEntry]) -> bytes:
    """Return an archive of entries, padded as GNU cpio pads it.

    Entries are sorted by path and numbered in that order, so the bytes do not depend on the order of
    `entries`. Each folder comes before its content, since the kernel does not make missing folders.

    Raises:
        ValueError: two entries have the same path, or an entry's folder is missing.
    """
    ordered = sorted(entries, key=lambda entry: entry.path)
    _check(ordered)
    body = b"".join(
        record for number, entry in enumerate(ordered, 1) for record in _records(entry, number)
    ) + b"".join(_records(ArchiveEntry("TRAILER!!!", 0), 0))
    return body + bytes(-len(body) % _BLOCK_BYTES)


def _check(ordered: list[ArchiveEntry]) -> None:
    folders = {""}
    seen: set[str] = set()
    for entry in ordered:
        if entry.path in seen:
            raise ValueError(f"'{entry.path}' is in the archive twice")
        if entry.path.rpartition("/")[0] not in folders:
            raise ValueError(f"the folder of '{entry.path}' is not in the archive")
        seen.add(entry.path)
        if stat.S_ISDIR(entry.mode):
            folders.add(entry.path)


def _records(entry: ArchiveEntry, inode: int) -> Iterator[bytes]:
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    owner = group = mtime = device_major = device_minor = checksum = 0
    numbers = (inode, entry.mode, owner, group, links, mtime, len(entry.data), device_major, device_minor)
    yield _MAGIC
    yield b"".join(b"%08x" % number for number in (*numbers, *entry.device, len(name), checksum))
    yield name
    yield bytes(-(_HEADER_BYTES + len(name)) % 4)
    yield entry.data
    yield bytes(-len(entry.data) % 4)
