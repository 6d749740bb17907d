"""Trackers with a defect each, made by replacing one step of a right one: the judge must see every one."""

from __future__ import annotations

import time
from typing import Callable

from harness.userfaultfd import PAGE_BYTES, Region, Userfaultfd, libc

from .mprotect import Mprotect
from .tracker import Snapshot, Tracker
from .uffd_wp import UffdWp

_HUNDRED = 100


class _UffdOnePageLess(UffdWp):
    """The last page is not protected."""

    def _protect(self, uffd: Userfaultfd, region: Region) -> None:
        uffd.write_protect(region.address, region.length - PAGE_BYTES)


class _UffdReleasesFirst(UffdWp):
    """A page is released before it is copied."""

    def _save(self, uffd: Userfaultfd, region: Region, page: int, result: Snapshot, saved: bytearray) -> None:
        saved[page] = 1
        self._release(uffd, region, page)
        time.sleep(0.0005)
        self._copy(region, page, result)


class _UffdSkipsHundredth(UffdWp):
    """Every hundredth page that is written to is released and not saved."""

    _count = 0

    def _answer(
        self, uffd: Userfaultfd, region: Region, page: int, result: Snapshot, saved: bytearray
    ) -> None:
        self._count += 1
        if self._count % _HUNDRED == 0:
            saved[page] = 1
            self._release(uffd, region, page)
        else:
            super()._answer(uffd, region, page, result, saved)


class _UffdDropsHundredth(UffdWp):
    """Every hundredth fault is not answered."""

    _count = 0

    def _answer(
        self, uffd: Userfaultfd, region: Region, page: int, result: Snapshot, saved: bytearray
    ) -> None:
        self._count += 1
        if self._count % _HUNDRED:
            super()._answer(uffd, region, page, result, saved)


class _MprotectOnePageLess(Mprotect):
    """The last page is not protected."""

    def _protect(self, region: Region) -> None:
        libc.mprotect(region.address, region.length - PAGE_BYTES, libc.PROT_READ)


class _MprotectReleasesFirst(Mprotect):
    """One page of the sweep is released before it is copied; who faults copies it before it writes anyway."""

    plant = 1


class _MprotectSkipsHundredth(Mprotect):
    """Every hundredth page that is written to is released and not saved."""

    plant = 2


class _MprotectDropsFaults(Mprotect):
    """From the hundredth fault on none is answered."""

    plant = 3


PLANTED: dict[str, tuple[Callable[[str], Tracker], str]] = {
    "uffd-wp:one-page-less": (lambda _: _UffdOnePageLess(), "are not what they were"),
    "uffd-wp:releases-first": (lambda _: _UffdReleasesFirst(), "are not what they were"),
    "uffd-wp:skips-hundredth": (lambda _: _UffdSkipsHundredth(), "are not what they were"),
    "uffd-wp:drops-hundredth": (lambda _: _UffdDropsHundredth(), "never answered"),
    "mprotect:one-page-less": (_MprotectOnePageLess, "are not what they were"),
    "mprotect:releases-first": (_MprotectReleasesFirst, "are not what they were"),
    "mprotect:skips-hundredth": (_MprotectSkipsHundredth, "are not what they were"),
    "mprotect:drops-faults": (_MprotectDropsFaults, "never answered"),
}
"""By name, what makes each from the path of the helper library, and the words by which the judge tells it."""
