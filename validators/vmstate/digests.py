"""Digests pages with a keyed universal hash, to compare files.

It is NH (UMAC, RFC 4418, section 5.2.2) with two keys, the second of which is the first one shifted by a
word. For random keys two different pages have one digest with a probability of at most 2**-64, for any
content. So a file cannot be made to look like another one. The keys are new in each process: a digest is good
only there.
"""

from __future__ import annotations

import functools
import os

import numpy as np
import numpy.typing as npt

from validators.native.library import CoreFile, native_core
from validators.vmstate.pages import Batch, Numbers, PageReader
from validators.vmstate.stream.following import follower_of
from validators.vmstate.stream.format import MAX_PAGE_BITS
from validators.vmstate.stream.index import Block, SnapshotIndex
from validators.vmstate.stream.reader import read_index
from validators.vmstate.stream.source import FileSource

Digests = npt.NDArray[np.uint64]

_NAME = "digests"
_WORD_BYTES = 8
_LOW = np.uint64((1 << 32) - 1)
_HALF = np.uint64(32)
# Few enough pages, and what is made of them, to stay in a CPU's cache.
_PAGES_AT_ONCE = 32


def read_digests(source: FileSource, start: int = 0) -> tuple[SnapshotIndex, list[Digests]]:
    """Index a file and digest its pages.

    Returns:
        The index, and for each RAMBlock the result of digest_pages().

    Raises:
        UsageError: there is no vmstate stream at that offset.
    """
    follower = follower_of({_NAME: _digest_by_core})
    index = read_index(source, start, follower=follower)
    reader = PageReader(source, index, follower)
    return index, [digest_pages(reader, block) for block in index.blocks]


def digest_pages(reader: PageReader, block: Block) -> Digests:
    """Digest every page of a block: uint64[pages, 2].

    A page of zeros has the same digest whether the stream holds it as a zero page or as data. A missing page
    has the digest 0.
    """
    digests = np.zeros((block.pages, 2), np.uint64)
    digests[block.page_source < 0] = digest_rows(np.zeros((1, block.page_size), np.uint8))[0]
    if native_core() is None:
        for pages, found in reader.each(block, _digests):
            digests[pages] = found
        return digests
    for pages, found in reader.each_by_core(block, _digest_by_core, _NAME):
        digests[pages] = found
    return digests


def _digest_by_core(block: Block, file: CoreFile, pages: Numbers, places: Numbers) -> tuple[Numbers, Digests]:
    core = native_core()
    assert core is not None
    return pages, core.digest(file, places, block.page_size, digest_keys())


@functools.cache
def digest_keys() -> Digests:
    """Return random words, one more than the largest page has."""
    return np.frombuffer(os.urandom((1 << MAX_PAGE_BITS) + _WORD_BYTES), np.uint64)


def _digests(batch: Batch) -> tuple[Numbers, Digests]:
    return batch.pages, digest_rows(batch.rows)


def digest_rows(rows: npt.NDArray[np.uint8]) -> Digests:
    """Digest pages, given as uint8[k, page size]: uint64[k, 2]."""
    words = rows.view("<u8")
    count = words.shape[1]
    digests = np.empty((len(rows), 2), np.uint64)
    for first in range(0, len(rows), _PAGES_AT_ONCE):
        some = words[first : first + _PAGES_AT_ONCE]
        low, high = some & _LOW, some >> _HALF
        for number in range(2):
            keys = digest_keys()[number : number + count]
            products = ((low + (keys & _LOW)) & _LOW) * ((high + (keys >> _HALF)) & _LOW)
            digests[first : first + _PAGES_AT_ONCE, number] = np.add.reduce(products, axis=1)
    return digests
