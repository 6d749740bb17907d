"""Contract: QEMU's dump of guest memory becomes a golden image that names what it lacks."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.deadline import Deadline
from harness.elf_core import Segment
from harness.errors import SetupBroken
from harness.qemu.core_image import (
    Piece,
    RamTable,
    dump_core,
    gaps_of,
    golden_from_core,
    pieces_of,
    read_segments,
)
from harness.qemu.monitor_tables import Place
from harness.qemu.ram import RamBlock
from tests_unit.support.elf_files import elf_core

PAGE = 4096
_BLOCK = RamBlock("pc.ram", 16 * PAGE, 0)


def _core(path: Path, segments: Sequence[tuple[int, bytes]], *, wide: bool = True, order: str = "<") -> Path:
    path.write_bytes(elf_core(segments, wide=wide, order=order))
    return path


def _pages(*numbers: int) -> bytes:
    return b"".join(bytes([number]) * PAGE for number in numbers)


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("order", ["<", ">"])
def test_segments_of_a_core(tmp_path: Path, wide: bool, order: str) -> None:
    """Of both widths and byte orders; notes are none."""
    core = _core(tmp_path / "core", [(0, _pages(1)), (0x100000, _pages(2, 3))], wide=wide, order=order)
    first, second = read_segments(core)
    assert (first.address, first.size) == (0, PAGE)
    assert (second.address, second.size) == (0x100000, 2 * PAGE)
    assert core.read_bytes()[second.file_offset :] == _pages(2, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: b"KDUMP   " + data[8:], "no ELF core"),
        (lambda data: data[:10], "no ELF core"),
        (lambda data: data[:18], "no table of segments"),
        (lambda data: data[:-1], "is cut: a segment ends at byte 4276.*disk full"),
        (lambda data: data[:56] + b"\xff\xff" + data[58:], "no table of segments"),
        (lambda data: data[:54] + b"\x08\x00" + data[56:], "no table of segments"),
        (lambda _: b"", "no ELF core"),
    ],
)
def test_what_is_no_core_is_refused(tmp_path: Path, change: Any, words: str) -> None:
    """A file of another kind, and one that is cut."""
    core = _core(tmp_path / "core", [(0, _pages(1))])
    core.write_bytes(change(core.read_bytes()))
    with pytest.raises(SetupBroken, match=words):
        read_segments(core)


def test_pieces_of_a_block() -> None:
    """Where a place and a segment meet; a part of a page, and a view of other processors, show nothing."""
    places = [
        Place(0, 4 * PAGE, 0, "ram"),
        Place(0x100000, 8 * PAGE, 8 * PAGE, "ram"),
        Place(0x900000, 16 * PAGE, 0, "ram", in_cpu_space=False),
    ]
    segments = [Segment(0, 2 * PAGE, 100), Segment(0x100000 + 10, 4 * PAGE, 5000), Segment(0x900000, PAGE, 0)]
    assert pieces_of(_BLOCK, places, segments) == [
        Piece(0, 2 * PAGE, 100),
        Piece(9 * PAGE, 3 * PAGE, 5000 + PAGE - 10),
    ]


def test_memory_that_is_seen_twice_is_one_piece() -> None:
    """An alias shows the same pages; what is behind the block's used length does not count."""
    places = [Place(0, 4 * PAGE, 0, "ram"), Place(0x100000, 20 * PAGE, 2 * PAGE, "ram")]
    segments = [Segment(0, 4 * PAGE, 0), Segment(0x100000, 20 * PAGE, 4 * PAGE)]
    assert pieces_of(_BLOCK, places, segments) == [
        Piece(0, 4 * PAGE, 0),
        Piece(4 * PAGE, 12 * PAGE, 6 * PAGE),
    ]


def test_gaps_of_a_block() -> None:
    """All that no piece shows: at the start, in between, at the end."""
    assert gaps_of(_BLOCK, []) == [(0, 16 * PAGE)]
    assert gaps_of(_BLOCK, [Piece(0, 16 * PAGE, 0)]) == []
    pieces = [Piece(PAGE, PAGE, 0), Piece(2 * PAGE, PAGE, 0), Piece(5 * PAGE, PAGE, 0)]
    assert gaps_of(_BLOCK, pieces) == [(0, PAGE), (3 * PAGE, 5 * PAGE), (6 * PAGE, 16 * PAGE)]


