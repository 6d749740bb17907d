"""Checks a compiled core against numpy before it is used: a compiler can be wrong, as gcc 12.2 -O3 was."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from guest_images.agent import pages as ap
from guest_images.agent.format import (
    CONTROL_MAGIC,
    DATA_MAGIC,
    DIRECTORY_MAGIC,
    PAGE_BYTES,
    PAGE_WORDS,
    THREAD_MAGIC,
)
from validators.native.library import AGENT_DATA, AGENT_OTHER, Core
from validators.vmstate.digests import digest_keys, digest_rows

_PAGES = 1500
_SPECIAL = (CONTROL_MAGIC, THREAD_MAGIC, DIRECTORY_MAGIC)
# So that pages lie like those of records, at any alignment.
_HEADER = 9


def disagreements(core: Core) -> Iterator[str]:
    """Yield the name of each function that does not find in some pages what numpy finds."""
    pages = _some_pages()
    size, count = PAGE_BYTES, len(pages)
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as image, tempfile.TemporaryFile() as out:
        file.write(b"".join(bytes(_HEADER) + page.tobytes() for page in pages))
        other = pages.copy()
        other[::3, 511] ^= np.uint64(1)
        image.write(other.tobytes())
        for written in (file, image):
            written.flush()
        numbers = np.arange(count)
        places = numbers * (_HEADER + size) + _HEADER
        if (
            core.digest(file.fileno(), places, size, digest_keys()) != digest_rows(pages.view(np.uint8))
        ).any():
            yield "digest"
        if (core.nonzero(file.fileno(), places, size) != pages.any(axis=1)).any():
            yield "nonzero"
        differs = core.differing(file.fileno(), places, numbers, size, image.fileno())
        if (differs != (pages != other).any(axis=1)).any():
            yield "differing"
        core.copy(file.fileno(), places, numbers, size, out.fileno())
        if out.read() != pages.tobytes():
            yield "copy"
        kinds, heads, intact = core.agent(file.fileno(), places, size)
        data = kinds == AGENT_DATA
        right = (
            (data == (pages[:, 0] == np.uint64(DATA_MAGIC))).all()
            and ((kinds == AGENT_OTHER) == np.isin(pages[:, 0], np.array(_SPECIAL, np.uint64))).all()
            and (heads[data] == pages[data, :6]).all()
            and (intact == ap.intact(pages)).all()
        )
        if not right:
            yield "agent"


def _some_pages() -> npt.NDArray[np.uint64]:
    """Return agent pages, whole and with any one word wrong, pages of zeros, and others: uint64[k, 512]."""
    random = np.random.default_rng(1)
    index = np.arange(_PAGES, dtype=np.uint64)
    pages = ap.data_pages(0x1234567 << 32, 3, index, index + np.uint64(1), index * np.uint64(7))
    # Every word once, then whole pages.
    pages[np.arange(PAGE_WORDS), np.arange(PAGE_WORDS)] ^= np.uint64(1) << np.uint64(40)
    pages[1000:1100] = 0
    pages[1050:1100, random.integers(0, PAGE_WORDS, 50)] = 1
    pages[1100:1200] = random.integers(0, 1 << 63, (100, PAGE_WORDS), np.uint64)
    pages[1100:1103, 0] = _SPECIAL
    return pages
