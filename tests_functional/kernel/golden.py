"""Holds the golden content of regions: what their pages have before a test writes to them."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from typing import Callable

from harness.userfaultfd import PAGE_BYTES, Region, libc

_PATTERN = struct.Struct("<QQ")
_MAGIC = 0x746C75616670616E
_NAME = "snapproof-golden"

ZERO_OFFSET, ZERO_BYTES = 64, 64
"""Offset and length of a part of every golden page that is zero, for tests that need zeros."""

MAPPING_NAME = f"/memfd:{_NAME}"
"""How the memory of images is called in /proc/PID/maps."""

# Pages of the largest usual regions: 512 of the smallest size, 2,048 with pages of 16 KiB, eight huge ones.
_LEAST_BYTES, _LEAST_HUGE = 2 << 20, 8


Blank = Callable[[int], bool]
"""Returns whether a page, by number, reads as zeros."""


def page(number: int, page_bytes: int) -> bytes:
    """Return the golden content of a page that is not blank."""
    content = bytearray(_PATTERN.pack(_MAGIC, number) * (page_bytes // _PATTERN.size))
    content[ZERO_OFFSET : ZERO_OFFSET + ZERO_BYTES] = bytes(ZERO_BYTES)
    return bytes(content)


class Image:
    """The golden content of the first pages of a region, in memory, so that one call fills or compares many.

    The memory is a shared mapping, whose page tables a fork does not copy, and which nobody can write to: one
    image serves all processes that are forked after it was made.

    Attributes:
        address: of the content of page 0.
        pages: the number of pages.
    """

    def __init__(self, pages: int, page_bytes: int, blank: Blank) -> None:
        """Make the content of pages, of which those that `blank` returns True for are zeros."""
        length = pages * page_bytes
        descriptor = os.memfd_create(_NAME, os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, length)
            for number in range(pages):
                if not blank(number):
                    os.pwrite(descriptor, page(number, page_bytes), number * page_bytes)
            address = libc.mmap(length, libc.PROT_READ, libc.MAP_SHARED, descriptor)
        finally:
            # The mapping keeps the memory; a descriptor would be one too many for tests that count them.
            os.close(descriptor)
        self._region = Region(address, length, page_bytes)
        self.address, self.pages = address, pages

    def close(self) -> None:
        """Unmap it."""
        self._region.close()

    def load(self, number: int) -> bytes:
        """Return the content of a page."""
        size = self._region.page_bytes
        return self._region.load(number * size, size)


_images: dict[tuple[int, Blank], Image] = {}


def image(pages: int, page_bytes: int, blank: Blank) -> Image:
    """Return an image of at least that many pages, made at the first call."""
    kept = _images.get((page_bytes, blank))
    if kept is None or kept.pages < pages:
        if kept is not None:
            kept.close()
        least = _LEAST_BYTES // page_bytes if page_bytes <= PAGE_BYTES else _LEAST_HUGE
        kept = _images[page_bytes, blank] = Image(max(pages, least), page_bytes, blank)
    return kept


def make_images(kinds: Iterable[tuple[int, Blank]]) -> None:
    """Make images for the processes that are forked from now on, by size of page and blank pages.

    Otherwise each of them makes its own: 512 pages, or 16 MiB for reserved huge pages.
    """
    for page_bytes, blank in dict.fromkeys(kinds):
        image(1, page_bytes, blank)


def forget_images() -> None:
    """Unmap all images, so that this process makes its own."""
    while _images:
        _images.popitem()[1].close()
