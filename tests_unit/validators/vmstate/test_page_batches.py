"""Contract: every page with data is handed on once, in file order, in spans of bounded size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests_unit.support import tiny_stream as tiny
from tests_unit.support.page_digest import nh
from tests_unit.support.synthetic_stream import Guest, Writer
from tests_unit.support.tiny_stream import PAGE, data, end, ram_part, ram_start, zero
from validators.vmstate import pages
from validators.vmstate.digests import digest_pages, read_digests
from validators.vmstate.extract import _runs, extract, is_extracted_name
from validators.vmstate.pages import PageReader, _spans
from validators.vmstate.stream import open_source, read_index

_NEXT = PAGE + 8


def _cut(places: list[int], closest: int = _NEXT) -> list[tuple[list[int], int]]:
    """Return the places of each span, and its stride."""
    spans = _spans(PAGE, closest, np.array(places, np.int64))
    return [(places[span], stride) for span, stride in spans]


def test_no_pages_make_no_span() -> None:
    """A RAMBlock may be all zero."""
    assert _cut([]) == []


@pytest.mark.parametrize("count", [1, 2, 5, 100])
def test_evenly_spaced_pages_are_one_span(count: int) -> None:
    """They are used in place."""
    places = [50 + number * _NEXT for number in range(count)]
    assert _cut(places) == [(places, _NEXT)]


@pytest.mark.parametrize("spacing", [_NEXT, _NEXT + 10])
def test_a_span_has_a_bounded_size(spacing: int) -> None:
    """It never has more bytes than a batch, and no page fewer than fit into one."""
    places = [50 + number * spacing for number in range(1500)]
    cut = _cut(places)
    assert [place for span, _ in cut for place in span] == places
    most = (pages.BATCH_BYTES - PAGE) // spacing + 1
    assert [len(span) for span, _ in cut] == [most, most, 1500 - 2 * most]
    assert all(span[-1] + PAGE - span[0] <= pages.BATCH_BYTES for span, _ in cut)
    assert {stride for _, stride in cut} == {_NEXT if spacing == _NEXT else 0}


def test_a_span_ends_at_its_size_before_a_wide_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gap ends a later span."""
    monkeypatch.setattr(pages, "BATCH_BYTES", 10 * PAGE)
    places = [number * (_NEXT + 10) for number in range(25)]
    places.append(places[-1] + (1 << 20))
    assert [len(span) for span, _ in _cut(places)] == [9, 9, 7, 1]


def test_a_page_alone_is_used_in_place() -> None:
    """Where pages are so large that each is read alone."""
    size, closest = 1 << 16, (1 << 16) + 8
    places = [0, closest, 2 * closest, 3 * closest + 10, 4 * closest + 10]
    cut = [(places[span], stride) for span, stride in _spans(size, closest, np.array(places, np.int64))]
    assert cut == [([0], closest), ([closest], closest), ([2 * closest], closest), (places[3:], closest)]


def test_even_pages_between_wide_gaps_are_one_span() -> None:
    """Each span has the stride of its own pages."""
    places = [0, 1 << 20, (1 << 20) + _NEXT, (1 << 20) + 2 * _NEXT, 3 << 20]
    assert _cut(places) == [(places[:1], _NEXT), (places[1:4], _NEXT), (places[4:], _NEXT)]


@pytest.mark.parametrize("before", [[], [0]])
@pytest.mark.parametrize("steps", [[2, 1], [1, 2], [1, 3], [2, 2], [3], [2], [1, 1, 2], [1, 1, 1, 2, 1]])
def test_pages_with_a_gap_have_no_stride(before: list[int], steps: list[int]) -> None:
    """However many pages would fit into it."""
    first = 1 << 20 if before else 0
    places = [first + _NEXT * sum(steps[:number]) for number in range(len(steps) + 1)]
    assert _cut(before + places)[-1] == (places, 0)


@pytest.mark.parametrize(("gap", "spans"), [(64 << 10, 1), ((64 << 10) + 1, 2)])
def test_a_wide_gap_is_not_read(gap: int, spans: int) -> None:
    """Bytes between pages are read only where that is cheaper than a second read."""
    places = [0, PAGE + 20, PAGE + 20 + gap, PAGE + 20 + gap + _NEXT]
    cut = _cut(places)
    assert [place for span, _ in cut for place in span] == places
    assert len(cut) == spans


