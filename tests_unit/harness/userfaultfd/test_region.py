"""Regions of every kind of memory: their address and view are the same memory, and they end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.userfaultfd import PAGE_BYTES, Region, libc


@pytest.mark.parametrize(
    "make",
    [
        lambda: Region.anonymous(1 << 20, align=1 << 21),
        lambda: Region.anonymous(1 << 20, shared=True),
        lambda: Region.memfd(1 << 20),
        lambda: Region.memfd(1 << 20, shared=False),
        lambda: Region.file(os.open("/tmp", os.O_TMPFILE | os.O_RDWR), PAGE_BYTES),
        lambda: Region.huge(1 << 21, 1 << 21),
        lambda: Region.memfd(1 << 21, huge_bytes=1 << 21),
    ],
)
def test_regions(make: Callable[[], Region]) -> None:
    """A region's address and view are the same memory, and it is gone after its end."""
    try:
        region = make()
    except OSError as error:
        pytest.skip(f"This host has no such memory: {error}.")
    with region:
        if region.descriptor >= 0:
            os.ftruncate(region.descriptor, region.length)
        if region.page_bytes > PAGE_BYTES and region.descriptor >= 0 and not _free_huge_pages():
            pytest.skip("This host has no free huge pages.")
        region.fill(3)
        assert region.load(5, 2) == bytes([3, 3])
        region.view[5:7] = b"ab"
        assert region.load(5, 2) == b"ab"
        assert region.at(1) - region.address == region.page_bytes
        address = region.address
    region.close()
    with pytest.raises(OSError, match="madvise"):
        libc.madvise(address, PAGE_BYTES, libc.MADV_PAGEOUT)


def _free_huge_pages() -> bool:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return any(line.startswith("HugePages_Free") and line.split()[1] != "0" for line in lines)
