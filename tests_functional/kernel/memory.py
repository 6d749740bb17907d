"""The types of memory that the feature tests run on: how to map each, what it needs, and why it is tested."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from typing import Callable

from harness.userfaultfd import PAGE_BYTES, Feature, Region, libc

HUGE_BYTES = PAGE_BYTES * PAGE_BYTES // 8
"""Bytes that one PMD entry maps: as many pages as a page has entries of 8 bytes. These are 2 MiB with pages
of 4 KiB, and 32 MiB with pages of 16 KiB (arm64)."""

HUGETLB_BYTES = 2 << 20
"""Bytes of a reserved huge page: one PMD entry with pages of 4 KiB, 128 entries of a page table with pages
of 16 KiB (CONT_PTE_SIZE in Linux arch/arm64/include/asm/pgtable-hwdef.h)."""


@dataclass(frozen=True)
class MemoryType:
    """A type of memory.

    Attributes:
        name: part of the names of tests.
        make: maps the given number of pages.
        features: userfaultfd features that write protection of this memory needs.
        why: what the kernel does differently for this memory.
        needs: names from `needs.NEEDS`.
        step: the number of pages is a multiple of this, so that the memory has whole huge pages.
        zero: populate pages by reads only, so that each maps the kernel's zero page.
        verify: field of /proc/self/smaps that is above 0 if the kernel used huge pages; empty for no check.
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
    "pages that were only read map the zero page; QEMU reads all pages before a save",
    zero=True,
)
ANON_THP = MemoryType(
    "anon-thp",
    _thp,
    _WP,
    "one PMD entry protects 512 pages or more, and is split when one of them is written",
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
    "pages of a file until they are written, private copies afterwards",
)
SHMEM_THP = MemoryType(
    "shmem-thp",
    _shmem_thp,
    _WP_SHARED,
    "huge pages of shmem are not mapped by PMD entries while protected",
    ("shmem-thp",),
    _THP_PAGES,
)
HUGETLB = MemoryType(
    "hugetlb",
    lambda pages: Region.memfd(pages * HUGETLB_BYTES, huge_bytes=HUGETLB_BYTES),
    _WP_SHARED,
    "reserved huge pages, shared: mm/hugetlb.c has its own code for protection",
    ("hugetlb",),
)
HUGETLB_PRIVATE = MemoryType(
    "hugetlb-private",
    lambda pages: Region.huge(pages * HUGETLB_BYTES, HUGETLB_BYTES),
    _WP_SHARED,
    "reserved huge pages, private: copied when written after a fork",
    ("hugetlb",),
)
FILE_PRIVATE = MemoryType(
    "file-private", _file, 0, "a file on a disk supports only asynchronous protection (6.7)"
)

SMALL = (ANON, SHMEM, MEMFD, MEMFD_PRIVATE)
HUGE = (HUGETLB, HUGETLB_PRIVATE)
PROTECTABLE = (ANON, ANON_ZERO, ANON_THP, ANON_MTHP, SHMEM, MEMFD, MEMFD_PRIVATE, SHMEM_THP, *HUGE)
EVERY = (*PROTECTABLE, FILE_PRIVATE)