@pytest.mark.parametrize("even", [1, 2, 31, 32, 33, 40, 500])
@pytest.mark.parametrize("step", [_NEXT + 1, PAGE + 9 + 300, 1 << 18])
def test_a_span_is_called_even_only_if_it_is(even: int, step: int) -> None:
    """Pages of a span with a stride are used in place, so each must be where the stride says."""
    places = [number * _NEXT for number in range(even)]
    places += [places[-1] + step * (number + 1) for number in range(40)]
    places += [places[-1] + _NEXT * (number + 1) for number in range(600)]
    cut = _cut(places)
    assert [place for span, _ in cut for place in span] == places
    for span, stride in cut:
        steps = set(np.diff(span).tolist())
        assert steps <= {stride} if stride else steps != {_NEXT}
        assert max(steps, default=0) <= 64 << 10
        assert span[-1] + PAGE - span[0] <= pages.BATCH_BYTES


@pytest.mark.parametrize("region", [PAGE, 3 * PAGE + 5, 1 << 40])
@pytest.mark.parametrize(
    "order", [[0, 1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1, 0], [3, 0, 6, 1, 7, 2, 5, 4]]
)
@pytest.mark.parametrize("zeros", [(), (2,), (0, 7), (1, 2, 3)])
def test_pages_are_handed_on_in_file_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, region: int, order: list[int], zeros: tuple[int, ...]
) -> None:
    """With their content, whatever their order in the file and however large it is."""
    monkeypatch.setattr(pages, "_REGION_BYTES", region)
    monkeypatch.setattr(pages, "_MAX_REGIONS", 1000)
    monkeypatch.setattr(pages, "_PAGES_AT_ONCE", 3)
    records = [zero(9, "a")]
    records += [zero(page) if page in zeros else data(page, b"page %d" % page) for page in order]
    path = tmp_path / "file"
    path.write_bytes(tiny.HEADER + ram_start(("a", 10 * PAGE, b"")) + ram_part(b"".join(records)) + end())
    with open_source(path) as source:
        index = read_index(source)
        reader = PageReader(source, index)
        seen = []
        for batch in reader.batches(index.blocks[0]):
            assert batch.rows.shape == (len(batch.pages), PAGE)
            for number, row, words in zip(batch.pages.tolist(), batch.rows, batch.words, strict=True):
                assert row.tobytes() == words.tobytes() == (b"page %d" % number).ljust(PAGE, b"\0")
                seen.append(number)
        assert seen == [page for page in order if page not in zeros]
        worked = [
            numbers
            for part in reader.each(index.blocks[0], lambda one: one.pages.tolist())
            for numbers in part
        ]
        assert worked == seen


@pytest.mark.parametrize("boundary", range(4))
def test_a_page_at_the_edge_of_a_region_is_handed_on_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, boundary: int
) -> None:
    """It belongs to the region that begins there."""
    records = data(0, b"0", "a") + b"".join(data(page, b"x") for page in range(1, 4))
    path = tmp_path / "file"
    path.write_bytes(tiny.HEADER + ram_start(("a", 4 * PAGE, b"")) + ram_part(records) + end())
    monkeypatch.setattr(pages, "_MAX_REGIONS", 1000)
    with open_source(path) as source:
        index = read_index(source)
        monkeypatch.setattr(pages, "_REGION_BYTES", int(index.blocks[0].page_source[boundary]))
        seen = [batch.pages.tolist() for batch in PageReader(source, index).batches(index.blocks[0])]
    assert [page for batch in seen for page in batch] == [0, 1, 2, 3]


@pytest.mark.parametrize(("mapped", "stride"), [(False, PAGE + 8), (True, PAGE)])
def test_pages_that_follow_one_another_are_not_copied(tmp_path: Path, mapped: bool, stride: int) -> None:
    """In a plain stream a page has 8 bytes before it."""
    guest = Guest(agent=False)
    guest.ram[:] = 1
    path = tmp_path / "file"
    path.write_bytes(Writer(guest, mapped=mapped, pages_per_section=1 << 20).stream())
    with open_source(path) as source:
        index = read_index(source)
        batches = list(PageReader(source, index)._spans_of(index.blocks[0]))
    assert {span.stride for span in batches if len(span.pages) > 100} == {stride}


