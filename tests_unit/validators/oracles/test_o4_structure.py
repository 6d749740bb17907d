"""Contract: pages that are sent twice or never are all counted, and the first of them named."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.codes import Code
from tests_unit.support.synthetic_stream import PAGE, Guest, Writer
from validators import verdict
from validators.judge import check_file
from validators.oracles.o4_structure import structure
from validators.verdict import VIOLATION_LIMIT


def test_pages_sent_twice_are_counted_beyond_the_limit_of_violations(tmp_path: Path) -> None:
    """A file in which every page is twice says how many that is."""
    pages = VIOLATION_LIMIT + 100
    guest = Guest(agent=False, ram_pages=pages)
    path = tmp_path / "file"
    path.write_bytes(Writer(guest, order=[*range(pages), *range(pages)]).stream())
    result = check_file(path).check("page-twice")
    assert result is not None
    assert (result.total, len(result.violations)) == (pages, VIOLATION_LIMIT)
    assert result.facts["pages sent again"] == pages


def test_page_sent_twice_is_named_with_both_places(tmp_path: Path) -> None:
    """The violation's place in the file is that of the later record."""
    guest, page = Guest(agent=False), 200
    data = Writer(guest, order=[*range(256), page]).stream()
    content = guest.ram[page].tobytes()
    earlier = data.index(content)
    later = data.index(content, earlier + 1)
    path = tmp_path / "file"
    path.write_bytes(data)
    (found,) = check_file(path).violations
    assert (found.code, found.block, found.offset) == (Code.PAGE_TWICE_SENT_AGAIN, "pc.ram", page * PAGE)
    assert found.file_offset == later
    assert found.sentence == (
        f"Page 0x{page * PAGE:x} of RAMBlock 'pc.ram' is in the stream twice, "
        f"at file offsets {earlier} and {later}."
    )


@pytest.mark.parametrize("places", [0, 50, VIOLATION_LIMIT, 1 << 21])
def test_missing_pages_are_counted_beyond_the_limit_of_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: int
) -> None:
    """Of a file without any page of its RAM every page is counted, however few places are kept."""
    monkeypatch.setattr(verdict, "BAD_PAGE_LIMIT", places)
    monkeypatch.setattr(structure, "_PIECE", 64)
    pages = VIOLATION_LIMIT + 100
    path = tmp_path / "file"
    path.write_bytes(Writer(Guest(agent=False, ram_pages=pages), order=[]).stream())
    result = check_file(path).check("page-missing")
    assert result is not None
    assert result.total == pages
    assert [found.offset for found in result.violations] == [page * PAGE for page in range(VIOLATION_LIMIT)]
    assert sum(map(len, result.bad_pages.values())) == min(places, pages)
