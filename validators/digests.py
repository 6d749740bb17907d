"""Digests of pages with a fast non-cryptographic hash, for comparing files and finding equal pages."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xxhash

from validators.pages import PageReader
from validators.stream.index import Block, SnapshotIndex
from validators.stream.reader import read_index
from validators.stream.source import Bytes, FileSource

Numbers = npt.NDArray[np.int64]
Digests = npt.NDArray[np.uint64]

_digest = xxhash.xxh3_64_intdigest


def read_digests(source: FileSource, start: int = 0) -> tuple[SnapshotIndex, list[Digests]]:
    """Index a file and digest its pages in a single pass over it.

    Returns:
        The index, and for each RAMBlock the digests as of digest_pages().

    Raises:
        UsageError: there is no vmstate stream at that offset.
    """
    taken: list[tuple[int, Numbers, list[int]]] = []

    def sink(block: int, pages: Numbers, window: Bytes, first: int, stride: int) -> None:
        # Slices of a memoryview cost a third of what rows of an array do.
        space, size = memoryview(window.data), stride - 8
        places = range(first, first + stride * len(pages), stride)
        taken.append((block, pages, [_digest(space[at : at + size]) for at in places]))

    index = read_index(source, start, sink)
    if index.mapped:
        reader = PageReader(source, index)
        return index, [digest_pages(reader, block) for block in index.blocks]
    digests = [_blank(block) for block in index.blocks]
    for block, pages, values in taken:
        inside = pages < len(digests[block])
        digests[block][pages[inside]] = np.array(values, np.uint64)[inside]
    return index, digests


def digest_pages(reader: PageReader, block: Block) -> Digests:
    """Digest (xxh3, 64 bits) of every page of a block: uint64[pages].

    A page of zeros has one digest whether the stream holds it as a zero page or as data; a missing page
    has the digest 0.
    """
    digests = _blank(block)
    for batch in reader.batches(block):
        space, size = batch.space, block.page_size
        digests[batch.pages] = [_digest(space[at : at + size]) for at in batch.starts.tolist()]
    return digests


def _blank(block: Block) -> Digests:
    """Digests of a block's zero pages, 0 for all others."""
    return np.where(block.page_source < 0, np.uint64(_digest(bytes(block.page_size))), np.uint64(0))
