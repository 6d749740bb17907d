"""Contract: each page record is entered once, at its place, and what it breaks is named with that place."""

from __future__ import annotations

import struct
from pathlib import Path

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
from validators.vmstate.stream import collector

_RAM = ram_start(("a", PAGE * 4, b""))


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
    assert index.anomaly_counts["duplicate"] == run + 1
    assert index.blocks[1].page_source[:run].tolist() == [found.later[-1], *again[1:]]
    assert describe(index)["zero pages"] == 2 * run + 1
    assert describe(index)["data pages"] == 0


def test_duplicates_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ones are kept, the others are counted."""
    monkeypatch.setattr(collector, "DUPLICATE_LIMIT", 3)
    for records, count in ((zero(0, "a") + zero(0) * 5, 5), (zero(0, "a") + zero(0) * 50, 50)):
        index = tiny.read(tmp_path, _RAM, ram_part(records), end())
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


@pytest.mark.parametrize(
    "record", [data(1, b"x", "a"), zero(1, "a"), data(0, b"y", "a") + data(1, b"x"), zero(0, "a") + zero(1)]
)
def test_a_stream_cut_in_a_record_says_where(tmp_path: Path, record: bytes) -> None:
    """The end of the file, and the record that is not whole; whole ones before it are kept."""
    whole = HEADER + _RAM + b"\2\0\0\0\2"
    last = max(record.rfind(struct.pack(">Q", PAGE | flags)) for flags in (0x08, 0x02, 0x28, 0x22))
    for cut in {len(record) - 1, min(len(record) - 1, last + 9), last + 8, last + 1}:
        index = read_file(tmp_path, whole + record[:cut])
        assert found_in(index) == [(Code.TRUNCATED_RECORD, len(whole) + last)]
        assert index.damage is not None
        assert f"ends at offset {len(whole) + cut}," in index.damage.sentence
        assert index.blocks[0].page_source[1] == 0
        assert (index.blocks[0].page_source[0] != 0) == (last > 0)


def test_records_of_unknown_blocks_are_named_and_passed_over(tmp_path: Path) -> None:
    """Each record that names one; those that go on with it are counted as pages and go nowhere."""
    records = zero(1, "x") + zero(2) * 40 + zero(3, "a")
    index = tiny.read(tmp_path, _RAM, ram_part(records), end())
    assert found_in(index) == [(Code.UNKNOWN_BLOCK_NAMED, 8 + len(_RAM) + 5)]
    assert [place != 0 for place in index.blocks[0].page_source.tolist()] == [False, False, False, True]
    assert (describe(index)["zero pages"], describe(index)["data pages"]) == (42, 0)


def test_pages_of_a_file_are_counted_by_kind(tmp_path: Path) -> None:
    """A file without any zero page, or without any other, says so."""
    start, zeros = ram_start(("a", 2 * PAGE, b"")), zero(0, "a") + zero(1)
    full = data(0, bytes([7]) * PAGE, "a") + data(1, bytes([8]) * PAGE)
    counts = [describe(tiny.read(tmp_path, start, ram_part(records), end())) for records in (full, zeros)]
    assert [(one["data pages"], one["zero pages"]) for one in counts] == [(2, 0), (0, 2)]
