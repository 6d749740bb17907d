"""Reads guest pages from a vmstate file, in batches of arrays and in file order.

A batch stays in a CPU's second-level cache while it is worked on. That makes a check as fast as a plain read
of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from harness.codes import Code
from harness.errors import SetupBroken
from validators.native.library import PageNotRead
from validators.vmstate.stream.following import Follower, PageWork
from validators.vmstate.stream.format import StreamError
from validators.vmstate.stream.index import MISSING, Block, SnapshotIndex
from validators.vmstate.stream.source import FileSource
from validators.vmstate.workers import spread

# A batch has at most so many bytes of pages, and spans at most so many bytes of the file.
BATCH_BYTES = 2 << 20
_MAX_GAP = 64 << 10
_WORTH_ALONE = 32
_PAGES_AT_ONCE = 1 << 20
# Pages that the native core gets at once: its threads are started anew for each call, in 0.1 ms.
_CORE_BYTES = 64 << 20
# In a larger file the pages of one region at a time are sorted; each region costs a pass over the index.
_REGION_BYTES = 16 << 30
_MAX_REGIONS = 16
# Starting a process costs about 10 ms; so many spans take it longer.
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
        """Return the pages as uint8[k, page size], valid until the next batch."""
        space = np.frombuffer(self.space, np.uint8)
        if self.stride:
            return np.ndarray((len(self.pages), self.size), np.uint8, space, 0, (self.stride, 1))
        # A view with one overlapping row per byte offset; indexing it copies the rows that are wanted.
        rows: Rows = np.ndarray((int(self.starts[-1]) + 1, self.size), np.uint8, space, 0, (1, 1))[
            self.starts
        ]
        return rows

    @property
    def words(self) -> npt.NDArray[np.uint64]:
        """Return the rows as little-endian 64-bit words: uint64[k, page size / 8]."""
        return self.rows.view("<u8")


@dataclass(frozen=True)
class _Span:
    """Pages that are read in one go.

    Attributes:
        size: bytes of a page.
        pages: int64[k] page numbers.
        places: int64[k] file offsets, ascending.
        stride: bytes from each page to the next, 0 where they are not evenly spaced.
    """

    size: int
    pages: Numbers
    places: Numbers
    stride: int

    @property
    def start(self) -> int:
        """Return the file offset of the first page."""
        return int(self.places[0])

    @property
    def length(self) -> int:
        """Return the bytes of the file from the first page to the end of the last."""
        return int(self.places[-1]) + self.size - self.start


class PageReader:
    """Reads page contents of one vmstate file through its index.

    Attributes:
        index: the file's index.
        source: the file.
    """

    def __init__(self, source: FileSource, index: SnapshotIndex, follower: Follower | None = None) -> None:
        self.source = source
        self.index = index
        self._follower = follower

    def batches(self, block: Block) -> Iterator[Batch]:
        """Yield all pages of a block that have data in the file (no zero pages), in file order.

        Raises:
            StreamError: the file became shorter while it was read.
        """
        for span in self._spans_of(block):
            yield self._read(span)
            self.source.forget(span.start, span.length)
            self.source.passed(span.length)

    def each(self, block: Block, work: Callable[[Batch], Result]) -> Iterator[Result]:
        """Call `work` on each batch of a block, on several CPUs if that pays; yield results in file order.

        `work` may run in a forked copy of this process, so only its return value counts; that is pickled.

        Raises:
            StreamError: the file became shorter while it was read.
        """
        spans = list(self._spans_of(block))
        results = spread(spans, lambda span: self._work(span, work), _WORTH_PROCESS)
        for span, result in zip(spans, results, strict=True):
            self.source.passed(span.length)
            yield result

    def each_by_core(self, block: Block, work: PageWork, name: str = "") -> Iterator[Any]:
        """Do the work of the native core on a block's pages with data; yield the results in file order.

        The work gets at most 64 MiB of pages at once. What a follower has found under that name comes first,
        and the work gets the other pages.

        Raises:
            StreamError: the file became shorter while it was read.
            SetupBroken: the disk cannot be read.
        """
        number = next(place for place, one in enumerate(self.index.blocks) if one is block)
        if self._follower is not None:
            yield from self._follower.results(name, number)
        step = max(1, _CORE_BYTES // block.page_size)
        file = self.source.core_file()
        for pages, places in self._regions(block):
            left = None if self._follower is None else self._follower.left(name, number, pages)
            if left is not None:
                self.source.passed((len(pages) - int(np.count_nonzero(left))) * block.page_size)
                pages, places = pages[left], places[left]
            for first in range(0, len(pages), step):
                some = slice(first, first + step)
                try:
                    result = work(block, file, pages[some], places[some])
                except PageNotRead as error:
                    if error.other:
                        raise
                    self._raise_unread(int(places[first + error.number]), block.page_size, error)
                self.source.passed(len(pages[some]) * block.page_size)
                yield result

    def _raise_unread(self, place: int, size: int, error: PageNotRead) -> NoReturn:
        """Raise the error of a page that the native core could not read."""
        if len(self.source.read(place, size)) < size:
            raise _became_shorter(place) from error
        raise SetupBroken(
            f"The file '{self.source.path}' could not be read at offset {place} at first, and can be now; "
            "check it again.",
            code=Code.SETUP_UNREADABLE,
        ) from error

    def _regions(self, block: Block) -> Iterator[tuple[Numbers, Numbers]]:
        """Yield numbers and file offsets of a block's pages with data, in file order."""
        region = max(_REGION_BYTES, self.source.size // _MAX_REGIONS + 1)
        # Offset 0 stands for a page that a stream does not have.
        least = 0 if self.index.is_image else MISSING + 1
        for start in range(0, self.source.size, region):
            pages, places = _pages_in(block, max(least, start), start + region)
            if not (places[1:] > places[:-1]).all():
                order = np.argsort(places, kind="stable")
                pages, places = pages[order], places[order]
            yield pages, places

    def _spans_of(self, block: Block) -> Iterator[_Span]:
        size = block.page_size
        for pages, places in self._regions(block):
            # The least spacing of pages: k pages that span k - 1 times this are evenly spaced.
            closest = size if self.index.mapped or self.index.is_image else size + 8
            for span, stride in _spans(size, closest, places):
                yield _Span(size, pages[span], places[span], stride)

    def _work(self, span: _Span, work: Callable[[Batch], Result]) -> Result:
        result = work(self._read(span))
        self.source.forget(span.start, span.length)
        return result

    def _read(self, span: _Span) -> Batch:
        space = self.source.view(span.start, span.length)
        if len(space) < span.length:
            raise _became_shorter(span.start)
        return Batch(span.pages, span.size, space, span.places - span.start, span.stride)

    def page(self, block: Block, number: int) -> bytes | None:
        """Return the content of one page, zeros for a zero page, None if the file has none."""
        if not 0 <= number < block.pages:
            return None
        place = int(block.page_source[number])
        if place < 0:
            return bytes(block.page_size)
        if place == MISSING and not self.index.is_image:
            return None
        return self.source.read(place, block.page_size)


def _became_shorter(offset: int) -> StreamError:
    return StreamError(Code.TRUNCATED_SHRANK, "The file became shorter while it was being read.", offset)


def _pages_in(block: Block, first: int, end: int) -> tuple[Numbers, Numbers]:
    """Return numbers and file offsets of the pages whose data begins in [first, end) of the file."""
    found: list[Numbers] = []
    for start in range(0, block.pages, _PAGES_AT_ONCE):
        chunk = block.page_source[start : start + _PAGES_AT_ONCE]
        if chunk.max() < first:
            # In one pass without a copy: most of a huge guest may have no data.
            continue
        found.append(np.flatnonzero((chunk >= first) & (chunk < end)) + start)
    pages = np.concatenate(found) if found else np.zeros(0, np.int64)
    return pages, block.page_source[pages]


def _spans(size: int, closest: int, places: Numbers) -> Iterator[tuple[slice, int]]:
    """Cut ascending file offsets of pages into spans to read in one go, each with its stride (see _Span)."""
    at = 0
    while at < len(places):
        first = int(places[at])
        until = min(len(places), at + (BATCH_BYTES - size) // closest + 1)
        if int(places[until - 1]) - first == (until - at - 1) * closest:
            yield slice(at, until), closest
            at = until
            continue
        until = at + int(np.searchsorted(places[at:], first + BATCH_BYTES - size, "right"))
        steps = np.diff(places[at:until])
        wide = steps > _MAX_GAP
        if wide.any():
            until = at + int(wide.argmax()) + 1
        # Evenly spaced pages are used in place; others have to be copied.
        uneven = steps[: until - at - 1] != closest
        even = int(uneven.argmax()) if uneven.any() else until - at - 1
        if even >= _WORTH_ALONE:
            until = at + even + 1
        yield slice(at, until), closest if even == until - at - 1 else 0
        at = until
