"""Contract: each field and RAMBlock that differs is one problem, which names device and field."""

from __future__ import annotations

from harness.codes import Code
from tests_functional.devices.differences import difference_problems
from validators.vmstate.diff import Difference
from validators.vmstate.stream_diff import FieldChange

_SAME = Difference({}, (), (), (), (), 0, 4096)


def test_files_without_differences_are_no_problem() -> None:
    """Nothing is said."""
    assert difference_problems(_SAME, "nvme") == []


def test_elements_of_an_array_are_one_problem() -> None:
    """It is called by the name without an index, so that one rule of the baseline is for all of them."""
    fields = tuple(FieldChange(f"x/nvme (0).queue[{n}].head", n, None) for n in range(3))
    long = FieldChange("x/nvme (0).buffer", "0" * 500, "1")
    found = difference_problems(Difference({}, (), (), (), (*fields, long), 0, 4096), "nvme")
    assert [(one.code, dict(one.fields)) for one in found] == [
        (Code.DEVICES_DIFFERS, {"device": "nvme", "field": "x/nvme (0).queue.head"}),
        (Code.DEVICES_DIFFERS, {"device": "nvme", "field": "x/nvme (0).buffer"}),
    ]
    assert found[0].sentence == (
        "'x/nvme (0).queue[0].head' was 0, and is absent after the restore, and 2 more of its elements."
    )
    assert len(found[1].sentence) < 150


def test_stream_and_memory_are_problems_too() -> None:
    """A section that is missing, pages that differ, and blocks that only one file has."""
    found = difference_problems(
        Difference(
            {"vga.vram": [8192, 4096]},
            ("a",),
            ("b",),
            (FieldChange("section x (0)", "v", None),),
            (),
            2,
            4096,
        ),
        "VGA",
    )
    assert [(one.code, one.fields.get("block", one.fields.get("field"))) for one in found] == [
        (Code.DEVICES_RAM_DIFFERS, "vga.vram"),
        (Code.DEVICES_RAM_DIFFERS, "a"),
        (Code.DEVICES_RAM_DIFFERS, "b"),
        (Code.DEVICES_DIFFERS, "section x (0)"),
    ]
    assert "2 pages of 'vga.vram' differ after the restore, the first at 0x2000." in found[0].sentence
