"""Planted faults of the write trackers: subclasses with one wrong step, which `judge` must detect."""

from __future__ import annotations

import time
from typing import Callable

from harness.userfaultfd import PAGE_BYTES, Region, Userfaultfd, libc

from .mprotect import Mprotect
from .tracker import MemoryCopy, Tracker
from .uffd_wp import UffdWp

_HUNDRED = 100


class _UffdOnePageLess(UffdWp):
    """Does not protect the last page."""

    def _protect(self, uffd: Userfaultfd, region: Region) -> None:
        uffd.write_protect(region.address, region.length - PAGE_BYTES)


class _UffdReleasesFirst(UffdWp):
    """Releases each page before it copies it."""

    def _save(
        self, uffd: Userfaultfd, region: Region, page: int, result: MemoryCopy, saved: bytearray
    ) -> None:
        saved[page] = 1
        self._release(uffd, region, page)
        time.sleep(0.0005)
        self._copy(region, page, result)


class _UffdSkipsHundredth(UffdWp):
    """Releases the page of every hundredth fault without saving it."""

    _count = 0

    def _answer(
        self, uffd: Userfaultfd, region: Region, page: int, result: MemoryCopy, saved: bytearray
    ) -> None:
        self._count += 1
        if self._count % _HUNDRED == 0:
            saved[page] = 1
            self._release(uffd, region, page)
        else:
            super()._answer(uffd, region, page, result, saved)


class _UffdDropsHundredth(UffdWp):
    """Does not answer every hundredth fault."""

    _count = 0

    def _answer(
        self, uffd: Userfaultfd, region: Region, page: int, result: MemoryCopy, saved: bytearray
    ) -> None:
        self._count += 1
        if self._count % _HUNDRED:
            super()._answer(uffd, region, page, result, saved)


class _MprotectOnePageLess(Mprotect):
    """Does not protect the last page."""

    def _protect(self, region: Region) -> None:
        libc.mprotect(region.address, region.length - PAGE_BYTES, libc.PROT_READ)


class _MprotectReleasesFirst(Mprotect):
    """Releases one page of the sweep before it copies it. The handler still copies before it releases."""

    plant = 1


class _MprotectSkipsHundredth(Mprotect):
    """Releases the page of every hundredth fault without saving it."""

    plant = 2


class _MprotectDropsFaults(Mprotect):
    """Answers no fault from the hundredth on."""

    plant = 3


PLANTED: dict[str, tuple[Callable[[str], Tracker], str]] = {
    "uffd-wp:one-page-less": (lambda _: _UffdOnePageLess(), "differ from memory at T0"),
    "uffd-wp:releases-first": (lambda _: _UffdReleasesFirst(), "differ from memory at T0"),
    "uffd-wp:skips-hundredth": (lambda _: _UffdSkipsHundredth(), "differ from memory at T0"),
    "uffd-wp:drops-hundredth": (lambda _: _UffdDropsHundredth(), "never answered"),
    "mprotect:one-page-less": (_MprotectOnePageLess, "differ from memory at T0"),
    "mprotect:releases-first": (_MprotectReleasesFirst, "differ from memory at T0"),
    "mprotect:skips-hundredth": (_MprotectSkipsHundredth, "differ from memory at T0"),
    "mprotect:drops-faults": (_MprotectDropsFaults, "never answered"),
}
"""By name: a constructor, called with the path of the helper library, and words of the problem to expect."""
