"""Holds the golden content of regions: what their pages have before a test writes to them."""

from __future__ import annotations

import os
import struct
from typing import Callable

from harness.userfaultfd import PAGE_BYTES, Region

_PATTERN = struct.Struct("<QQ")
_MAGIC = 0x746C75616670616E
_NAME = "snapproof-golden"

ZERO_OFFSET, ZERO_BYTES = 64, 64
"""Offset and length of a part of every golden page that is zero, for tests that need zeros."""

MAPPING_NAME = f"/memfd:{_NAME}"
"""How the memory of images is called in /proc/PID/maps."""

# Pages of the largest regions: 512 of the smallest size, 2,048 with pages of 16 KiB, six huge ones.
_LEAST_BYTES = 2 << 20


def page(number: int, page_bytes: int) -> bytes:
    """Return the golden content of a page that is not blank."""
    content = bytearray(_PATTERN.pack(_MAGIC, number) * (page_bytes // _PATTERN.size))
    content[ZERO_OFFSET : ZERO_OFFSET + ZERO_BYTES] = bytes(ZERO_BYTES)
    return bytes(content)


class Image:
    """The golden content of the first pages of a region, in memory, so that one call fills or compares many.

    The memory is a shared mapping, whose page tables a fork does not copy.

    Attributes:
        address: of the content of page 0.
        pages: the number of pages.
    """

    def __init__(self, pages: int, page_bytes: int, blank: Callable[[int], bool]) -> None:
        """Make the content of pages, of which those that `blank` returns True for are zeros."""
        length = pages * page_bytes
        descriptor = os.memfd_create(_NAME, os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, length)
            self._region = Region.file(os.dup(descriptor), length, shared=True, page_bytes=page_bytes)
        finally:
            os.close(descriptor)
        # The mapping keeps the memory; a descriptor would be one too many for tests that count them.
        os.close(self._region.descriptor)
        self._region.descriptor = -1
        self.address, self.pages = self._region.address, pages
        for number in range(pages):
            if not blank(number):
                self._region.store(number * page_bytes, page(number, page_bytes))

    def close(self) -> None:
        """Unmap it."""
        self._region.close()

    def load(self, number: int) -> bytes:
        """Return the content of a page."""
        size = self._region.page_bytes
        return self._region.load(number * size, size)


_images: dict[tuple[int, Callable[[int], bool]], Image] = {}


def image(pages: int, page_bytes: int, blank: Callable[[int], bool]) -> Image:
    """Return an image of at least that many pages, made at the first call."""
    kept = _images.get((page_bytes, blank))
    if kept is None or kept.pages < pages:
        if kept is not None:
            kept.close()
        least = _LEAST_BYTES // page_bytes if page_bytes <= PAGE_BYTES else 1
        kept = _images[page_bytes, blank] = Image(max(pages, least), page_bytes, blank)
    return kept
