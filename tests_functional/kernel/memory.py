"""What guest RAM can be made of, as data: how to get it, what it needs, and why it is tested apart."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from typing import Callable

from harness.userfaultfd import PAGE_BYTES, Feature, Region, libc

HUGE_BYTES = 2 << 20
"""Size of a PMD on x86_64, and on arm64 with pages of 4 KiB."""


@dataclass(frozen=True)
class MemoryType:
    """A kind of memory.

    Attributes:
        name: part of the names of tests.
        make: maps so many pages.
        features: bits of userfaultfd that write protection needs on it.
        needs: names from `needs.NEEDS`.
        why: what the kernel does otherwise than for the others.
        step: pages come in multiples of this, so that whole huge pages can be had.
        zero: pages are read and not written at first, so that all are the kernel's zero page.
        verify: whether the kernel really made it of huge pages is looked at by this key of /proc/self/smaps.
    """

    name: str
    make: Callable[[int], Region]
    features: int
    why: str
    needs: tuple[str, ...] = ()
    step: int = 1
    zero: bool = False
    verify: str = ""


def _advised(region: Region, advice: int) -> Region:
    libc.madvise(region.address, region.length, advice)
    return region


def _small(pages: int) -> Region:
    region = Region.anonymous(pages * PAGE_BYTES)
    try:
        return _advised(region, libc.MADV_NOHUGEPAGE)
    except OSError:
        # EINVAL: the kernel has no transparent huge pages.
        return region


def _thp(pages: int) -> Region:
    return _advised(Region.anonymous(pages * PAGE_BYTES, align=HUGE_BYTES), libc.MADV_HUGEPAGE)


def _shmem_thp(pages: int) -> Region:
    return _advised(Region.anonymous(pages * PAGE_BYTES, shared=True, align=HUGE_BYTES), libc.MADV_HUGEPAGE)


def _file(pages: int) -> Region:
    with tempfile.NamedTemporaryFile(dir=os.environ.get("TMPDIR", "/var/tmp")) as file:
        file.truncate(pages * PAGE_BYTES)
        return Region.file(os.dup(file.fileno()), pages * PAGE_BYTES)


_WP = int(Feature.PAGEFAULT_FLAG_WP)
_WP_SHARED = _WP | int(Feature.WP_HUGETLBFS_SHMEM)
_THP_PAGES = HUGE_BYTES // PAGE_BYTES

ANON = MemoryType("anon", _small, _WP, "QEMU's RAM by default")
ANON_ZERO = MemoryType(
    "anon-zero",
    _small,
    _WP,
    "pages that were only read share one page of zeros; QEMU reads all before a save",
    zero=True,
)
ANON_THP = MemoryType(
    "anon-thp",
    _thp,
    _WP,
    "one entry protects 512 pages, and is split when one of them is written",
    ("thp",),
    _THP_PAGES,
    verify="AnonHugePages",
)
ANON_MTHP = MemoryType(
    "anon-mthp", _thp, _WP, "folios of 64 KiB (6.8) are unmapped and swapped as a batch", ("mthp",), 16
)
SHMEM = MemoryType(
    "shmem",
    lambda pages: Region.anonymous(pages * PAGE_BYTES, shared=True),
    _WP_SHARED,
    "a page that is not mapped keeps its protection as a marker",
)
MEMFD = MemoryType(
    "memfd", lambda pages: Region.memfd(pages * PAGE_BYTES), _WP_SHARED, "QEMU's memory-backend-memfd"
)
MEMFD_PRIVATE = MemoryType(
    "memfd-private",
    lambda pages: Region.memfd(pages * PAGE_BYTES, shared=False),
    _WP_SHARED,
    "pages of a file that are copied when written: both worlds",
)
SHMEM_THP = MemoryType(
    "shmem-thp",
    _shmem_thp,
    _WP_SHARED,
    "huge pages of shmem are never mapped huge while protected",
    ("shmem-thp",),
    _THP_PAGES,
)
HUGETLB = MemoryType(
    "hugetlb",
    lambda pages: Region.memfd(pages * HUGE_BYTES, huge_bytes=HUGE_BYTES),
    _WP_SHARED,
    "reserved huge pages, shared: code of their own for all that protects",
    ("hugetlb",),
)
HUGETLB_PRIVATE = MemoryType(
    "hugetlb-private",
    lambda pages: Region.huge(pages * HUGE_BYTES, HUGE_BYTES),
    _WP_SHARED,
    "reserved huge pages that are copied when written after a fork",
    ("hugetlb",),
)
FILE_PRIVATE = MemoryType(
    "file-private", _file, 0, "a file on a disk cannot be protected but asynchronously (6.7)"
)

SMALL = (ANON, SHMEM, MEMFD, MEMFD_PRIVATE)
HUGE = (HUGETLB, HUGETLB_PRIVATE)
PROTECTABLE = (ANON, ANON_ZERO, ANON_THP, ANON_MTHP, SHMEM, MEMFD, MEMFD_PRIVATE, SHMEM_THP, *HUGE)
EVERY = (*PROTECTABLE, FILE_PRIVATE)
