"""Contract: a fault that is planted in a file turns the check of the foreign writer red."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.codes import Code
from harness.errors import SetupBroken
from tests_functional.foreign_writers.file_faults import plant
from tests_functional.foreign_writers.judge import judge_marks
from tests_functional.foreign_writers.marks import Marks
from tests_unit.support.scenario_values import codes
from tests_unit.support.tiny_stream import HEADER, PAGE, configuration, data, end, ram_part, ram_start

_MARKS = Marks()
# The control pages begin at the second page, and the marked ones behind them at the seventh.
_CONTROL = PAGE


def _file(folder: Path) -> Path:
    records = [
        data(number, bytes([number + 1]) * PAGE, "pc.ram" if not number else "") for number in range(6)
    ]
    records += [data(6 + index, _MARKS.page(2, index)) for index in range(2)]
    path = folder / "vmstate"
    ram = ram_start(("pc.ram", 8 * PAGE, b""))
    path.write_bytes(HEADER + configuration() + ram + ram_part(b"".join(records)) + end())
    return path


@pytest.mark.parametrize(
    ("name", "expected", "changed"),
    [
        ("lose-write", [Code.FOREIGN_WRITER_LOST], 6),
        ("double-write", [Code.FOREIGN_WRITER_TWICE], 0),
        ("forget-requests", [], 4),
    ],
)
def test_fault(tmp_path: Path, name: str, expected: list[Code], changed: int) -> None:
    """One page is changed, and no other; the requests show only in the restored guest."""
    path = _file(tmp_path)
    before = path.read_bytes()
    assert codes(judge_marks(_MARKS.in_file(path), 2, 2)) == []
    assert plant(name, path, _MARKS, _CONTROL) == 1
    assert codes(judge_marks(_MARKS.in_file(path), 2, 2)) == expected
    after = path.read_bytes()
    assert len(after) == len(before)
    place = before.index(bytes([changed + 1]) * PAGE if changed < 6 else _MARKS.page(2, changed - 6))
    assert after[:place] == before[:place]
    assert after[place : place + PAGE] != before[place : place + PAGE]
    assert after[place + PAGE :] == before[place + PAGE :]


def test_file_without_the_page(tmp_path: Path) -> None:
    """A fault that cannot be planted is never taken for one that was missed."""
    with pytest.raises(SetupBroken, match="no content of the page"):
        plant("forget-requests", _file(tmp_path), _MARKS, 1 << 20)
