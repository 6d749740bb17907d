"""Contract: the list of RAMBlocks ends where its lengths say, and a mapped-ram layout is read to the page."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from harness.status import Status
from tests_unit.support import synthetic_stream
from tests_unit.support.synthetic_stream import PAGE, Guest, Writer
from validators.judge import check_file
from validators.vmstate.facts import describe
from validators.vmstate.stream import open_source, read_index


def test_pages_may_follow_the_list_in_its_section(tmp_path: Path) -> None:
    """QEMU's loader takes page records in any RAM section, so a record behind the list is no entry of it."""
    stream = Writer(Guest(agent=False)).stream()
    behind = stream.index(b"\x06pc.rom") + 7 + 8
    record = struct.pack(">Q", 5 * PAGE | 2) + b"\x06pc.ram\0"
    path = tmp_path / "file"
    path.write_bytes(stream[:behind] + record + stream[behind:])
    with open_source(path) as source:
        index = read_index(source)
    assert index.damage is None
    assert [block.idstr for block in index.blocks] == ["pc.ram", "pc.rom"]


def test_pages_may_begin_right_behind_the_bitmap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bitmap has one bit for each page, in whole words of 64, and no more."""
    monkeypatch.setattr(synthetic_stream, "_MAPPED_ALIGN", PAGE)
    path = tmp_path / "file"
    path.write_bytes(Writer(Guest(agent=False), mapped=True).stream())
    assert check_file(path).status is Status.PASS


@pytest.mark.parametrize("mapped", [False, True])
def test_records_are_counted_by_their_kind(tmp_path: Path, mapped: bool) -> None:
    """The facts of a file say how many pages have data and how many are zero, in each layout."""
    writer = Writer(Guest(agent=False), mapped=mapped)
    path = tmp_path / "file"
    path.write_bytes(writer.stream())
    with open_source(path) as source:
        facts = describe(read_index(source))
    rows = [ram.any(axis=1) for _, ram in writer.blocks()]
    assert facts["layout"] == ("mapped-ram" if mapped else "stream")
    assert facts["data pages"] == sum(int(row.sum()) for row in rows)
    assert facts["zero pages"] == sum(int((~row).sum()) for row in rows)


@pytest.mark.parametrize("name", ["m", "~", "a b", "n" * 255])
def test_a_name_may_be_any_that_can_be_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """In a mapped-ram file too, where the name is what shows that the list goes on."""
    writer = Writer(Guest(agent=False), mapped=True)
    (_, ram), (_, rom) = writer.blocks()
    monkeypatch.setattr(writer, "blocks", lambda: [("pc.ram", ram), (name, rom)])
    path = tmp_path / "file"
    path.write_bytes(writer.stream())
    with open_source(path) as source:
        index = read_index(source)
    assert (index.damage, [block.idstr for block in index.blocks]) == (None, ["pc.ram", name])
