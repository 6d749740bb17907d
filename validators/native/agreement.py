"""Checks a compiled core against numpy before it is used: a compiler can be wrong, as gcc 12.2 -O3 was."""

from __future__ import annotations

import mmap
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
from validators.native.library import (
    AGENT_DATA,
    AGENT_OTHER,
    EVENT_AGAIN,
    EVENT_OUTSIDE,
    Core,
    CoreFile,
    Walk,
)
from validators.vmstate.digests import digest_keys, digest_rows
from validators.vmstate.stream.format import FLAG_CONTINUE, FLAG_PAGE, FLAG_ZERO

_PAGES = 1500
_RECORDS = 100
_SPECIAL = (CONTROL_MAGIC, THREAD_MAGIC, DIRECTORY_MAGIC)
# So that pages lie like those of records, at any alignment.
_HEADER = 9


def disagreements(core: Core) -> Iterator[str]:
    """Yield the name of each function that does not find in some pages what numpy finds."""
    if not _walks(core):
        yield "walk"
    pages = _some_pages()
    with tempfile.TemporaryFile() as file:
        file.write(b"".join(bytes(_HEADER) + page.tobytes() for page in pages))
        file.flush()
        read = list(_of_pages(core, CoreFile(file.fileno()), pages))
        yield from read
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
            space = np.frombuffer(mapping, np.uint8)
            mapped = CoreFile(file.fileno(), int(space.ctypes.data), len(space))
            found = list(_of_pages(core, mapped, pages))
            yield from (f"{name} of a mapped file" for name in found if name not in read)
            del space


def _of_pages(core: Core, source: CoreFile, pages: npt.NDArray[np.uint64]) -> Iterator[str]:
    """Yield the functions that do not find in pages what numpy finds; _HEADER bytes are before each."""
    size, numbers = PAGE_BYTES, np.arange(len(pages))
    places = numbers * (_HEADER + size) + _HEADER
    other = pages.copy()
    other[::3, PAGE_WORDS - 1] ^= np.uint64(1 << 63)
    other[1::3, 0] ^= np.uint64(1)
    if (core.digest(source, places, size, digest_keys()) != digest_rows(pages.view(np.uint8))).any():
        yield "digest"
    if (core.nonzero(source, places, size) != pages.any(axis=1)).any():
        yield "nonzero"
    with tempfile.TemporaryFile() as image, tempfile.TemporaryFile() as out:
        image.write(other.tobytes())
        image.flush()
        differs = core.differing(source, places, numbers, size, image.fileno())
        if (differs != (pages != other).any(axis=1)).any():
            yield "differing"
        core.copy(source, places, numbers, size, out.fileno())
        if out.read() != pages.tobytes():
            yield "copy"
    kinds, heads, intact = core.agent(source, places, size)
    data = kinds == AGENT_DATA
    right = (
        (data == (pages[:, 0] == np.uint64(DATA_MAGIC))).all()
        and ((kinds == AGENT_OTHER) == np.isin(pages[:, 0], np.array(_SPECIAL, np.uint64))).all()
        and (heads[data] == pages[data, :6]).all()
        and (intact == ap.intact(pages)).all()
    )
    if not right:
        yield "agent"


def _walks(core: Core) -> bool:
    """Tell whether records of pages with data, of zeros, twice and outside are entered as they have to be."""
    walk = Walk(PAGE_BYTES, notes=True)
    sources, expected = np.zeros(_RECORDS, np.int64), np.zeros(_RECORDS, np.int64)
    stream, events, noted = bytearray(), [], []
    for number in (*range(_RECORDS), 5, _RECORDS):
        data = number % 3 == 0
        flags = FLAG_CONTINUE | (FLAG_PAGE if data else FLAG_ZERO)
        # A zero page's place is that of its word; the bytes begin at offset _HEADER of the file.
        place = _HEADER + len(stream)
        source = place + 8 if data else -place
        if number == _RECORDS:
            events.append([EVENT_OUTSIDE, number, source, 0])
        else:
            if expected[number]:
                events.append([EVENT_AGAIN, number, int(expected[number]), source])
            expected[number] = source
            noted += [(number, source)] if data else []
        stream += (number * PAGE_BYTES | flags).to_bytes(8, "big") + bytes(PAGE_BYTES if data else 1)
    walk.enter_block(b"ram", sources)
    _, stopped = core.walk(walk, memoryview(stream), _HEADER, 0)
    return (
        stopped == len(stream)
        and list(zip(*map(list, walk.take_notes()), strict=True)) == noted
        and bool((sources == expected).all())
        and walk.take_events().tolist() == events
        and sum(walk.take_records()) == _RECORDS + 2
    )


def _some_pages() -> npt.NDArray[np.uint64]:
    """Return agent pages, whole and with any one word wrong, pages of zeros, and others: uint64[k, 512]."""
    random = np.random.default_rng(1)
    index = np.arange(_PAGES, dtype=np.uint64)
    pages = ap.data_pages(0x1234567 << 32, 3, index, index + np.uint64(1), index * np.uint64(7))
    # Every word once, then whole pages.
    pages[np.arange(PAGE_WORDS), np.arange(PAGE_WORDS)] ^= np.uint64(1) << np.uint64(40)
    pages[1000:1100] = 0
    pages[1049], pages[1050, 0] = 0x0101010101010101, 1
    pages[1051:1100, random.integers(0, PAGE_WORDS, 49)] = 1
    pages[1100:1200] = random.integers(0, 1 << 63, (100, PAGE_WORDS), np.uint64)
    pages[1100:1103, 0] = _SPECIAL
    return pages
