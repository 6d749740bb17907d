"""What the kernel says about pages: /proc/PID/pagemap, and its ioctl PAGEMAP_SCAN.

Bits are those of Linux Documentation/admin-guide/mm/pagemap.rst, constants of PAGEMAP_SCAN of linux/fs.h
(6.7).
"""

from __future__ import annotations

import ctypes
import os
import struct
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


class Entry(int):
    """The 64 bits that pagemap has for one page."""

    @property
    def present(self) -> bool:
        """Bit 63: the page is mapped."""
        return bool(self >> 63 & 1)

    @property
    def swapped(self) -> bool:
        """Bit 62: it is in swap space, or on its way to elsewhere."""
        return bool(self >> 62 & 1)

    @property
    def shared_or_file(self) -> bool:
        """Bit 61: it belongs to a file or shared anonymous memory (3.5)."""
        return bool(self >> 61 & 1)

    @property
    def write_protected(self) -> bool:
        """Bit 57: userfaultfd protects it (5.14; 0 before, whether it does or not)."""
        return bool(self >> 57 & 1)

    @property
    def exclusive(self) -> bool:
        """Bit 56: no other process maps it (4.2)."""
        return bool(self >> 56 & 1)

    @property
    def soft_dirty(self) -> bool:
        """Bit 55: written since the last clear_refs (3.11)."""
        return bool(self >> 55 & 1)

    @property
    def frame(self) -> int:
        """Bits 0 to 54: the page's frame, 0 without CAP_SYS_ADMIN (4.2) or if it is not present."""
        return self & (1 << 55) - 1 if self.present else 0


def read_pagemap(address: int, length: int, pid: Pid = "self") -> list[Entry]:
    """One entry per page of the system's page size, also where huge pages are mapped.

    Args:
        address: of the first byte.
        length: bytes.
        pid: whose memory it is.

    Raises:
        OSError: the file cannot be read; EACCES for another user's process.
    """
    count = length // PAGE_BYTES
    descriptor = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.pread(descriptor, 8 * count, address // PAGE_BYTES * 8)
    finally:
        os.close(descriptor)
    return [Entry(value) for (value,) in struct.iter_unpack("=Q", data)]


def protected_pages(address: int, length: int, pid: Pid = "self") -> list[int]:
    """Numbers of the pages, from 0 at `address`, that userfaultfd write-protects (5.14; none before)."""
    return [
        number for number, entry in enumerate(read_pagemap(address, length, pid)) if entry.write_protected
    ]


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
    """``struct page_region`` (6.7): addresses from `start` to below `end`, and the categories they are in."""

    _fields_ = [("start", ctypes.c_uint64), ("end", ctypes.c_uint64), ("categories", ctypes.c_uint64)]


@dataclass(frozen=True)
class Scan:
    """What PAGEMAP_SCAN found.

    Attributes:
        regions: (first address, address behind, categories) in ascending order.
        walk_end: where the walk ended, which is before the end when there was no more room for regions.
    """

    regions: tuple[tuple[int, int, int], ...]
    walk_end: int

    def pages(self, address: int) -> list[int]:
        """Numbers of all pages found, counted from 0 at `address`."""
        return [
            (place - address) // PAGE_BYTES
            for start, end, _ in self.regions
            for place in range(start, end, PAGE_BYTES)
        ]


def scan(
    address: int,
    length: int,
    *,
    flags: int = 0,
    mask: int = PAGE_IS_WRITTEN,
    any_of: int = 0,
    inverted: int = 0,
    returned: int = PAGE_IS_WRITTEN,
    most_regions: int = 4096,
    most_pages: int = 0,
) -> Scan:
    """Find pages of this process by category, and in the same step protect what was found (6.7).

    Args:
        address: of the first byte.
        length: bytes.
        flags: PM_SCAN_WP_MATCHING protects each page found, atomically with looking, so that no write between
            is lost; PM_SCAN_CHECK_WPASYNC fails where that does not work.
        mask: categories that a page must be in.
        any_of: at least one of these, 0 for no such condition.
        inverted: categories whose meaning is turned round before `mask` and `any_of` are looked at.
        returned: categories that the answer tells.
        most_regions: room for so many regions.
        most_pages: stop after so many pages, 0 for no limit.

    Raises:
        UserfaultfdError: ENOTTY, the kernel has no PAGEMAP_SCAN; EPERM, CHECK_WPASYNC or WP_MATCHING on
            memory that is not registered with WP_ASYNC; EINVAL, unknown flags or categories.
    """
    vector = (PageRegion * most_regions)()
    argument = ScanArgument(
        ctypes.sizeof(ScanArgument),
        flags,
        address,
        address + length,
        0,
        ctypes.addressof(vector),
        most_regions,
        most_pages,
        inverted,
        mask,
        any_of,
        returned,
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
    """Whether the kernel has PAGEMAP_SCAN, asked with an empty range: ENOTTY or EINVAL says no."""
    try:
        scan(0, 0, most_regions=1)
    except UserfaultfdError:
        return False
    return True
