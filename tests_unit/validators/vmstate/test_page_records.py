"""Contract: each page record is entered once, at its place, and what it breaks is named with that place."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest

from harness.codes import Code
from tests_unit.support import tiny_stream as tiny
from tests_unit.support.tiny_stream import (
    HEADER,
    PAGE,
    data,
    end,
    found_in,
    ram_part,
    ram_start,
    read_file,
    zero,
)
from validators.vmstate.facts import describe
from validators.vmstate.stream import PipeSource, collector, read_index, records
from validators.vmstate.stream import format as fmt

_RAM = ram_start(("a", PAGE * 4, b""))
# The last one of each is of page 1.
_LAST_RECORDS = [
    data(1, b"x", "a"),
    zero(1, "a"),
    data(0, b"y", "a") + data(1, b"x"),
    zero(0, "a") + zero(1),
    zero(0, "a") + zero(1, "a"),
]


def test_anomalies_are_kept_up_to_a_limit_and_counted_beyond(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each kind; the first ones are kept."""
    monkeypatch.setattr(collector, "ANOMALY_LIMIT", 2)
    outside = zero(9, "a") + zero(8) + zero(7) * 40
    fills = zero(0, fill=1) + zero(1, fill=2) + zero(2, fill=3) * 40
    index = tiny.read(tmp_path, _RAM, ram_part(outside), ram_part(zero(3, "a") + fills), end())
    kinds = [(found.code, found.page_offset) for found in index.anomalies]
    assert [page for code, page in kinds if code is Code.ZERO_FILL_NOT_ZERO] == [0, PAGE]
    assert [page for code, page in kinds if code is Code.PAGE_OUTSIDE_BLOCK_RECORD] == [9 * PAGE, 8 * PAGE]
    assert index.anomaly_counts["zero-fill"] == 42
    assert index.anomaly_counts["page-outside-block"] == 42
    first = next(found for found in index.anomalies if found.code is Code.ZERO_FILL_NOT_ZERO)
    assert "0x01" in first.sentence
    assert (tmp_path / "tiny").read_bytes()[first.offset] == 1


@pytest.mark.parametrize("page", [3, 4])
@pytest.mark.parametrize("more", [0, 3, 40])
def test_pages_lie_inside_of_their_block(tmp_path: Path, page: int, more: int) -> None:
    """The first page behind the last one is outside, in runs of any length."""
    index = tiny.read(tmp_path, _RAM, ram_part(zero(0, "a") + zero(page) + zero(1) * more), end())
    codes = [found.code for found in index.anomalies]
    assert codes == ([Code.PAGE_OUTSIDE_BLOCK_RECORD] if page == 4 else [])
    assert (index.blocks[0].page_source[3] < 0) == (page == 3)
    assert index.anomaly_counts.get("page-outside-block", 0) == len(codes)


@pytest.mark.parametrize("run", [1, 3, 8, 9, 64, 70, 300])
def test_pages_that_are_there_twice_are_noted(tmp_path: Path, run: int) -> None:
    """With both places, in file order, however long the run is; the last record counts."""
    pages = 400
    start = ram_start(("b", PAGE, b""), ("a", PAGE * pages, b""))
    first = zero(0, "a") + b"".join(zero(page) for page in range(1, run))
    second = zero(0, "a") + b"".join(zero(page) for page in range(1, run)) + zero(0)
    index = tiny.read(tmp_path, start, ram_part(first), ram_part(second), end())
    at = 8 + len(start) + 5
    places = [-at, *(-(at + 11 + 9 * page) for page in range(run - 1))]
    again = [place - len(ram_part(first)) for place in places]
    found = index.duplicates
    assert found.block.tolist() == [1] * (run + 1)
    assert found.page.tolist() == [*range(run), 0]
    assert found.earlier.tolist() == [*places, again[0]]
    assert found.later.tolist() == [*again, again[-1] - (11 if run == 1 else 9)]
    assert found.same_section.tolist() == [False] * run + [True]
    assert found.same_section.dtype == np.bool_
    assert index.anomaly_counts["duplicate"] == run + 1
    assert index.blocks[1].page_source[:run].tolist() == [found.later[-1], *again[1:]]
    assert describe(index)["zero pages"] == 2 * run + 1
    assert describe(index)["data pages"] == 0


