"""Digests pages with a fast non-cryptographic hash, to compare files and find equal pages."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xxhash

from validators.vmstate.pages import Batch, Numbers, PageReader
from validators.vmstate.stream.index import Block, SnapshotIndex
from validators.vmstate.stream.reader import read_index
from validators.vmstate.stream.source import FileSource

Digests = npt.NDArray[np.uint64]

_digest = xxhash.xxh3_64_digest


def read_digests(source: FileSource, start: int = 0) -> tuple[SnapshotIndex, list[Digests]]:
    """Index a file and digest its pages.

    Returns:
        The index, and for each RAMBlock the result of digest_pages().

    Raises:
        UsageError: there is no vmstate stream at that offset.
    """
    index = read_index(source, start)
    reader = PageReader(source, index)
    return index, [digest_pages(reader, block) for block in index.blocks]


def digest_pages(reader: PageReader, block: Block) -> Digests:
    """Digest every page of a block with XXH3 (64 bits): uint64[pages].

    A page of zeros has the same digest whether the stream holds it as a zero page or as data. A missing page
    has the digest 0.
    """
    blank = int.from_bytes(_digest(bytes(block.page_size)), "big")
    digests = np.where(block.page_source < 0, np.uint64(blank), np.uint64(0))
    for pages, joined in reader.each(block, _digests):
        digests[pages] = np.frombuffer(joined, ">u8")
    return digests


def _digests(batch: Batch) -> tuple[Numbers, bytes]:
    """Return the page numbers and the joined digests of a batch."""
    # Measured: slices of a memoryview cost a third of rows of an array, joined bytes less than integers, and
    # map() less than a loop.
    starts = batch.starts.tolist()
    places = map(slice, starts, (batch.starts + batch.size).tolist())
    return batch.pages, b"".join(map(_digest, map(batch.space.__getitem__, places)))
