"""The content of RAM sections: page records, found as runs of equal spacing and read as arrays.

A background snapshot is nearly all ``CONTINUE|PAGE`` records, 8 bytes of header and one page of data,
and ``CONTINUE|ZERO`` records of 9 bytes (QEMU 10.0 migration/ram.c, save_page_header(),
save_zero_page(), save_normal_page()). One strided view over a window reads all headers of a run.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from validators.stream import format as fmt
from validators.stream.collector import ANOMALY_LIMIT, Collector
from validators.stream.cursor import readable
from validators.stream.format import StreamError
from validators.stream.source import Bytes, Source

Numbers = npt.NDArray[np.int64]

WINDOW_BYTES = 16 << 20
# Runs may be short or very long: how far to look ahead follows the length of the last run.
_FIRST_LOOK = 16
_ZERO_RECORD = 9


class PageSink(Protocol):
    """Takes the contents of pages while the index is being read, so that a file is read only once."""

    def __call__(self, block: int, pages: Numbers, window: Bytes, first: int, stride: int) -> None:
        """Take pages of a block.

        Args:
            block: position of the RAMBlock.
            pages: int64[k] page numbers, which may lie outside the block.
            window: bytes of the file, valid during the call only.
            first: place of the first page's content in `window`.
            stride: bytes from one page's content to the next one's; 8 of them are the header.
        """


class RamScanner:
    """Reads the records of RAM sections into a Collector.

    Attributes:
        flushes: number of MULTIFD_FLUSH words met.
    """

    def __init__(
        self, source: Source, collector: Collector, page_size: int, sink: PageSink | None = None
    ) -> None:
        self._source = source
        self._sink = sink
        self._collector = collector
        self._page_size = page_size
        self._mask = page_size - 1
        self._block: int | None = None
        self._named = False
        self._section_start = 0
        self._look = {fmt.FLAG_PAGE: _FIRST_LOOK, fmt.FLAG_ZERO: _FIRST_LOOK}
        self.flushes = 0

    def scan(self, position: int) -> tuple[int, int | None]:
        """Read records from `position` up to and with the EOS word.

        Returns:
            The file offset behind the last record, and None; or the offset of a MEM_SIZE word, which
            the caller must read, and the total of bytes it announces.

        Raises:
            StreamError: the records cannot be followed further.
        """
        self._section_start = position
        while True:
            window = self._source.window(position, WINDOW_BYTES)
            used, stop, total = self._scan_window(window, position)
            position += used
            self._source.release(position)
            if stop:
                return position, total
            if used == 0:
                raise StreamError(
                    "truncated",
                    f"The file ends at offset {position + len(window)}, in the middle of a page record.",
                    position,
                )

    def _scan_window(self, window: Bytes, base: int) -> tuple[int, bool, int | None]:
        """Read the whole records of one window: bytes used, whether to stop, MEM_SIZE total."""
        at = 0
        while len(window) - at >= 8:
            word = int.from_bytes(window[at : at + 8].tobytes(), "big")
            flags = word & self._mask
            kind = flags & ~fmt.FLAG_CONTINUE
            if kind in (fmt.FLAG_PAGE, fmt.FLAG_ZERO):
                if flags & fmt.FLAG_CONTINUE:
                    after = self._run(window, at, base, kind)
                else:
                    after = self._named_record(window, at, base, word)
                if after == at:
                    break
                at = after
            elif flags == fmt.FLAG_EOS:
                return at + 8, True, None
            elif flags == fmt.FLAG_MULTIFD_FLUSH:
                self.flushes += 1
                at += 8
            elif flags == fmt.FLAG_MEM_SIZE:
                return at, True, word - flags
            else:
                raise self._bad_flags(flags, base + at)
        return at, False, None

    def _bad_flags(self, flags: int, offset: int) -> StreamError:
        for flag, name in fmt.REFUSED_FLAGS.items():
            if flags & flag and not flags & ~(flag | fmt.FLAG_CONTINUE):
                return StreamError("page-flags", f"The stream holds {name}, which are not supported.", offset)
        return StreamError("page-flags", f"A RAM record has the meaningless flags 0x{flags:x}.", offset)

    def _named_record(self, window: Bytes, at: int, base: int, word: int) -> int:
        """Take a record that names its block; returns the place behind, or `at` if it leaves the window."""
        length = int(window[at + 8]) if len(window) - at > 8 else 0
        body = at + 9 + length
        size = self._page_size if word & fmt.FLAG_PAGE else 1
        if len(window) - body < size:
            return at
        self._enter_block(readable(window[at + 9 : body].tobytes()), base + at)
        self._take(window, np.array([word], np.uint64), word & self._mask, body, base, 0)
        return body + size

    def _enter_block(self, idstr: str, offset: int) -> None:
        self._named = True
        self._block = self._collector.find_block(idstr)
        if self._block is None:
            self._collector.anomaly(
                "unknown-block",
                f"A page record names RAMBlock '{idstr}', which is not in the block list.",
                offset,
                idstr,
            )

    def _run(self, window: Bytes, at: int, base: int, kind: int) -> int:
        """Take the records that go on with a block and follow one another; returns the place behind."""
        if not self._named:
            raise StreamError("page-flags", "A record goes on with a block, but none was named.", base + at)
        stride = 8 + self._page_size if kind == fmt.FLAG_PAGE else _ZERO_RECORD
        fitting = (len(window) - at) // stride
        while True:
            count = min(fitting, self._look[kind])
            headers = np.ndarray((count,), np.dtype(">u8"), window, at, (stride,)).astype(np.uint64)
            wrong = (headers & np.uint64(self._mask)) != np.uint64(kind | fmt.FLAG_CONTINUE)
            run = int(wrong.argmax()) if wrong.any() else count
            self._look[kind] = max(_FIRST_LOOK, 4 * run)
            if run < count or count == fitting:
                break
        if run:
            self._take(window, headers[:run], kind, at + 8, base, stride)
        return at + run * stride

    def _take(
        self, window: Bytes, headers: np.ndarray[tuple[int], np.dtype[np.uint64]],
        kind: int, body: int, base: int, stride: int,
    ) -> None:  # fmt: skip
        """Note records with these header words; `body` is the place of the first one's content."""
        count = len(headers)
        self._collector.records["page" if kind == fmt.FLAG_PAGE else "zero"] += count
        places = base + body + stride * np.arange(count, dtype=np.int64)
        if kind == fmt.FLAG_ZERO:
            fills = window[body :: stride or 1][:count]
            if fills.any():
                self._bad_fill(fills, places, headers)
            # Points at the header word, so that a person finds the record.
            places = -(places - 8)
        if self._block is None:
            return
        pages = (headers // np.uint64(self._page_size)).astype(np.int64)
        self._collector.add_pages(self._block, pages, places, self._section_start)
        if self._sink is not None and kind == fmt.FLAG_PAGE:
            self._sink(self._block, pages, window, body, 8 + self._page_size)

    def _bad_fill(
        self, fills: Bytes, places: np.ndarray[tuple[int], np.dtype[np.int64]],
        headers: np.ndarray[tuple[int], np.dtype[np.uint64]],
    ) -> None:  # fmt: skip
        block = self._collector.blocks[self._block].idstr if self._block is not None else ""
        self._collector.counts["zero-fill"] += max(0, int((fills != 0).sum()) - ANOMALY_LIMIT)
        for number in np.flatnonzero(fills)[:ANOMALY_LIMIT]:
            self._collector.anomaly(
                "zero-fill",
                f"A zero-page record has the fill byte 0x{int(fills[number]):02x} instead of 0.",
                int(places[number]),
                block,
                int(headers[number]) & ~self._mask,
            )