def test_duplicates_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ones are kept, the others are counted."""
    monkeypatch.setattr(collector, "DUPLICATE_LIMIT", 3)
    for repeated, count in ((zero(0, "a") + zero(0) * 5, 5), (zero(0, "a") + zero(0) * 50, 50)):
        index = tiny.read(tmp_path, _RAM, ram_part(repeated), end())
        assert len(index.duplicates.page) == 3
        assert index.anomaly_counts["duplicate"] == count


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (0x01, Code.PAGE_FLAGS_UNSUPPORTED),
        (0x41, Code.PAGE_FLAGS_MEANINGLESS),
        (0x40, Code.PAGE_FLAGS_UNSUPPORTED),
        (0x60, Code.PAGE_FLAGS_UNSUPPORTED),
        (0x80, Code.PAGE_FLAGS_UNSUPPORTED),
        (0x100, Code.PAGE_FLAGS_UNSUPPORTED),
        (0x120, Code.PAGE_FLAGS_UNSUPPORTED),
        (0x00, Code.PAGE_FLAGS_MEANINGLESS),
        (0x20, Code.PAGE_FLAGS_MEANINGLESS),
        (0x0A, Code.PAGE_FLAGS_MEANINGLESS),
        (0x18, Code.PAGE_FLAGS_MEANINGLESS),
        (0x30, Code.PAGE_FLAGS_MEANINGLESS),
        (0x400, Code.PAGE_FLAGS_MEANINGLESS),
        (0x28, Code.PAGE_FLAGS_NO_BLOCK),
        (0x22, Code.PAGE_FLAGS_NO_BLOCK),
    ],
)
def test_words_that_are_no_record_end_the_reading(tmp_path: Path, flags: int, code: Code) -> None:
    """What came before them in the section is kept."""
    start = ram_start(("a", PAGE * 4, b""))
    before = b"" if code is Code.PAGE_FLAGS_NO_BLOCK else zero(1, "a")
    index = tiny.read(tmp_path, start, ram_part(before + struct.pack(">Q", PAGE | flags) + bytes(9)))
    assert found_in(index) == [(code, 8 + len(start) + 5 + len(before))]
    assert (index.blocks[0].page_source[1] != 0) == bool(before)


@pytest.mark.parametrize("flag", [fmt.FLAG_EOS, fmt.FLAG_MULTIFD_FLUSH])
def test_words_of_flags_alone_have_no_offset(tmp_path: Path, flag: int) -> None:
    """QEMU reads on behind one that has; it writes a constant, so the file is damaged."""
    start = ram_start(("a", PAGE * 4, b""))
    for offset in (0, PAGE, 1 << 63):
        part = zero(1, "a") + struct.pack(">Q", offset | flag)
        raw = b"\2\0\0\0\2" + part + (b"" if flag == fmt.FLAG_EOS else tiny.EOS) + tiny.footer(2)
        index = tiny.read(tmp_path, start, raw, end())
        place = 8 + len(start) + 5 + len(part) - 8
        assert found_in(index) == ([(Code.PAGE_FLAGS_MEANINGLESS, place)] if offset else [])
        assert index.damage is None


def test_a_record_without_a_block_has_its_place(tmp_path: Path) -> None:
    """Behind words that only flush, which name none."""
    flushes = struct.pack(">Q", fmt.FLAG_MULTIFD_FLUSH) * 3
    start = ram_start(("a", PAGE * 4, b""))
    index = tiny.read(tmp_path, start, ram_part(flushes + zero(1)))
    assert found_in(index) == [(Code.PAGE_FLAGS_NO_BLOCK, 8 + len(start) + 5 + len(flushes))]


@pytest.mark.parametrize("record", _LAST_RECORDS)
def test_a_stream_cut_in_a_record_says_where(tmp_path: Path, record: bytes) -> None:
    """The end of the file, and the record that is not whole; whole ones before it are kept."""
    whole = HEADER + _RAM + b"\2\0\0\0\2"
    last = max(record.rfind(struct.pack(">Q", PAGE | flags)) for flags in (0x08, 0x02, 0x28, 0x22))
    for cut in {len(record) - 1, min(len(record) - 1, last + 9), last + 8, last + 7, last + 1}:
        index = read_file(tmp_path, whole + record[:cut])
        assert found_in(index) == [(Code.TRUNCATED_RECORD, len(whole) + last)]
        assert index.damage is not None
        assert f"ends at offset {len(whole) + cut}," in index.damage.sentence
        assert index.blocks[0].page_source[1] == 0
        assert (index.blocks[0].page_source[0] != 0) == (last > 0)


def test_records_of_unknown_blocks_are_named_and_passed_over(tmp_path: Path) -> None:
    """Each record that names one; those that go on with it are counted as pages and go nowhere."""
    known = zero(3, "a")
    records = known + zero(1, "x") + zero(2) * 40
    index = tiny.read(tmp_path, _RAM, ram_part(records), end())
    assert found_in(index) == [(Code.UNKNOWN_BLOCK_NAMED, 8 + len(_RAM) + 5 + len(known))]
    assert [place != 0 for place in index.blocks[0].page_source.tolist()] == [False, False, False, True]
    assert (describe(index)["zero pages"], describe(index)["data pages"]) == (42, 0)


def test_pages_of_a_file_are_counted_by_kind(tmp_path: Path) -> None:
    """A file without any zero page, or without any other, says so."""
    start, zeros = ram_start(("a", 2 * PAGE, b"")), zero(0, "a") + zero(1)
    full = data(0, bytes([7]) * PAGE, "a") + data(1, bytes([8]) * PAGE)
    counts = [describe(tiny.read(tmp_path, start, ram_part(records), end())) for records in (full, zeros)]
    assert [(one["data pages"], one["zero pages"]) for one in counts] == [(2, 0), (0, 2)]


@pytest.mark.parametrize("record", _LAST_RECORDS)
def test_a_stream_cut_behind_a_record_has_it(tmp_path: Path, record: bytes) -> None:
    """The place is behind the record, where the next one or the end of the section should be."""
    whole = HEADER + _RAM + b"\2\0\0\0\2" + record
    index = read_file(tmp_path, whole)
    assert found_in(index) == [(Code.TRUNCATED_RECORD, len(whole))]
    assert index.blocks[0].page_source[1] != 0


@pytest.mark.parametrize("before", [0, 1, 8])
@pytest.mark.parametrize("record", [data(1, b"x", "n" * 255), zero(1, "n" * 255)])
def test_a_record_that_does_not_fit_into_a_window_begins_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: bytes, before: int
) -> None:
    """Its last byte is the first one behind the window; the longest record is a page with a long name."""
    first = zero(0, "n" * 255) + zero(2) * before
    monkeypatch.setattr(records, "WINDOW_BYTES", len(first) + len(data(1, b"", "n" * 255)) - 1)
    index = tiny.read(tmp_path, ram_start(("n" * 255, 3 * PAGE, b"")), ram_part(first + record), end())
    assert found_in(index) == []
    assert index.blocks[0].page_source[1] != 0


def test_bytes_of_a_pipe_are_dropped_while_a_section_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A section may have all of the guest's RAM."""
    window = 10 * PAGE
    monkeypatch.setattr(records, "WINDOW_BYTES", window)
    most = []

    class Watched(PipeSource):
        def window(self, offset: int, length: int) -> memoryview:
            view = super().window(offset, length)
            most.append(len(self._buffer))
            return view

    part = ram_part(data(0, b"0", "a") + b"".join(data(page, b"x") for page in range(1, 100)))
    index = read_index(Watched(io.BytesIO(HEADER + ram_start(("a", 100 * PAGE, b"")) + part + end())))
    assert found_in(index) == []
    assert len(most) > 5
    assert max(most) <= window + PAGE


