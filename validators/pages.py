"""Guest pages out of a vmstate file, in batches of arrays and in file order.

Batches are small enough to stay in a CPU's second-level cache while they are looked at, which is what
makes a check run at the speed of a plain read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from validators.stream.format import StreamError
from validators.stream.index import Block, SnapshotIndex
from validators.stream.source import FileSource

_SPAN = 1 << 20
_MAX_PAGE = 1 << 16
_MAX_GAP = 64 << 10
_WORTH_ALONE = 32
_PAGES_AT_ONCE = 1 << 20

Rows = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Some pages of one RAMBlock.

    Attributes:
        pages: int64[k] page numbers.
        rows: uint8[k, page size], valid until the next batch; each row starts 8-byte aligned.
        space: the bytes that were read; page i is also at space[starts[i]:].
        starts: int64[k].
    """

    pages: Numbers
    rows: Rows
    space: memoryview
    starts: Numbers

    @property
    def words(self) -> npt.NDArray[np.uint64]:
        """The rows as little-endian 64-bit words: uint64[k, page size / 8]."""
        return self.rows.view("<u8")


class PageReader:
    """Reads page contents of one vmstate file through its index.

    Attributes:
        index: the file's index.
        source: the file.
    """

    def __init__(self, source: FileSource, index: SnapshotIndex) -> None:
        self.source = source
        self.index = index
        self._space = bytearray(_SPAN + _MAX_PAGE)

    def batches(self, block: Block) -> Iterator[Batch]:
        """All pages of a block that have data in the file (not zero pages), in file order.

        Raises:
            StreamError: the file became shorter meanwhile.
        """
        for start in range(0, block.pages, _PAGES_AT_ONCE):
            chunk = block.page_source[start : start + _PAGES_AT_ONCE]
            pages = np.flatnonzero(chunk > 0)
            places = chunk[pages]
            pages = pages + start
            if len(places) > 1 and not (places[1:] > places[:-1]).all():
                order = np.argsort(places, kind="stable")
                pages, places = pages[order], places[order]
            yield from self._in_spans(block.page_size, pages, places)

    def _in_spans(self, size: int, pages: Numbers, places: Numbers) -> Iterator[Batch]:
        for span in _spans(size, places):
            yield self._read(size, pages[span], places[span])

    def _read(self, size: int, pages: Numbers, places: Numbers) -> Batch:
        space = memoryview(self._space)
        start = int(places[0])
        length = int(places[-1]) + size - start
        if self.source.read_into(space[:length], start) < length:
            raise StreamError("truncated", "The file became shorter while it was being read.", start)
        starts = places - start
        return Batch(pages, _rows(np.frombuffer(space, np.uint8), size, starts), space, starts)

    def page(self, block: Block, number: int) -> bytes | None:
        """Content of one page, zeros for a zero page, None where the file has none."""
        place = int(block.page_source[number]) if 0 <= number < block.pages else 0
        if place < 0:
            return bytes(block.page_size)
        if place == 0:
            return None
        return self.source.window(place, block.page_size).tobytes()


def _spans(size: int, places: Numbers) -> Iterator[slice]:
    """Cut ascending file offsets of pages into stretches worth reading in one go."""
    at = 0
    while at < len(places):
        until = int(np.searchsorted(places, int(places[at]) + _SPAN - size, "right"))
        steps = np.diff(places[at:until])
        wide = steps > _MAX_GAP
        if wide.any():
            until = at + int(wide.argmax()) + 1
        # An evenly spaced stretch is used where it lies; a mixed one has to be copied together.
        uneven = steps[: until - at - 1] != steps[:1]
        if uneven.any() and int(uneven.argmax()) >= _WORTH_ALONE:
            until = at + int(uneven.argmax()) + 1
        yield slice(at, until)
        at = until


def _rows(space: Rows, size: int, starts: Numbers) -> Rows:
    """The pages at `starts` of `space` as one array, without copying where they are evenly spaced."""
    if len(starts) == 1:
        return space[:size].reshape(1, size)
    steps = np.diff(starts)
    stride = int(steps[0])
    if stride % 8 == 0 and (steps == stride).all():
        return np.ndarray((len(starts), size), np.uint8, space, 0, (stride, 1))
    # Every possible row of the span is a row of this overlapping view; picking copies them.
    rows: Rows = np.ndarray((int(starts[-1]) + 1, size), np.uint8, space, 0, (1, 1))[starts]
    return rows
