"""Contract: a comparison of streams names the order of sections only where that is all that differs."""

from __future__ import annotations

from pathlib import Path

from tests_unit.support.synthetic_stream import Guest, Writer, device
from validators.vmstate.diff import diff_files

_ORDER = "order of the sections"


def _paths(folder: Path, first: list[str], second: list[str]) -> list[str]:
    """Return what differs between streams that have these devices in these orders."""
    files: list[Path] = []
    for names in (first, second):
        sections = [device(20 + number, name, [1]) for number, name in enumerate(names)]
        files.append(folder / f"file-{len(files)}")
        files[-1].write_bytes(Writer(Guest(agent=False)).stream_with(sections))
    return [change.path for change in diff_files(*files).stream]


def test_other_order_of_the_same_sections_is_named(tmp_path: Path) -> None:
    """QEMU loads sections in their order."""
    assert _paths(tmp_path, ["a", "b"], ["b", "a"]) == [_ORDER]


def test_further_section_is_no_other_order(tmp_path: Path) -> None:
    """The section that only one stream has is named, in either direction, and nothing else."""
    assert _ORDER not in _paths(tmp_path, ["a", "b"], ["b"])
    assert _ORDER not in _paths(tmp_path, ["b"], ["a", "b"])