@pytest.mark.parametrize("block", ["a", "x"])
@pytest.mark.parametrize("bad", [0, 1, 8, 9, 29, 30, 39])
def test_a_wrong_fill_byte_is_named_with_its_place(tmp_path: Path, block: str, bad: int) -> None:
    """Of a record alone and in a run; of an unknown RAMBlock too."""
    pages = [zero(0, block), *map(zero, range(1, 40))]
    pages[bad] = pages[bad][:-1] + b"\xab"
    index = tiny.read(tmp_path, ram_start(("a", PAGE * 40, b"")), ram_part(b"".join(pages)), end())
    (found,) = [one for one in index.anomalies if one.code is Code.ZERO_FILL_NOT_ZERO]
    assert (found.page_offset, found.block) == (bad * PAGE, "a" if block == "a" else "")
    assert (tmp_path / "tiny").read_bytes()[found.offset] == 0xAB
    assert "0xab" in found.sentence


@pytest.mark.parametrize("more", [0, 1, 40])
def test_the_first_record_that_the_file_is_too_short_for_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    """From there on the pages have no place."""
    monkeypatch.setattr(fmt, "FREE_PAGES", 0)
    start = ram_start(("a", 4000 * PAGE, b""))
    index = tiny.read(
        tmp_path, start, ram_part(zero(0, "a") + b"".join(map(zero, range(1, more + 1)))), end()
    )
    assert found_in(index) == [(Code.TRUNCATED_TOO_SHORT, 8 + len(start) + 5)]


