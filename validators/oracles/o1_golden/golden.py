"""Oracle 1: every page of every RAMBlock in the stream equals the golden image bit for bit.

A golden image is a folder with golden.json and one raw, possibly sparse file per RAMBlock, or a single raw
file of the largest RAMBlock.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.codes import Code
from harness.errors import SetupBroken, UsageError
from validators.native.library import Core, CoreFile, PageNotRead, native_core
from validators.verdict import VIOLATION_LIMIT, CheckResult, Tally, Violation, hexdump
from validators.vmstate.pages import BATCH_BYTES as _BATCH_BYTES
from validators.vmstate.pages import Batch, Numbers, PageReader, Rows
from validators.vmstate.stream.cursor import readable
from validators.vmstate.stream.following import PageWork
from validators.vmstate.stream.format import MAGIC, MIN_PAGE_BITS
from validators.vmstate.stream.index import Block
from validators.vmstate.stream.source import FileSource, open_source
from validators.vmstate.virtio_mem import Unplugged

NAME = "golden"
_EXPLANATION = "Every page of every RAMBlock equals the golden image bit for bit."
_EXPLANATION_OF_RAW = "Every page of the largest RAMBlock equals the golden image, which has no other."
_PIECE_PAGES = 1 << 20
_LEAST_PAGE_BYTES = 1 << MIN_PAGE_BITS
_ZERO_SPAN = 256 << 10


@dataclass(frozen=True)
class GoldenFiles:
    """The opened files of a golden image.

    Attributes:
        files: by RAMBlock idstr; the key "" stands for the largest RAMBlock.
        lengths: bytes of each.
        left_out: RAMBlocks that the image names as not copied.
        gaps: by RAMBlock idstr, the ranges in bytes that the image names as not copied, in their order.
    """

    files: dict[str, FileSource]
    lengths: dict[str, int]
    left_out: frozenset[str] = frozenset()
    gaps: dict[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)

    def find(self, block: Block, is_largest: bool) -> FileSource | None:
        """Return the file of a RAMBlock, None if the image has none."""
        return self.files.get(block.idstr) or (self.files.get("") if is_largest else None)


@contextmanager
def open_golden(path: Path) -> Iterator[GoldenFiles]:
    """Open a golden image.

    Raises:
        UsageError: there is no golden image at that path, or it is malformed.
    """
    with ExitStack() as stack:
        if not path.is_dir():
            source = stack.enter_context(open_source(path))
            _require_raw(source)
            yield GoldenFiles({"": source}, {"": source.size})
            return
        files, lengths = {}, {}
        content = _read_list(path)
        for idstr, length, file in content.files:
            try:
                source = stack.enter_context(open_source(file))
            except ValueError as error:
                # A NUL byte or half of a surrogate pair, which JSON can have and a file name cannot.
                raise UsageError(f"The golden image {path} names a file that cannot be: {error}.") from error
            if source.size != length:
                raise UsageError(f"'{file}' has {source.size} bytes, but {length} by golden.json.")
            files[idstr], lengths[idstr] = source, length
        yield GoldenFiles(files, lengths, content.left_out, content.gaps)


def _require_raw(source: FileSource) -> None:
    """Check that a file can be the RAM of a guest, since all its bytes would be held against the snapshot.

    Raises:
        UsageError: it cannot.
    """
    if source.read(0, 4) == MAGIC.to_bytes(4, "big"):
        raise UsageError(
            f"'{source.path}' is a vmstate file and no golden image; 'snapproof check {source.path} "
            "--extract DIR' makes a DIR that is one."
        )
    if source.size % _LEAST_PAGE_BYTES:
        raise UsageError(
            f"'{source.path}' has {source.size} bytes, which is not a whole number of pages, so it is no raw "
            "image of RAM; copy it again."
        )


@dataclass(frozen=True)
class _List:
    files: tuple[tuple[str, int, Path], ...]
    left_out: frozenset[str]
    gaps: dict[str, tuple[tuple[int, int], ...]]


def _read_list(path: Path) -> _List:
    try:
        content: Any = json.loads((path / "golden.json").read_text())
        if content["version"] != 1:
            raise UsageError(f"The golden image {path} has the unknown version {content['version']}.")
        files = tuple(
            (_idstr(entry), _bytes(entry), path / Path(str(entry["file"])).name)
            for entry in content["blocks"]
        )
        left_out = frozenset(_idstr(entry) for entry in content.get("left_out", ()))
        gaps = {_idstr(entry): _gaps(entry) for entry in content["blocks"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"The golden image {path} has no usable golden.json: {error}.") from error
    twice = [idstr for idstr, count in Counter(idstr for idstr, _, _ in files).items() if count > 1]
    if twice:
        raise UsageError(f"The golden image {path} lists RAMBlock '{twice[0]}' twice.")
    return _List(files, left_out, gaps)


def _idstr(entry: Any) -> str:
    """Return the name of a RAMBlock as the reader of a stream gives it, safe to print."""
    idstr = entry["idstr"]
    if not isinstance(idstr, str) or not idstr:
        raise ValueError("a RAMBlock has no name")
    return readable(idstr.encode(errors="replace"))


def _bytes(entry: Any) -> int:
    """Return the length of a RAMBlock; JSON may have true, 1.5 or Infinity in its place."""
    length = entry["bytes"]
    if type(length) is not int or length <= 0:
        raise ValueError(f"a RAMBlock cannot have {length!r} bytes")
    return length


def _gaps(entry: Any) -> tuple[tuple[int, int], ...]:
    """Return the ranges of a RAMBlock that were not copied, in their order; no two share a byte."""
    found, at = [], 0
    for start, end in entry.get("gaps", ()):
        if type(start) is not int or type(end) is not int or not at <= start < end <= entry["bytes"]:
            raise ValueError(f"a RAMBlock cannot have the gap {start!r} to {end!r}")
        found.append((start, end))
        at = end
    return tuple(found)


def check_golden(
    reader: PageReader, golden: GoldenFiles, unplugged: Unplugged = MappingProxyType({})
) -> CheckResult:
    """Compare all RAMBlocks of the stream with the golden image; neither may have one that the other lacks.

    A page that is not plugged in is not in the stream, and must be zero in the image.
    """
    tally = Tally(NAME, _EXPLANATION_OF_RAW if "" in golden.files else _EXPLANATION)
    blocks = reader.index.blocks
    if not blocks:
        return tally.skip("The stream has no RAMBlocks that could be compared.")
    largest = max(blocks, key=lambda block: block.used_length)
    compared, not_copied, left_out = 0, 0, []
    for number, block in enumerate(blocks):
        file = golden.find(block, block is largest)
        if file is None:
            if "" in golden.files or (block.idstr in golden.left_out and block is not largest):
                left_out.append(block.idstr)
            else:
                tally.report(
                    Code.GOLDEN_BLOCK_NOT_IN_IMAGE,
                    f"RAMBlock '{block.idstr}' is not in the golden image.",
                    block.idstr,
                    file_offset=block.list_offset,
                )
            continue
        if file.size != block.used_length:
            tally.report(
                Code.GOLDEN_BLOCK_LENGTH,
                f"RAMBlock '{block.idstr}' has {block.used_length} bytes in the stream, "
                f"{file.size} in the golden image.",
                block.idstr,
                file_offset=block.list_offset,
            )
            continue
        gaps = golden.gaps.get(block.idstr, ())
        compared += _BlockComparison(reader, block, file, tally, gaps).run(unplugged.get(number))
        not_copied += sum(-(-end // block.page_size) - start // block.page_size for start, end in gaps)
    for idstr in golden.files:
        if idstr and idstr not in {block.idstr for block in blocks}:
            sentence = f"RAMBlock '{idstr}' is not in the stream."
            tally.report(Code.GOLDEN_BLOCK_NOT_IN_STREAM, sentence, idstr)
    if not_copied and not compared:
        return tally.skip("The golden image has no page that could be compared: all of it is gaps.")
    tally.facts["pages compared"] = compared
    if not_copied:
        tally.facts["pages not in the golden image"] = not_copied
    if left_out:
        tally.facts["RAMBlocks left out of the golden image"] = ", ".join(left_out)
    return tally.result()


def _in_ranges(offsets: Numbers, page_size: int, ranges: Sequence[tuple[int, int]]) -> npt.NDArray[np.bool_]:
    """Return which pages have a byte in one of some ranges: bool[k].

    Args:
        offsets: int64[k], of the pages' first bytes.
        page_size: bytes of each.
        ranges: first byte of each, and the one behind its last.
    """
    found = np.zeros(len(offsets), np.bool_)
    for start, end in ranges:
        found |= (offsets + page_size > start) & (offsets < end)
    return found


def _copied(pages: Numbers, page_size: int, gaps: Sequence[tuple[int, int]]) -> npt.NDArray[np.bool_]:
    """Return which pages the golden image has whole: bool[k]."""
    copied: npt.NDArray[np.bool_] = ~_in_ranges(pages * page_size, page_size, gaps)
    return copied


def follow_golden(golden: GoldenFiles) -> PageWork:
    """Return the comparison of pages as they are read; there must be a native core."""
    core = native_core()
    assert core is not None

    def find(block: Block) -> FileSource | None:
        # Which RAMBlock is the largest is not known yet. Of the others nobody asks for what is found.
        file = golden.find(block, is_largest=True)
        return file if file is not None and file.size == block.used_length else None

    return _comparing(core, find, golden.gaps)


def _comparing(
    core: Core, find: Callable[[Block], FileSource | None], gaps: Mapping[str, Sequence[tuple[int, int]]]
) -> PageWork:
    """Return what compares pages with the golden file of their RAMBlock.

    It returns the numbers of the pages that it has compared, and which of them differ. The number of a
    PageNotRead of the golden image is that of the page in its RAMBlock.
    """

    def compare(
        block: Block, file: CoreFile, pages: Numbers, places: Numbers
    ) -> tuple[Numbers, npt.NDArray[np.bool_]]:
        image, left_out = find(block), gaps.get(block.idstr)
        if image is None:
            return pages[:0], np.zeros(0, np.bool_)
        if left_out:
            copied = _copied(pages, block.page_size, left_out)
            pages, places = pages[copied], places[copied]
        try:
            return pages, core.differing(file, places, pages, block.page_size, image.descriptor)
        except PageNotRead as error:
            if error.other:
                raise PageNotRead(int(pages[error.number]), other=True) from error
            raise

    return compare


@dataclass(frozen=True)
class _Wrong:
    """What was found in one batch.

    Attributes:
        compared: number of pages.
        pages: int64[k] numbers of the wrong ones.
        contents: of the first wrong ones, the content in the stream and in the golden image.
    """

    compared: int
    pages: Numbers
    contents: list[tuple[bytes, bytes]]


class _BlockComparison:
    """Compares one RAMBlock with its golden file."""

    def __init__(
        self, reader: PageReader, block: Block, file: FileSource, tally: Tally,
        gaps: Sequence[tuple[int, int]] = (),
    ) -> None:  # fmt: skip
        self._reader = reader
        self._block = block
        self._file = file
        self._tally = tally
        self._memory = memoryview(bytearray(_BATCH_BYTES))
        self._space: Rows = np.frombuffer(self._memory, np.uint8)
        self._given = 0
        self._gaps = gaps

    def run(self, unplugged: npt.NDArray[np.bool_] | None) -> int:
        """Compare; return the number of pages that the stream has or that are not plugged in.

        Those that are in a gap of the golden image do not count.
        """
        compared = 0
        for wrong in self._compared():
            compared += wrong.compared
            self._report_all(wrong)
        for first in range(0, self._block.pages, _PIECE_PAGES):
            piece = self._block.page_source[first : first + _PIECE_PAGES]
            zero, missing = piece < 0, piece == 0
            if unplugged is not None:
                absent = unplugged[first : first + _PIECE_PAGES]
                zero, missing = zero | (missing & absent), missing & ~absent
            zeros = np.flatnonzero(zero) + first
            compared += self._zero_pages(zeros[self._copied(zeros)] if self._gaps else zeros)
            self._report_missing(np.flatnonzero(missing) + first)
        return compared

    def _compared(self) -> Iterator[_Wrong]:
        """Compare the pages with data, by the native core if there is one."""
        core, block = native_core(), self._block
        if core is None:
            yield from self._reader.each(block, self._batch)
            return
        work = _comparing(core, lambda _: self._file, {block.idstr: self._gaps})
        try:
            for pages, differs in self._reader.each_by_core(block, work, NAME):
                yield self._wrong(pages, differs)
        except PageNotRead as error:
            self._require_golden(error.number)
            raise

    def _copied(self, pages: Numbers) -> npt.NDArray[np.bool_]:
        return _copied(pages, self._block.page_size, self._gaps)

    def _wrong(self, pages: Numbers, differs: npt.NDArray[np.bool_]) -> _Wrong:
        """Return what was found in pages that the native core has compared."""
        wrong = pages[differs]
        some = wrong[: VIOLATION_LIMIT - self._given].tolist()
        self._given += len(some)
        return _Wrong(len(pages), wrong, [self._contents(page) for page in some])

    def _contents(self, page: int) -> tuple[bytes, bytes]:
        """Return a wrong page as it is in the stream, zeros if it is not there, and in the golden image.

        Raises:
            UsageError: they are equal now.
        """
        found = self._reader.page(self._block, page) or bytes(self._block.page_size)
        golden = self._golden_page(page)
        if found == golden:
            raise UsageError(
                f"'{self._reader.source.path}' or its golden image changed while they were compared; check "
                "them again when nothing writes to them."
            )
        return found, golden

    def _golden_page(self, page: int) -> bytes:
        golden: bytes = self._golden_rows(np.array([page]))[0].tobytes()
        return golden

    def _require_golden(self, page: int) -> None:
        """Raise the error of a golden page that the native core could not read.

        Raises:
            UsageError: the golden image became shorter.
            SetupBroken: it cannot be read, or could not be a moment ago.
        """
        self._golden_page(page)
        raise SetupBroken(
            f"The golden image '{self._file.path}' could not be read at first, and can be now; check again."
        )

    def _golden_rows(self, pages: Numbers) -> Rows:
        """Return the golden pages with these numbers: uint8[k, page size], valid until the next call.

        Raises:
            UsageError: the golden image became shorter.
            SetupBroken: it cannot be read; that says nothing about the snapshot.
        """
        size = self._block.page_size
        first, count = int(pages[0]), len(pages)
        if (np.diff(pages) == 1).all():
            view = self._file.view(first * size, count * size)
            if len(view) < count * size:
                raise UsageError("The golden image became shorter while it was being read.")
            return np.frombuffer(view, np.uint8).reshape(count, size)
        return self._scattered_rows(pages)

    def _scattered_rows(self, pages: Numbers) -> Rows:
        """Read golden pages that do not follow one another, in the order of their records in the stream.

        They are not mapped: Linux 6.18 would map the whole folio around each, hundreds of MiB in all.
        """
        size = self._block.page_size
        firsts = np.concatenate(([0], np.flatnonzero(np.diff(pages) != 1) + 1))
        starts = (firsts * size).tolist()
        ends = [*starts[1:], len(pages) * size]
        pieces = zip(starts, ends, (pages[firsts] * size).tolist(), strict=True)
        if self._file.fill(self._memory, pieces) < len(pages) * size:
            raise UsageError("The golden image became shorter while it was being read.")
        return self._space[: len(pages) * size].reshape(len(pages), size)

    def _batch(self, batch: Batch) -> _Wrong:
        return self._compare(batch.pages, batch.rows)

    def _compare(self, pages: Numbers, rows: Rows | None) -> _Wrong:
        """Compare pages with the golden image; without rows they are zero pages."""
        if self._gaps:
            copied = self._copied(pages)
            pages, rows = pages[copied], None if rows is None else rows[copied]
            if not len(pages):
                return _Wrong(0, pages, [])
        wrong = self._differing(pages, rows)
        first, last = int(pages.min()), int(pages.max())
        self._file.forget(first * self._block.page_size, (last + 1 - first) * self._block.page_size)
        return wrong

    def _differing(self, pages: Numbers, rows: Rows | None) -> _Wrong:
        golden = self._golden_rows(pages)
        differs = golden.view("<u8") if rows is None else rows.view("<u8") != golden.view("<u8")
        if not differs.any():
            return _Wrong(len(pages), pages[:0], [])
        wrong = np.flatnonzero(differs.any(axis=1))
        blank = bytes(self._block.page_size)
        some = wrong[: VIOLATION_LIMIT - self._given].tolist()
        self._given += len(some)
        contents = [
            (blank if rows is None else rows[number].tobytes(), golden[number].tobytes()) for number in some
        ]
        return _Wrong(len(pages), pages[wrong], contents)

    def _zero_pages(self, pages: Numbers) -> int:
        core, size = native_core(), self._block.page_size
        if core is not None and len(pages):
            try:
                self._report_all(self._wrong(pages, core.nonzero(self._file.core_file(), pages * size, size)))
            except PageNotRead as error:
                self._require_golden(int(pages[error.number]))
            return len(pages)
        step = max(1, _ZERO_SPAN // size)
        ends = np.flatnonzero(np.diff(pages) != 1) + 1
        edges = [0, *ends.tolist(), len(pages)] if len(pages) else []
        data = -1
        for first, last in itertools.pairwise(edges):
            at, end = int(pages[first]), int(pages[last - 1]) + 1
            while at < end:
                # Holes of a sparse golden image are zeros; they need not be read.
                if data < at * size:
                    data = self._file.next_data(at * size)
                at = max(at, data // size)
                part = np.arange(at, min(at + step, end))
                if len(part):
                    self._report_all(self._compare(part, None))
                at += step
        return len(pages)

    def _report_all(self, wrong: _Wrong) -> None:
        pages = wrong.pages
        for page, (found, golden) in zip(pages.tolist(), wrong.contents, strict=False):
            self._report(page, found, golden)
        self._tally.count(self._block.idstr, pages[len(wrong.contents) :] * self._block.page_size)

    def _report_missing(self, pages: Numbers) -> None:
        named = min(len(pages), self._tally.room)
        for page in pages[:named].tolist():
            offset = page * self._block.page_size
            sentence = f"Page 0x{offset:x} of RAMBlock '{self._block.idstr}' is not in the stream."
            self._tally.add(
                Violation(
                    "golden",
                    Code.GOLDEN_PAGE_MISSING,
                    sentence,
                    self._block.idstr,
                    offset,
                    expected="the page",
                )
            )
        self._tally.count(self._block.idstr, pages[named:] * self._block.page_size)

    def _report(self, page: int, found: bytes, golden: bytes) -> None:
        block, offset = self._block, page * self._block.page_size
        place = abs(int(block.page_source[page])) or None
        if self._tally.full:
            self._tally.count(block.idstr, [offset])
            return
        differing = np.flatnonzero(np.frombuffer(found, np.uint8) != np.frombuffer(golden, np.uint8))
        first = int(differing[0])
        self._tally.add(
            Violation(
                "golden",
                Code.GOLDEN_DIFFERS,
                f"Page 0x{offset:x} of RAMBlock '{block.idstr}' differs from the golden image "
                f"in {len(differing)} bytes, first at +0x{first:x}.",
                block.idstr,
                offset,
                file_offset=place,
                expected=_in_words(golden, first),
                found=_in_words(found, first),
                hexdump=hexdump(golden, first, "expected") + "\n" + hexdump(found, first, "found   "),
                fields={"block": block.idstr},
            )
        )


def _in_words(page: bytes, at: int) -> str:
    return "a page of zeros" if not any(page) else f"0x{page[at]:02x} at +0x{at:x}"
