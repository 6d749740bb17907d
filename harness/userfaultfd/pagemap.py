"""Read the state of pages from /proc/PID/pagemap, and find pages by its ioctl PAGEMAP_SCAN.

The bits are those of Linux Documentation/admin-guide/mm/pagemap.rst, the constants of PAGEMAP_SCAN those of
linux/fs.h (6.7). A number in parentheses is the first Linux version.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from dataclasses import dataclass
from typing import Union

from .errors import UserfaultfdError
from .libc import LIBC, PAGE_BYTES

Pid = Union[int, str]

# asm-generic/ioctl.h: _IOWR('f', 16, struct pm_scan_arg).
PAGEMAP_SCAN = 0xC0606610

PAGE_IS_WPALLOWED = 1 << 0
PAGE_IS_WRITTEN = 1 << 1
PAGE_IS_FILE = 1 << 2
PAGE_IS_PRESENT = 1 << 3
PAGE_IS_SWAPPED = 1 << 4
PAGE_IS_PFNZERO = 1 << 5
PAGE_IS_HUGE = 1 << 6
PAGE_IS_SOFT_DIRTY = 1 << 7  # 6.8

PM_SCAN_WP_MATCHING = 1
PM_SCAN_CHECK_WPASYNC = 2


# Of each entry of 64 bits: the place of its most significant byte, and that byte as bit 57 of the entry.
_HIGH_BYTE = 7 if sys.byteorder == "little" else 0
_PROTECTED = bytes(byte >> 1 & 1 for byte in range(256))


class PagemapEntry(int):
    """The 64-bit entry of one page in pagemap."""

    @property
    def present(self) -> bool:
        """Bit 63: the page is mapped."""
        return bool(self >> 63 & 1)

    @property
    def swapped(self) -> bool:
        """Bit 62: the page is in swap space, or being migrated."""
        return bool(self >> 62 & 1)

    @property
    def shared_or_file(self) -> bool:
        """Bit 61: the page belongs to a file or to shared anonymous memory (3.5)."""
        return bool(self >> 61 & 1)

    @property
    def write_protected(self) -> bool:
        """Bit 57: userfaultfd write-protects the page (5.14; always 0 before)."""
        return bool(self >> 57 & 1)

    @property
    def exclusive(self) -> bool:
        """Bit 56: no other process maps the page (4.2)."""
        return bool(self >> 56 & 1)

    @property
    def soft_dirty(self) -> bool:
        """Bit 55: the page was written since the last write to clear_refs (3.11)."""
        return bool(self >> 55 & 1)

    @property
    def frame(self) -> int:
        """Bits 0 to 54: the page frame number, 0 without CAP_SYS_ADMIN (4.2) or for a page not present."""
        return self & (1 << 55) - 1 if self.present else 0


def read_pagemap(address: int, length: int, pid: Pid = "self") -> list[PagemapEntry]:
    """Return the pagemap entries of a range: one per page of the system's page size, for huge pages too.

    Args:
        address: of the first byte.
        length: in bytes.
        pid: process that owns the memory.

    Raises:
        OSError: the file cannot be read; EACCES for another user's process.
    """
    return [PagemapEntry(value) for value in read_entries(address, length, pid)]


def read_entries(address: int, length: int, pid: Pid = "self") -> tuple[int, ...]:
    """Return what `read_pagemap` returns as plain numbers, which takes less time."""
    data = _entries(address, length, pid)
    return struct.unpack(f"={len(data) // 8}Q", data)


def protected_pages(address: int, length: int, pid: Pid = "self", page_bytes: int = PAGE_BYTES) -> list[int]:
    """Return the pages of a range that userfaultfd write-protects, by number from 0 at `address`.

    Kernels before 5.14 do not show protection: the list is empty there.

    Args:
        address: of the first byte.
        length: in bytes.
        pid: process that owns the memory.
        page_bytes: size of the pages to number; a huge page counts if any of its entries shows protection.
    """
    # No loop over the entries: the byte with bit 57 of each, and of that byte the bit, by calls in C.
    shown = _entries(address, length, pid)[_HIGH_BYTE::8].translate(_PROTECTED)
    per = page_bytes // PAGE_BYTES
    if per == 1:
        return [number for number, flag in enumerate(shown) if flag]
    return [start // per for start in range(0, len(shown), per) if 1 in shown[start : start + per]]


def _entries(address: int, length: int, pid: Pid) -> bytes:
    descriptor = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, length // PAGE_BYTES * 8, address // PAGE_BYTES * 8)
    finally:
        os.close(descriptor)


class ScanArgument(ctypes.Structure):
    """``struct pm_scan_arg`` (6.7)."""

    _fields_ = [
        ("size", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("start", ctypes.c_uint64),
        ("end", ctypes.c_uint64),
        ("walk_end", ctypes.c_uint64),
        ("vec", ctypes.c_uint64),
        ("vec_len", ctypes.c_uint64),
        ("max_pages", ctypes.c_uint64),
        ("category_inverted", ctypes.c_uint64),
        ("category_mask", ctypes.c_uint64),
        ("category_anyof_mask", ctypes.c_uint64),
        ("return_mask", ctypes.c_uint64),
    ]


class PageRegion(ctypes.Structure):
    """``struct page_region`` (6.7): the addresses [start, end), and the categories of their pages."""

    _fields_ = [("start", ctypes.c_uint64), ("end", ctypes.c_uint64), ("categories", ctypes.c_uint64)]


@dataclass(frozen=True)
class Scan:
    """The result of PAGEMAP_SCAN.

    Attributes:
        regions: (start address, end address, categories) in ascending order.
        walk_end: address at which the walk ended; below the end of the range when a limit was reached.
    """

    regions: tuple[tuple[int, int, int], ...]
    walk_end: int

    def pages(self, address: int) -> list[int]:
        """Return the numbers of all pages found, from 0 at `address`."""
        return [
            (place - address) // PAGE_BYTES
            for start, end, _ in self.regions
            for place in range(start, end, PAGE_BYTES)
        ]


def scan(
    address: int, length: int, *, flags: int = 0, mask: int = PAGE_IS_WRITTEN, most_regions: int = 4 << 10
) -> Scan:
    """Find pages of this process by category, and optionally protect them in the same step (6.7).

    Args:
        address: of the first byte.
        length: in bytes.
        flags: PM_SCAN_WP_MATCHING protects each page as it is found, atomically, so that no write in between
            is lost; PM_SCAN_CHECK_WPASYNC makes the call fail for memory that cannot be protected so.
        mask: categories that a page must all be in.
        most_regions: stop after so many regions.

    Raises:
        UserfaultfdError: ENOTTY, the kernel has no PAGEMAP_SCAN; EPERM, CHECK_WPASYNC or WP_MATCHING on
            memory that is not registered with WP_ASYNC; EINVAL, unknown flags or categories.
    """
    vector = (PageRegion * most_regions)()
    argument = ScanArgument(
        size=ctypes.sizeof(ScanArgument),
        flags=flags,
        start=address,
        end=address + length,
        vec=ctypes.addressof(vector),
        vec_len=most_regions,
        category_mask=mask,
        return_mask=PAGE_IS_WRITTEN,
    )
    descriptor = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        count = int(LIBC.ioctl(descriptor, PAGEMAP_SCAN, ctypes.byref(argument)))
        if count < 0:
            raise UserfaultfdError(ctypes.get_errno(), "PAGEMAP_SCAN", address, length)
    finally:
        os.close(descriptor)
    found = tuple((region.start, region.end, region.categories) for region in vector[:count])
    return Scan(found, int(argument.walk_end))


def scan_supported() -> bool:
    """Return whether the kernel has PAGEMAP_SCAN, by a scan of an empty range: an error means no."""
    try:
        scan(0, 0, most_regions=1)
    except UserfaultfdError:
        return False
    return True