def test_golden_image_of_a_core(tmp_path: Path) -> None:
    """RAM has the core's content; what it lacks is named, and so is what cannot be told apart."""
    small = [RamBlock(name, PAGE, 0) for name in ("/rom@tables", "0000:00:02.0/vram", "0000:00:03.0/vram")]
    ram = Place(0, 10 * PAGE, 0, "ram"), Place(10 * PAGE + 0x100000, 5 * PAGE, 11 * PAGE, "ram")
    vram = Place(0xF0000000, PAGE, 0, "ram")
    table = RamTable((_BLOCK, *small), {"pc.ram": list(ram), "vram": [vram]})
    low, high = _pages(*range(1, 10), 0), _pages(*range(20, 25))
    core = _core(tmp_path / "core", [(0, low), (10 * PAGE + 0x100000, high), (0xF0000000, _pages(99))])
    image = golden_from_core(core, table, tmp_path / "golden")
    assert image.blocks == (_BLOCK,)
    assert image.gaps == {"pc.ram": [(10 * PAGE, 11 * PAGE)]}
    content = json.loads((tmp_path / "golden/golden.json").read_text())
    (entry,) = content["blocks"]
    assert (entry["idstr"], entry["bytes"], entry["gaps"]) == ("pc.ram", 16 * PAGE, [[10 * PAGE, 11 * PAGE]])
    assert [one["idstr"] for one in content["left_out"]] == [block.idstr for block in small]
    assert (tmp_path / "golden" / entry["file"]).read_bytes() == low + _pages(0) + high


def test_core_that_lacks_most_of_ram_is_refused(tmp_path: Path) -> None:
    """A tenth may be missing, and no more."""
    core = _core(tmp_path / "core", [(0, _pages(*range(14)))])
    table = RamTable((_BLOCK,), {"pc.ram": [Place(0, 14 * PAGE, 0, "ram")]})
    with pytest.raises(SetupBroken, match=r"88% of the RAMBlock 'pc\.ram'"):
        golden_from_core(core, table, tmp_path / "golden")


class _Vm:
    """A QEMU that dumps."""

    def __init__(self, *states: str) -> None:
        self.qmp, self.states, self.commands = self, list(states), list[tuple[str, Any]]()
        self.blocks = 0

    def execute(self, command: str, arguments: Any = None) -> Any:
        self.commands.append((command, arguments))
        return {"status": self.states.pop(0) if len(self.states) > 1 else self.states[0]}

    def pass_descriptor(self, file: int, name: str) -> None:
        self.passed = (name, os.fstat(file).st_mode & 0o777)

    def query_migrate(self) -> dict[str, Any]:
        self.blocks -= 1
        return {"blocked-reasons": ["dump-guest-memory in progress"]} if self.blocks >= 0 else {}

    def pause(self, _deadline: Deadline, _seconds: float) -> None:
        pass


def test_dump_is_awaited(tmp_path: Path) -> None:
    """It goes into the descriptor, and the monitor can be used meanwhile."""
    vm: Any = _Vm("", "active", "active", "completed")
    dump_core(vm, tmp_path / "core", "place", Deadline(10))
    assert vm.passed == ("place", 0o600)
    assert vm.commands[0] == (
        "dump-guest-memory",
        {"paging": False, "protocol": "fd:place", "detach": True},
    )
    assert [command for command, _ in vm.commands[1:]] == ["query-dump"] * 3


def test_dump_lasts_until_it_no_longer_blocks_a_migration(tmp_path: Path) -> None:
    """QEMU says that it has completed, and refuses a migration for some time still."""
    vm: Any = _Vm("", "completed")
    vm.blocks = 3
    dump_core(vm, tmp_path / "core", "place", Deadline(10))
    assert [command for command, _ in vm.commands[1:]] == ["query-dump"] * 4


@pytest.mark.parametrize(
    ("states", "seconds", "words"),
    [(("", "failed"), 10.0, "ended as 'failed'"), (("", "active"), 0.0, "did not end")],
)
def test_dump_that_is_none(tmp_path: Path, states: tuple[str, ...], seconds: float, words: str) -> None:
    """One that fails, and one that takes too long."""
    vm: Any = _Vm(*states)
    with pytest.raises(SetupBroken, match=words):
        dump_core(vm, tmp_path / "core", "place", Deadline(seconds))
