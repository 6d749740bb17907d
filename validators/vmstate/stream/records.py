"""Reads the page records of RAM sections; runs of records of one kind are read as arrays.

A background snapshot has almost only ``CONTINUE|PAGE`` records, 8 bytes of header and one page of data, and
``CONTINUE|ZERO`` records of 9 bytes (QEMU 10.0 migration/ram.c, save_page_header(), save_zero_page(),
save_normal_page()). One strided view over a window reads all headers of a run. If zero and data pages
alternate, runs are short, and records are read one by one.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from harness.codes import Code
from validators.vmstate.stream import format as fmt
from validators.vmstate.stream.collector import Collector
from validators.vmstate.stream.cursor import readable
from validators.vmstate.stream.format import StreamError
from validators.vmstate.stream.source import Source

Numbers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

WINDOW_BYTES = 16 << 20
_LONGEST_NAME = 255
_ZERO_RECORD = 9
# From this length on a run is faster as an array than record by record.
_WORTH_ARRAY = 8
_FEW = 4
# Records looked at ahead, at least; the number follows the length of the last run.
_FIRST_LOOK = 64
_WORD = struct.Struct(">Q")

_PAGE_AGAIN = fmt.FLAG_PAGE | fmt.FLAG_CONTINUE
_ZERO_AGAIN = fmt.FLAG_ZERO | fmt.FLAG_CONTINUE


class RamScanner:
    """Reads the records of RAM sections into a Collector."""

    def __init__(self, source: Source, collector: Collector, page_size: int) -> None:
        self._source = source
        self._collector = collector
        self._page_size = page_size
        self._mask = page_size - 1
        self._shift = page_size.bit_length() - 1
        self._longest = 9 + _LONGEST_NAME + page_size
        self._view = memoryview(b"")
        self._base = self._filled = 0
        self._section_start: int
        self._block: int | None = None
        self._name: bytes | None = None
        self._look = {_PAGE_AGAIN: _FIRST_LOOK, _ZERO_AGAIN: _FIRST_LOOK}
        self._words: list[int] = []
        self._places: list[int] = []
        self._parts: list[tuple[Words, Numbers]] = []
        self._small = 0

    def scan(self, position: int) -> tuple[int, int | None]:
        """Read records from `position` up to the EOS word or a MEM_SIZE word.

        Returns:
            At an EOS word the file offset behind it, and None. At a MEM_SIZE word, which the caller must
            read, its file offset, and the total of bytes that it announces.

        Raises:
            StreamError: the records cannot be read on.
        """
        self._section_start = position
        while True:
            at = self._window(position)
            used, stop, total = self._scan_window(at)
            self._take_noted()
            if stop:
                return self._base + used, total
            if used == at:
                raise StreamError(
                    Code.TRUNCATED_RECORD,
                    f"The file ends at offset {self._base + self._filled}, in the middle of a page record.",
                    position,
                )
            position = self._base + used
            self._release(position)

    def _release(self, position: int) -> None:
        """Note that records before `position` are not needed any more."""
        self._source.release(position)

    def _window(self, position: int) -> int:
        """Move the window so that it holds the longest possible record at `position`; return its place."""
        at = position - self._base
        if at > self._filled - self._longest:
            self._view = self._source.window(position, WINDOW_BYTES)
            self._base, self._filled, at = position, len(self._view), 0
        return at

    def _scan_window(self, at: int) -> tuple[int, bool, int | None]:
        """Read the records that are whole in the window.

        Returns:
            The place behind them, whether to stop, and the total that a MEM_SIZE word announces.
        """
        view, mask, end = self._view, self._mask, self._filled
        while True:
            at = self._pass_plain(at)
            if end - at < 8:
                break
            (word,) = _WORD.unpack_from(view, at)
            flags = word & mask
            if flags in (_PAGE_AGAIN, _ZERO_AGAIN):
                after = self._again(at, word, flags)
            elif flags in (fmt.FLAG_PAGE, fmt.FLAG_ZERO):
                after = self._named_record(at, word, flags)
            elif flags == fmt.FLAG_EOS:
                self._require_bare(word, flags, at)
                return at + 8, True, None
            elif flags == fmt.FLAG_MULTIFD_FLUSH:
                self._require_bare(word, flags, at)
                self._count_small(at)
                after = at + 8
            elif flags == fmt.FLAG_MEM_SIZE:
                return at, True, word - flags
            else:
                raise self._bad_flags(flags, self._base + at)
            if after == at:
                break
            at = after
        return at, False, None

    def _pass_plain(self, at: int) -> int:
        """Read the plain records from here on in a faster way, if there is one; return the place behind."""
        return at

    def _require_bare(self, word: int, flags: int, at: int) -> None:
        """Note a word of flags alone that has an offset as well: QEMU writes a constant there."""
        if word != flags:
            self._collector.anomaly(
                Code.PAGE_FLAGS_MEANINGLESS,
                f"A RAM record of flags alone (0x{flags:x}) has the offset 0x{word - flags:x}, which means "
                "nothing.",
                self._base + at,
            )

    def _bad_flags(self, flags: int, offset: int) -> StreamError:
        self._take_noted()
        for flag, name in fmt.REFUSED_FLAGS.items():
            if flags & flag and not flags & ~(flag | fmt.FLAG_CONTINUE):
                return StreamError(
                    Code.PAGE_FLAGS_UNSUPPORTED,
                    f"A RAM record has {name}, which is not supported.",
                    offset,
                )
        return StreamError(
            Code.PAGE_FLAGS_MEANINGLESS,
            f"A RAM record has the flags 0x{flags:x}, which mean nothing.",
            offset,
        )

    def _count_small(self, at: int) -> None:
        """Count a record that is read one by one, and bound their number: they can be very small."""
        self._small += 1
        if self._small > fmt.MAX_SMALL_RECORDS:
            self._take_noted()
            raise StreamError(
                Code.PAGE_FLAGS_SMALL_RECORDS,
                f"More than {fmt.MAX_SMALL_RECORDS} records name a RAMBlock or only flush.",
                self._base + at,
            )

    def _named_record(self, at: int, word: int, flags: int) -> int:
        """Read a record that names its RAMBlock; return the place behind, or `at` if it leaves the window."""
        view, end = self._view, self._filled
        if end - at <= 8:
            return at
        body = at + 9 + view[at + 8]
        after = body + (self._page_size if flags == fmt.FLAG_PAGE else 1)
        if after > end:
            return at
        self._count_small(at)
        self._enter_block(bytes(view[at + 9 : body]), self._base + at)
        self._note(word, body, flags == fmt.FLAG_PAGE, at)
        return after

    def _enter_block(self, name: bytes, offset: int) -> None:
        if name != self._name:
            self._take_noted()
            self._name = name
            self._block = self._collector.find_block(readable(name))
        if self._block is None:
            idstr = readable(name)
            self._collector.anomaly(
                Code.UNKNOWN_BLOCK_NAMED,
                f"A page record names RAMBlock '{idstr}', which is not in the block list.",
                offset,
                idstr,
            )

    def _again(self, at: int, word: int, flags: int) -> int:
        """Read records of the RAMBlock named last; return the place behind, or `at` at the window's end."""
        if self._name is None:
            raise StreamError(
                Code.PAGE_FLAGS_NO_BLOCK,
                "A record continues with the last RAMBlock, but none was named.",
                self._base + at,
            )
        is_page = flags == _PAGE_AGAIN
        stride = 8 + self._page_size if is_page else _ZERO_RECORD
        view, mask, last = self._view, self._mask, self._filled - stride
        for _ in range(_WORTH_ARRAY):
            if at > last:
                return at
            self._note(word, at + 8, is_page, at)
            at += stride
            if at > last:
                return at
            (word,) = _WORD.unpack_from(view, at)
            if word & mask != flags:
                return at
        return self._run(at, flags, stride)

    def _note(self, word: int, body: int, is_page: bool, at: int) -> None:
        """Note one record, to be handed on with others."""
        self._words.append(word)
        # A zero page's place is that of its header word, where a person finds the record.
        self._places.append(self._base + body if is_page else -(self._base + at))
        if not is_page and self._view[body]:
            self._collector.bad_fill(self._view[body], self._base + body, word & ~self._mask, self._block)

    def _set_aside(self) -> None:
        """Turn the records that were noted one by one into arrays."""
        if self._words:
            self._parts.append((np.array(self._words, np.uint64), np.array(self._places, np.int64)))
            self._words, self._places = [], []

    def _take_noted(self) -> None:
        """Hand the noted records, all of one RAMBlock, on to the collector."""
        if not self._parts and len(self._words) <= _FEW:
            self._take_few()
            return
        self._set_aside()
        parts, self._parts = self._parts, []
        self._take(np.concatenate([words for words, _ in parts]), np.concatenate([at for _, at in parts]))

    def _take_few(self) -> None:
        """Hand on so few records that arrays would cost more than they save."""
        for word, place in zip(self._words, self._places, strict=True):
            self._collector.records["page" if place > 0 else "zero"] += 1
            if self._block is not None:
                self._collector.add_page(self._block, word >> self._shift, place, self._section_start)
        self._words.clear()
        self._places.clear()

    def _run(self, at: int, flags: int, stride: int) -> int:
        """Note a run of records of one kind as arrays; return the place behind."""
        self._set_aside()
        fitting = (self._filled - at) // stride
        while True:
            count = min(fitting, self._look[flags])
            headers = np.ndarray((count,), ">u8", self._view, at, (stride,)).astype(np.uint64)
            wrong = (headers & np.uint64(self._mask)) != np.uint64(flags)
            run = int(wrong.argmax())
            if not wrong[run]:
                run = count
            self._look[flags] = max(_FIRST_LOOK, 4 * run)
            if run < count or count == fitting:
                break
        places = np.arange(self._base + at, self._base + at + run * stride, stride)
        if flags == _PAGE_AGAIN:
            places += 8
        else:
            self._judge_fills(at + 8, headers, run)
            np.negative(places, out=places)
        self._parts.append((headers[:run], places))
        return at + run * stride

    def _judge_fills(self, first: int, headers: Words, run: int) -> None:
        fills = np.ndarray((run,), np.uint8, self._view, first, (_ZERO_RECORD,))
        for number in np.flatnonzero(fills):
            place = self._base + first + _ZERO_RECORD * int(number)
            offset = int(headers[number]) & ~self._mask
            self._collector.bad_fill(int(fills[number]), place, offset, self._block)

    def _take(self, words: Words, places: Numbers) -> None:
        """Hand on records of the RAMBlock named last, in file order; `places` are as in Block.page_source."""
        is_page = places > 0
        count = int(np.count_nonzero(is_page))
        self._collector.records["page"] += count
        self._collector.records["zero"] += len(places) - count
        if self._block is None:
            return
        pages = (words >> np.uint64(self._shift)).view(np.int64)
        self._collector.add_pages(self._block, pages, places, self._section_start)