@pytest.fixture
def tiny_file(tmp_path: Path) -> Path:
    """A file with pages 0 (data), 1 (zero), 2 (zeros as data), 3 (missing)."""
    path = tmp_path / "file"
    records = data(0, b"x", "a") + zero(1) + data(2, b"")
    path.write_bytes(tiny.HEADER + ram_start(("a", 4 * PAGE, b"")) + ram_part(records) + end())
    return path


def test_one_page_is_read(tiny_file: Path) -> None:
    """Zeros for a zero page, None for one that is missing or outside."""
    with open_source(tiny_file) as source:
        index = read_index(source)
        reader, block = PageReader(source, index), index.blocks[0]
        assert reader.page(block, 0) == b"x".ljust(PAGE, b"\0")
        assert reader.page(block, 1) == reader.page(block, 2) == bytes(PAGE)
        assert [reader.page(block, number) for number in (3, 4, -1, 1000)] == [None] * 4


def test_a_zero_page_of_a_mapped_ram_file_is_read(tmp_path: Path) -> None:
    """It has no record, and only a clear bit says so."""
    guest = Guest(agent=False)
    guest.ram[0], guest.ram[1] = 0, 1
    path = tmp_path / "file"
    path.write_bytes(Writer(guest, mapped=True).stream())
    with open_source(path) as source:
        index = read_index(source)
        reader, block = PageReader(source, index), index.blocks[0]
        assert [reader.page(block, number) for number in (0, 1)] == [bytes(PAGE), guest.ram[1].tobytes()]


def test_there_is_no_page_before_the_first(tmp_path: Path) -> None:
    """Numbers do not count from the end."""
    path = tmp_path / "file"
    path.write_bytes(tiny.HEADER + ram_start(("a", PAGE, b"")) + ram_part(data(0, b"x", "a")) + end())
    with open_source(path) as source:
        index = read_index(source)
        reader, block = PageReader(source, index), index.blocks[0]
        assert [reader.page(block, number) for number in (-1, 1)] == [None, None]


def test_digests_are_those_of_the_content(tiny_file: Path) -> None:
    """A page of zeros has one digest however it is written; a missing one has 0."""
    blank = nh(bytes(PAGE))
    expected = [nh(b"x".ljust(PAGE, b"\0")), blank, blank, [0, 0]]
    with open_source(tiny_file) as source:
        index = read_index(source)
        assert digest_pages(PageReader(source, index), index.blocks[0]).tolist() == expected
        _, (digests,) = read_digests(source)
        assert digests.tolist() == expected


def test_extraction_says_what_is_missing(tiny_file: Path, tmp_path: Path) -> None:
    """Files have the RAMBlock's whole length; zero and missing pages are zeros in it."""
    content = extract(tiny_file, tmp_path / "out")
    assert content["version"] == 1
    assert content["page_size"] == PAGE
    assert content["blocks"] == [
        {"idstr": "a", "bytes": 4 * PAGE, "file": "block-000.ram", "missing_pages": 1}
    ]
    assert content["facts"]["data pages"] == 2
    assert (tmp_path / "out" / "block-000.ram").read_bytes() == b"x".ljust(4 * PAGE, b"\0")


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("golden.json", True),
        ("devices.json", True),
        ("block-000.ram", True),
        ("block-1234.ram", True),
        ("block-.ram", False),
        ("block-000.ramx", False),
        ("xblock-000.ram", False),
        ("other.json", False),
    ],
)
def test_names_of_an_extraction(name: str, is_one: bool) -> None:
    """No file of another name is in the way."""
    assert is_extracted_name(name) is is_one


@pytest.mark.parametrize(
    ("numbers", "runs"),
    [
        ([], []),
        ([5], [(0, 1)]),
        ([5, 6, 7], [(0, 3)]),
        ([5, 7], [(0, 1), (1, 2)]),
        ([7, 6], [(0, 1), (1, 2)]),
        ([1, 2, 4, 5, 9], [(0, 2), (2, 4), (4, 5)]),
        (list(range(256)), [(0, 256)]),
        (list(range(257)), [(0, 256), (256, 257)]),
    ],
)
def test_neighbours_are_written_together(numbers: list[int], runs: list[tuple[int, int]]) -> None:
    """At most 256 of them, which is fewer than the 1024 (IOV_MAX) that a call takes."""
    assert _runs(np.array(numbers, np.int64)) == runs
