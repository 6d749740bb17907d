"""Contract: the marks in a file say which pages a foreign writer wrote, and in which passes."""

from __future__ import annotations

from pathlib import Path

from tests_functional.foreign_writers.marks import MARK_BYTES, MarkedPage, Marks
from tests_unit.support.tiny_stream import HEADER, PAGE, configuration, data, end, ram_part, ram_start, zero

_TAG = bytes(range(100, 116))
_MARKS = Marks(_TAG)


def _file(folder: Path, *records: bytes) -> Path:
    ram = ram_start(("pc.ram", 8 * PAGE, b""), ("other", 8 * PAGE, b""))
    path = folder / "vmstate"
    path.write_bytes(HEADER + configuration() + ram + ram_part(b"".join(records)) + end())
    return path


def test_page_is_full_of_one_mark() -> None:
    """It has 128 of them, and another tag or pass makes another page."""
    page = _MARKS.page(7, 3)
    assert len(page) == PAGE
    assert page == _TAG + (7).to_bytes(8, "little") + (3).to_bytes(8, "little") + page[:-MARK_BYTES]
    assert page not in (_MARKS.page(6, 3), _MARKS.page(7, 4), Marks().page(7, 3))
    assert Marks().tag != Marks().tag


def test_passes_of_pages() -> None:
    """A page has the highest pass of its marks; one without marks, or with another tag, has none."""
    torn = _MARKS.page(5, 0)[:2048] + _MARKS.page(4, 0)[2048:]
    packet = bytes(MARK_BYTES) + _MARKS.one(9, 1) + bytes(PAGE - 2 * MARK_BYTES)
    displaced = bytes(8) + _MARKS.one(9, 1) + bytes(PAGE - MARK_BYTES - 8)
    pages = [_MARKS.page(0, 0), torn, packet, displaced, bytes(PAGE), Marks(bytes(16)).page(3, 0)]
    assert _MARKS.passes(pages) == [0, 5, 9, None, None, None]


def test_pages_of_a_file(tmp_path: Path) -> None:
    """In each RAMBlock, with the passes of a page that was written while it was saved."""
    torn = _MARKS.page(5, 0)[:64] + _MARKS.page(4, 0)[64:]
    path = _file(
        tmp_path,
        data(0, _MARKS.page(4, 0), "pc.ram"),
        data(1, b"x"),
        zero(2),
        data(3, torn),
        data(6, bytes(PAGE - MARK_BYTES) + _MARKS.one(5, 1), "other"),
    )
    assert _MARKS.in_file(path) == [
        MarkedPage("pc.ram", 0, 4, 4, 0),
        MarkedPage("pc.ram", 3 * PAGE, 4, 5, 0),
        MarkedPage("other", 6 * PAGE, 5, 5, 1),
    ]
