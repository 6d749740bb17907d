"""The comparison of two ELF cores sees one byte, RAM that one of them lacks, and nothing at all."""

from __future__ import annotations

from pathlib import Path

from harness.codes import Code
from harness.qemu.core_image import RamTable
from harness.qemu.monitor_tables import Place
from harness.qemu.ram import RamBlock
from harness.status import Status
from tests_functional.offline.elf_core import compare_cores, main_ram
from tests_unit.support.elf_files import elf_core

_MIB = 1 << 20
_DATA = bytes(range(256)) * (3 * _MIB // 256)
_RAM = [Place(0, 2 * _MIB, 0, "ram"), Place(8 * _MIB, _MIB, 2 * _MIB, "ram")]


def _core(path: Path, *segments: tuple[int, bytes]) -> Path:
    path.write_bytes(elf_core(segments))
    return path


def test_equal_cores_pass(tmp_path: Path) -> None:
    """A core may have its memory in more segments than the other, in any order, and more of it."""
    ours = _core(tmp_path / "a", (8 * _MIB, _DATA[2 * _MIB :]), (0, _DATA[: 2 * _MIB]))
    pieces = (0, _DATA[:4096]), (4096, _DATA[4096 : 2 * _MIB]), (8 * _MIB, _DATA[2 * _MIB :] + b"more")
    check = compare_cores(ours, _core(tmp_path / "b", *pieces), _RAM)
    assert (check.status, check.facts["bytes_compared"]) == (Status.PASS, 3 * _MIB)


def test_one_byte_is_found_at_its_address(tmp_path: Path) -> None:
    """Also the last one, behind the hole; what is no RAM is not compared."""
    bad = bytearray(_DATA[2 * _MIB :])
    bad[-1] ^= 1
    ours = _core(tmp_path / "a", (0, _DATA[: 2 * _MIB]), (8 * _MIB, bytes(bad)))
    theirs = _core(tmp_path / "b", (0, _DATA[: 2 * _MIB] + b"rom"), (8 * _MIB, _DATA[2 * _MIB :]))
    check = compare_cores(ours, theirs, _RAM)
    assert [(one.code, one.sentence) for one in check.violations] == [
        (
            Code.EXTRACTED_RAM_DIFFERS,
            "The ELF cores differ within 1048576 bytes from guest-physical 0x800000.",
        )
    ]


def test_ram_that_both_lack_is_not_green(tmp_path: Path) -> None:
    """QEMU says what RAM there is; a core without it differs, and no RAM at all proves nothing."""
    ours, theirs = (_core(tmp_path / name, (0, _DATA[: 2 * _MIB])) for name in "ab")
    assert compare_cores(ours, theirs, _RAM).total == 1
    nothing = compare_cores(ours, theirs, [])
    assert [one.code for one in nothing.violations] == [Code.EXTRACTED_RAM_NOTHING]


def test_main_ram_is_the_largest_block_where_processors_see_it() -> None:
    """Ranges of other address spaces, and of other RAMBlocks, are left out."""
    blocks = RamBlock("pc.rom", 4096, 0), RamBlock("pc.ram", _MIB, 0)
    seen, hidden = Place(0, 4096, 0, "ram"), Place(4096, 4096, 4096, "ram", in_cpu_space=False)
    assert main_ram(RamTable(blocks, {"pc.ram": [seen, hidden], "pc.rom": [seen]})) == [seen]
