"""Marks in guest RAM that tell in which pass a foreign writer wrote them; found in RAM and in a vmstate file.

A mark is 32 bytes, at a multiple of 32 bytes in its page: a tag of 16 bytes that no other data has, and as
little-endian 64-bit words the number of the pass and that of the page.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.qemu.architectures import TARGET_PAGE_BYTES
from validators.vmstate.pages import Batch, PageReader
from validators.vmstate.stream.reader import read_index
from validators.vmstate.stream.source import open_source

MARK_BYTES = 32
_WORDS = MARK_BYTES // 8
_TAG_BYTES = 16
_NONE = -1

Passes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class MarkedPage:
    """A page of a vmstate file that has marks.

    Attributes:
        block: the RAMBlock's name.
        offset: the page's place in it, in bytes.
        oldest: the lowest pass of its marks.
        newest: the highest one; another than `oldest` in a page that was written to while it was saved.
        index: the number of the page in the pass, by its first mark.
    """

    block: str
    offset: int
    oldest: int
    newest: int
    index: int


@dataclass(frozen=True)
class Marks:
    """The marks of one test.

    Attributes:
        tag: what all of them begin with.
    """

    tag: bytes = field(default_factory=lambda: os.urandom(_TAG_BYTES))

    def one(self, number: int, index: int) -> bytes:
        """Return the mark of a pass and a page."""
        return self.tag + struct.pack("<QQ", number, index)

    def page(self, number: int, index: int) -> bytes:
        """Return a page that is full of the mark of a pass and a page."""
        return self.one(number, index) * (TARGET_PAGE_BYTES // MARK_BYTES)

    def passes(self, pages: Sequence[bytes]) -> list[int | None]:
        """Return the highest pass of the marks in each page, None for a page without marks."""
        rows = np.frombuffer(b"".join(pages), "<u8").reshape(len(pages), -1)
        _, newest, _ = _extremes(rows, self.tag)
        return [None if found == _NONE else int(found) for found in newest]

    def in_file(self, path: Path) -> list[MarkedPage]:
        """Return the pages of a vmstate file that have marks, by RAMBlock and in file order.

        Raises:
            UsageError: there is no vmstate stream in the file.
        """
        found: list[MarkedPage] = []
        with open_source(path) as source:
            index = read_index(source)
            reader = PageReader(source, index)
            for block in index.blocks:
                for batch in reader.each(block, partial(_marked, tag=self.tag)):
                    found += [
                        MarkedPage(block.idstr, page * block.page_size, oldest, newest, index)
                        for page, oldest, newest, index in batch
                    ]
        return found


def _marked(batch: Batch, tag: bytes) -> list[tuple[int, int, int, int]]:
    """Return number, lowest and highest pass, and index of each page of a batch that has marks."""
    oldest, newest, index = _extremes(batch.words, tag)
    found = np.flatnonzero(newest != _NONE)
    return [(int(batch.pages[at]), int(oldest[at]), int(newest[at]), int(index[at])) for at in found]


def _extremes(words: npt.NDArray[np.uint64], tag: bytes) -> tuple[Passes, Passes, Passes]:
    """Return lowest and highest pass of the marks in each row, and its first index; _NONE where it has none.

    Args:
        words: pages as uint64[k, page size / 8].
        tag: what the marks begin with.
    """
    first, second = np.frombuffer(tag, "<u8")
    here = (words[:, 0::_WORDS] == first) & (words[:, 1::_WORDS] == second)
    passes = words[:, 2::_WORDS].astype(np.int64)
    none = ~here.any(axis=1)
    oldest = np.where(here, passes, np.iinfo(np.int64).max).min(axis=1)
    newest = np.where(here, passes, _NONE).max(axis=1)
    index = words[:, 3::_WORDS].astype(np.int64)[np.arange(len(words)), here.argmax(axis=1)]
    oldest[none] = index[none] = _NONE
    return oldest, newest, index
