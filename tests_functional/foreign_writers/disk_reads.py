"""Reads marked blocks of a disk into guest RAM, by the driver of any bus."""

from __future__ import annotations

from pathlib import Path

from harness.deadline import Deadline
from harness.qemu.architectures import TARGET_PAGE_BYTES
from tests_functional.foreign_writers.marks import Marks
from tests_functional.foreign_writers.target import PAGES
from tests_functional.lib.drivers.disk import DiskDriver, Piece, Transfer, carry_out

_PASS_BYTES = PAGES * TARGET_PAGE_BYTES


def make_disk(path: Path, marks: Marks, passes: int) -> None:
    """Make an image of the marked pages of some passes; an SD card must have a power of two of bytes."""
    with path.open("wb") as disk:
        for number in range(passes):
            disk.writelines(marks.page(number, index) for index in range(PAGES))
        disk.truncate(1 << (passes * _PASS_BYTES - 1).bit_length())


class DiskReads:
    """The reader; that of a restored guest goes on with what is in guest RAM and in the device."""

    pages = PAGES

    def __init__(self, driver: DiskDriver, data: int, requests: int) -> None:
        """Read by a driver.

        Args:
            driver: the disk's.
            data: guest-physical address of the pages that the disk is read into.
            requests: in each pass; a divisor of PAGES.
        """
        self._driver, self._data = driver, data
        self._size = _PASS_BYTES // requests
        self._offered: list[int] = []

    def start(self) -> None:
        """Make the disk ready.

        Raises:
            SetupBroken: it does not get ready.
        """
        self._driver.start()

    def offer(self, number: int) -> None:
        """Write the requests of a pass to guest RAM, without telling the disk.

        Raises:
            PageProtected: a background snapshot protects a page of the driver.
        """
        self._offered = [
            self._driver.put(Transfer(number * _PASS_BYTES + at, (Piece(self._data + at, self._size),)))
            for at in range(0, _PASS_BYTES, self._size)
        ]

    def write(self, _number: int, deadline: Deadline) -> None:
        """Tell the disk of the requests, and wait until it has carried them out.

        Raises:
            DeadlineExpired: it has not in time. SetupBroken: a request failed.
        """
        if not self._offered:
            self._offered = self._driver.resume(0)
        carry_out(self._driver, self._offered, "disk", deadline)
