"""Guest pages out of a vmstate file, in batches of arrays and in file order.

Batches are small enough to stay in a CPU's second-level cache while they are looked at, which is what
makes a check run at the speed of a plain read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from harness.codes import Code
from validators.stream.format import StreamError
from validators.stream.index import Block, SnapshotIndex
from validators.stream.source import FileSource
from validators.workers import spread

# No batch is longer than this, nor spans more of the file.
BATCH_BYTES = 2 << 20
_MAX_GAP = 64 << 10
_WORTH_ALONE = 32
_PAGES_AT_ONCE = 1 << 20
# Of a larger file only the pages of one region are sorted at a time; finding them costs a look at all.
_REGION_BYTES = 16 << 30
_MAX_REGIONS = 16
# A process more has to save more than it costs: about 10 ms.
_WORTH_PROCESS = 64

Result = TypeVar("Result")

Rows = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Some pages of one RAMBlock.

    Attributes:
        pages: int64[k] page numbers.
        size: bytes of a page.
        space: the file's bytes, valid until the next batch; page i is at space[starts[i]:].
        starts: int64[k].
        stride: bytes from each page to the next, 0 where they are not evenly spaced.
    """

    pages: Numbers
    size: int
    space: memoryview
    starts: Numbers
    stride: int

    @cached_property
    def rows(self) -> Rows:
        """The pages as uint8[k, page size], valid until the next batch."""
        space = np.frombuffer(self.space, np.uint8)
        if len(self.pages) == 1:
            return space[: self.size].reshape(1, self.size)
        if self.stride:
            return np.ndarray((len(self.pages), self.size), np.uint8, space, 0, (self.stride, 1))
        # Every possible row is a row of this overlapping view; picking copies them.
        rows: Rows = np.ndarray((int(self.starts[-1]) + 1, self.size), np.uint8, space, 0, (1, 1))[
            self.starts
        ]
        return rows

    @property
    def words(self) -> npt.NDArray[np.uint64]:
        """The rows as little-endian 64-bit words: uint64[k, page size / 8]."""
        return self.rows.view("<u8")


@dataclass(frozen=True)
class _Span:
    """Pages worth reading in one go: page size, int64[k] numbers, int64[k] file offsets, even spacing."""

    size: int
    pages: Numbers
    places: Numbers
    stride: int

    @property
    def start(self) -> int:
        """File offset of the first."""
        return int(self.places[0])

    @property
    def length(self) -> int:
        """Bytes of the file from the first to the end of the last."""
        return int(self.places[-1]) + self.size - self.start


class PageReader:
    """Reads page contents of one vmstate file through its index.

    Attributes:
        index: the file's index.
        source: the file.
    """

    def __init__(self, source: FileSource, index: SnapshotIndex) -> None:
        self.source = source
        self.index = index

    def batches(self, block: Block) -> Iterator[Batch]:
        """All pages of a block that have data in the file (not zero pages), in file order.

        Raises:
            StreamError: the file became shorter meanwhile.
        """
        for span in self._spans_of(block):
            yield self._read(span)
            self.source.forget(span.start, span.length)
            self.source.passed(span.length)

    def each(self, block: Block, work: Callable[[Batch], Result]) -> Iterator[Result]:
        """Call `work` on each of batches(), on several CPUs where that pays; results in file order.

        `work` may run in copies of this process: it must only return what it finds, and that be pickled.

        Raises:
            StreamError: the file became shorter meanwhile.
        """
        spans = list(self._spans_of(block))
        results = spread(spans, lambda span: self._work(span, work), _WORTH_PROCESS)
        for span, result in zip(spans, results, strict=True):
            self.source.passed(span.length)
            yield result

    def _spans_of(self, block: Block) -> Iterator[_Span]:
        size = block.page_size
        region = max(_REGION_BYTES, self.source.size // _MAX_REGIONS + 1)
        for start in range(0, self.source.size, region):
            pages, places = _pages_in(block, max(1, start), start + region)
            if len(places) > 1 and not (places[1:] > places[:-1]).all():
                order = np.argsort(places, kind="stable")
                pages, places = pages[order], places[order]
            # Pages cannot lie closer than this, so that no other spacing adds up to as little.
            closest = size if self.index.mapped else size + 8
            for span, stride in _spans(size, closest, places):
                yield _Span(size, pages[span], places[span], stride)

    def _work(self, span: _Span, work: Callable[[Batch], Result]) -> Result:
        result = work(self._read(span))
        self.source.forget(span.start, span.length)
        return result

    def _read(self, span: _Span) -> Batch:
        space = self.source.view(span.start, span.length)
        if len(space) < span.length:
            raise StreamError(
                Code.TRUNCATED_SHRANK, "The file became shorter while it was being read.", span.start
            )
        return Batch(span.pages, span.size, space, span.places - span.start, span.stride)

    def page(self, block: Block, number: int) -> bytes | None:
        """Content of one page, zeros for a zero page, None where the file has none."""
        place = int(block.page_source[number]) if 0 <= number < block.pages else 0
        if place < 0:
            return bytes(block.page_size)
        if place == 0:
            return None
        return self.source.read(place, block.page_size)


def _pages_in(block: Block, first: int, end: int) -> tuple[Numbers, Numbers]:
    """Numbers and file offsets of the pages whose data begins in [first, end) of the file."""
    found: list[Numbers] = []
    for start in range(0, block.pages, _PAGES_AT_ONCE):
        chunk = block.page_source[start : start + _PAGES_AT_ONCE]
        found.append(np.flatnonzero((chunk >= first) & (chunk < end)) + start)
    pages = np.concatenate(found) if found else np.zeros(0, np.int64)
    return pages, block.page_source[pages]


def _spans(size: int, closest: int, places: Numbers) -> Iterator[tuple[slice, int]]:
    """Cut ascending file offsets of pages into stretches worth reading in one go, with their spacing."""
    at = 0
    while at < len(places):
        first = int(places[at])
        until = min(len(places), at + (BATCH_BYTES - size) // closest + 1)
        if int(places[until - 1]) - first == (until - at - 1) * closest:
            yield slice(at, until), closest
            at = until
            continue
        until = at + int(np.searchsorted(places[at:until], first + BATCH_BYTES - size, "right"))
        steps = np.diff(places[at:until])
        wide = steps > _MAX_GAP
        if wide.any():
            until = at + int(wide.argmax()) + 1
        # An evenly spaced stretch is used where it lies; a mixed one has to be copied together.
        uneven = steps[: until - at - 1] != closest
        even = int(uneven.argmax()) if uneven.any() else until - at - 1
        if even >= _WORTH_ALONE:
            until = at + even + 1
        yield slice(at, until), closest if even == until - at - 1 else 0
        at = until
