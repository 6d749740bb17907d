"""What the pages of a region are made of: own pages, the zero page, zeros, pages of a file, shared pages.

The kernel makes a page table entry anew by different code for each of them, so each is a column of the
matrix of contracts (`matrix`).
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable

from harness.userfaultfd import Region, read_pagemap

if TYPE_CHECKING:
    from .trial import Trial


# include/uapi/linux/kernel-page-flags.h (4.0); set for the small and the huge zero page.
_KPF_ZERO_PAGE = 1 << 24
_FRAME_FLAGS = "/proc/kpageflags"


@dataclass(frozen=True)
class Content:
    """What the pages of a region are made of.

    Attributes:
        name: part of the names of tests.
        why: what the kernel does differently for such pages.
        fill: populates a region with such pages.
        blank: returns whether a page, by number, reads as zeros; the others have a pattern.
        counted: whether a huge page of it is counted in /proc/self/smaps.
    """

    name: str
    why: str
    fill: Callable[[Trial, Region], None]
    blank: Callable[[int], bool]
    counted: bool = True


def never(_page: int) -> bool:
    """Return that a page has a pattern."""
    return False


def always(_page: int) -> bool:
    """Return that a page reads as zeros."""
    return True


def _even(page: int) -> bool:
    return page % 2 == 0


def _store_all(trial: Trial, region: Region) -> None:
    trial.store_all(region)


def _read_all(trial: Trial, region: Region) -> None:
    trial.read_all(region)


def _read_huge(trial: Trial, region: Region) -> None:
    """Map the huge zero page.

    Its frames follow one another, and the small zero page has one frame. An own huge page, which a read maps
    where the kernel may not use the huge zero page, does not have its flag.
    """
    _read_all(trial, region)
    first, second = (entry.frame for entry in read_pagemap(region.address, 2 * region.page_bytes))
    zero = _zero_page(first) if first else None
    if zero is None:
        trial.note("this user may not see frames, so whether the huge zero page is mapped is not known")
    elif second != first + 1 or not zero:
        trial.skip("A read mapped no huge zero page (transparent_hugepage/use_zero_page).")
    else:
        trial.note("the huge zero page is mapped")


def _zero_page(frame: int) -> bool | None:
    """Return whether a frame is one of a zero page, None if this user may not know."""
    found = zero_pages([frame])
    return None if found is None else found == 1


def zero_pages(frames: Iterable[int]) -> int | None:
    """Return how many page table entries map a zero page; None if this user may not know.

    Args:
        frames: the frame of each entry, 0 if it is not known or nothing is mapped.
    """
    count = Counter(frame for frame in frames if frame)
    try:
        descriptor = os.open(_FRAME_FLAGS, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return sum(many for frame, many in count.items() if _flags(descriptor, frame) & _KPF_ZERO_PAGE)
    finally:
        os.close(descriptor)


def _flags(descriptor: int, frame: int) -> int:
    return int.from_bytes(os.pread(descriptor, 8, frame * 8), sys.byteorder)


def _share(trial: Trial, region: Region) -> None:
    _store_all(trial, region)
    trial.enter(_sharing_child(trial, region))


@contextlib.contextmanager
def _sharing_child(trial: Trial, region: Region) -> Iterator[None]:
    """Keep a child that maps the same pages, which are therefore not exclusive to this process."""
    source, sink = os.pipe2(os.O_CLOEXEC)
    told, ready = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(sink)
        # A fork does not copy the entries of a shared mapping; a read makes them.
        _read_all(trial, region)
        os.write(ready, b"x")
        os.read(source, 1)
        os._exit(0)
    os.close(source)
    os.close(ready)
    os.read(told, 1)
    os.close(told)
    try:
        yield
    finally:
        os.close(sink)
        os.waitpid(pid, 0)


def _write_file(trial: Trial, region: Region) -> None:
    """Write the content to the file, and read it through the mapping, which maps pages of the page cache."""
    for page in range(region.pages):
        os.pwrite(region.descriptor, trial.golden(region, page), page * region.page_bytes)
    _read_all(trial, region)


OWN = Content("own", "a page of the process alone", _store_all, never)
ZERO = Content("zero", "pages that were only read map the zero page, which has no struct folio's reverse map",
               _read_all, always)  # fmt: skip
HUGE_ZERO = Content(
    "huge-zero", "a huge page that was only read maps the huge zero page by one entry", _read_huge, always,
    counted=False,
)  # fmt: skip
ZERO_FILLED = Content(
    "zero-filled",
    "every second page has only zeros: a split maps the zero page instead (6.12), swap keeps no copy (6.12)",
    _store_all,
    _even,
)
SHARED = Content("shared", "a child maps the page too, so a write has to copy it", _share, never)
FILE = Content(
    "file", "a page of the page cache, which a write to a private mapping copies", _write_file, never
)

CONTENTS = (OWN, ZERO, HUGE_ZERO, ZERO_FILLED, SHARED, FILE)
