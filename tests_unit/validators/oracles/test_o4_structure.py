"""Contract: pages that are sent twice are all counted, and the first of them named with both places."""

from __future__ import annotations

from pathlib import Path

from harness.codes import Code
from tests_unit.support.synthetic_stream import PAGE, Guest, Writer
from validators.judge import check_file
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
