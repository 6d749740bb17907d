"""Contract: a dirty bitmap that is lost, newer than T0 or no longer usable turns its check red."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.codes import Code
from harness.qemu.machine import Machine
from tests_functional.beside_ram.bitmaps import (
    Bitmap,
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
