"""Contract: a dirty bitmap that is lost, newer than T0 or no longer usable turns its check red."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.codes import Code
from harness.errors import SetupBroken
from harness.qemu.machine import Machine
from tests_functional.beside_ram.bitmaps import (
    Bitmap,
    _Pieces,
    bitmap_of,
    judge_restored_bitmap,
    judge_source_bitmap,
)
from tests_unit.support.scenario_values import codes

_RIGHT = Bitmap(1 << 20, recording=True, usable=True)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (_RIGHT, []),
        (None, [Code.BESIDE_RAM_SOURCE]),
        (replace(_RIGHT, dirty_bytes=0), [Code.BESIDE_RAM_SOURCE]),
        (replace(_RIGHT, dirty_bytes=(1 << 20) + 1), [Code.BESIDE_RAM_SOURCE]),
        (replace(_RIGHT, recording=False), [Code.BESIDE_RAM_SOURCE]),
        (replace(_RIGHT, usable=False), [Code.BESIDE_RAM_SOURCE]),
    ],
)
def test_source(found: Bitmap | None, expected: list[Code]) -> None:
    """The source's bitmap has all writes and goes on."""
    assert codes(judge_source_bitmap(found, 1 << 20)) == expected


@pytest.mark.parametrize(
    ("found", "at_t0", "expected"),
    [
        (_RIGHT, 1 << 20, []),
        (None, 1 << 20, [Code.BESIDE_RAM_LOST]),
        (replace(_RIGHT, dirty_bytes=(1 << 20) + 1), 1 << 20, [Code.BESIDE_RAM_NEWER]),
        (replace(_RIGHT, dirty_bytes=0), 1 << 20, [Code.BESIDE_RAM_LOST]),
        (replace(_RIGHT, recording=False), 1 << 20, [Code.BESIDE_RAM_LOST]),
        (replace(_RIGHT, usable=False), 1 << 20, [Code.BESIDE_RAM_LOST]),
        (None, None, []),
        (_RIGHT, None, [Code.BESIDE_RAM_LOST]),
    ],
)
def test_restored(found: Bitmap | None, at_t0: int | None, expected: list[Code]) -> None:
    """The restored bitmap is that of T0, and there is none where none was saved."""
    assert codes(judge_restored_bitmap(found, at_t0)) == expected


def test_bitmap_in_qemus_answer() -> None:
    """It is found by the names of node and bitmap; one that is inconsistent is not usable."""
    entry: dict[str, Any] = {"name": "bitmap", "count": 65536, "recording": True, "busy": False}
    for more, usable in (({}, True), ({"inconsistent": True}, False), ({"busy": True}, False)):
        disk = {"node-name": "beside-ram", "dirty-bitmaps": [{"name": "x"}, {**entry, **more}]}
        assert bitmap_of(_machine([{"node-name": "other"}, disk])) == Bitmap(65536, True, usable)
    assert bitmap_of(_machine([{"node-name": "beside-ram"}])) is None


def _machine(nodes: list[dict[str, Any]]) -> Machine:
    return cast(Machine, SimpleNamespace(qmp=SimpleNamespace(execute=lambda *_: nodes)))


class _Disk:
    """A QEMU that says nothing to `qemu-io`, and writes or not."""

    def __init__(self, writes: bool) -> None:
        self.qmp = self
        self.lines: list[str] = []
        self._writes = writes

    def hmp(self, line: str) -> str:
        self.lines.append(line)
        return ""

    def execute(self, command: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        assert (command, arguments) == ("query-blockstats", {"query-nodes": True})
        end = len(self.lines) << 20 if self._writes else 0
        others = {"node-name": "other", "stats": {"wr_highest_offset": 1}}
        return [others, {"node-name": "beside-ram", "stats": {"wr_highest_offset": end}}]


def test_pieces_are_written_one_behind_the_other() -> None:
    """Each is counted by where the highest write has ended."""
    disk = _Disk(writes=True)
    pieces = _Pieces(cast(Machine, disk))
    pieces.write()
    pieces.write()
    assert pieces.written_bytes == 2 << 20
    assert disk.lines == [
        'qemu-io beside-ram "write 0 1048576"',
        'qemu-io beside-ram "write 1048576 1048576"',
    ]


def test_silence_is_no_write() -> None:
    """QEMU's answer is empty either way."""
    with pytest.raises(SetupBroken, match="end at byte 0, and not at 1048576"):
        _Pieces(cast(Machine, _Disk(writes=False))).write()