def test_pages_outside_of_their_block_are_all_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each section, whether there is room left to name them or not."""
    monkeypatch.setattr(collector, "ANOMALY_LIMIT", 3)
    outside = ram_part(zero(9, "a") + zero(8) * 40)
    index = tiny.read(tmp_path, _RAM, ram_part(zero(4, "a")), outside, outside, end())
    assert index.anomaly_counts["page-outside-block"] == 1 + 41 + 41
    assert [found.page_offset for found in index.anomalies] == [4 * PAGE, 9 * PAGE, 8 * PAGE]


@pytest.mark.parametrize("limit", [1, 3, 4, 6, 7])
def test_few_duplicates_are_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Whether they come one by one or in runs."""
    monkeypatch.setattr(collector, "DUPLICATE_LIMIT", limit)
    few, run = ram_part(zero(0, "a") + zero(0) * 3), ram_part(zero(1, "a") + zero(1) * 20)
    for parts, count in (((few, few), 7), ((run, few), 23), ((few, run), 23)):
        index = tiny.read(tmp_path, _RAM, *parts, end())
        assert len(index.duplicates.page) == limit
        assert index.anomaly_counts["duplicate"] == count


@pytest.mark.parametrize("length", [3, 30, 300])
def test_records_in_any_order_are_entered_one_after_another(tmp_path: Path, length: int) -> None:
    """Of several records of a page the last counts, and each but the first is a duplicate."""
    random = np.random.default_rng(length)
    sections = random.integers(0, 40, (3, length)).tolist()
    start = ram_start(("a", PAGE * 40, b""))
    at, last = 8 + len(start), dict.fromkeys(range(40), 0)
    expected = []
    for pages in sections:
        section_start = at = at + 5
        for number, page in enumerate(pages):
            if last[page]:
                expected.append((page, last[page], -at, -last[page] >= section_start))
            last[page] = -at
            at += len(zero(page, "" if number else "a"))
        at += 8 + 5
    parts = [ram_part(zero(pages[0], "a") + b"".join(map(zero, pages[1:]))) for pages in sections]
    index = tiny.read(tmp_path, start, *parts, end())
    found = index.duplicates
    columns = (found.page, found.earlier, found.later, found.same_section)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == expected
    assert index.blocks[0].page_source.tolist() == list(last.values())


def test_a_stream_without_duplicates_has_none(tmp_path: Path) -> None:
    """The arrays are there, and empty."""
    found = tiny.read(tmp_path, _RAM, ram_part(zero(0, "a") + zero(1)), end()).duplicates
    columns = (found.block, found.page, found.earlier, found.later, found.same_section)
    assert [len(column) for column in columns] == [0] * 5
