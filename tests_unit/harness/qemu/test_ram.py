"""RAMBlocks are found in the text of every QEMU generation."""

from __future__ import annotations

import ctypes
import io
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from harness.errors import MachineryMissing, SetupBroken, SnapproofError
from harness.qemu import ram
from harness.qemu.machine import Machine
from harness.qemu.monitor_tables import Place, parse_ranges
from harness.qemu.ram import (
    RamBlock,
    parse_ramblocks,
    populated_bytes,
    populated_pages,
    read_populated,
)
from harness.userfaultfd import libc

_QEMU_10 = """              Block Name    PSize              Offset               Used              Total                HVA  RO
                  pc.ram    4 KiB  0x0000000000000000 0x0000000020000000 0x0000000020000000 0x00007fd963e00000  rw
    /rom@etc/acpi/tables    4 KiB  0x0000000020080000 0x0000000000020000 0x0000000000200000 0x00007fd9d1e00000  ro
"""  # noqa: E501  # as QEMU 10.0 prints it
_QEMU_7 = """              Block Name    PSize              Offset               Used              Total
                  pc.ram    4 KiB  0x0000000000000000 0x0000000020000000 0x0000000020000000
 0000:00:02.0/vga.vram     4 KiB  0x0000000020080000 0x0000000001000000 0x0000000001000000
"""


def test_addresses_of_qemu_10() -> None:
    """QEMU 8.2 and later print the host address; used and total length differ."""
    main, tables = parse_ramblocks(_QEMU_10)
    assert (main.idstr, main.used_bytes, main.host_address) == ("pc.ram", 512 << 20, 0x7FD963E00000)
    assert (tables.idstr, tables.used_bytes) == ("/rom@etc/acpi/tables", 0x20000)


def test_qemu_7_has_no_addresses() -> None:
    """Older ones leave the address out; the block's own name may hold colons and slashes."""
    main, vram = parse_ramblocks(_QEMU_7)
    assert (main.used_bytes, main.host_address) == (512 << 20, 0)
    assert vram.idstr == "0000:00:02.0/vga.vram"


def test_memory_that_no_device_uses() -> None:
    """Its RAMBlock has no name and is in no stream; the line before it is no name."""
    header, *others = _QEMU_10.splitlines(keepends=True)
    unnamed = others[0].replace("pc.ram", "      ")
    assert parse_ramblocks("".join((header, unnamed, *others))) == parse_ramblocks(_QEMU_10)


def test_other_text_has_no_blocks() -> None:
    """An error message is no block."""
    assert parse_ramblocks("unknown command: 'info ramblock'\r\n") == ()


_MTREE = """FlatView #0
 AS "memory", root: system
 Root memory region: system
  0000000000000000-00000000000bffff (prio 0, ram): pc.ram
  00000000000c0000-00000000000dffff (prio 1, rom): pc.rom
  00000000000e0000-00000000000fffff (prio 0, rom): pc.bios @0000000000020000
  0000000000100000-000000001fffffff (prio 0, ram): pc.ram @0000000000100000 KVM
  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios
"""


def test_places_in_the_memory_tree() -> None:
    """A range's offset inside its block counts: taking it for zero would shift all of RAM by it."""
    ranges = parse_ranges(_MTREE)
    assert ranges["pc.ram"] == [Place(0, 0xC0000, 0, "ram"), Place(0x100000, 0x1FF00000, 0x100000, "ram")]
    assert ranges["pc.bios"] == [
        Place(0xE0000, 0x20000, 0x20000, "rom"),
        Place(0xFFFC0000, 0x40000, 0, "rom"),
    ]
    assert "pc" not in ranges


_MTREE_WITH_TAGS = """FlatView #0
 AS "cpu-tag-memory-0", root: tag-memory
 Root memory region: tag-memory
  0000000002000000-00000000023fffff (prio 0, ram): mach-virt.tag

FlatView #1
 AS "memory", root: system
 AS "cpu-memory-0", root: system
 Root memory region: system
  0000000000000000-0000000003ffffff (prio 0, romd): virt.flash0
  0000000040000000-0000000047ffffff (prio 0, ram): mach-virt.ram

FlatView #2
 AS "I/O", root: io
 Root memory region: io
  0000000000000000-000000000000ffff (prio 0, i/o): io
"""  # as QEMU 7.2 prints it for machine type virt with mte=on


def test_other_address_spaces_do_not_count() -> None:
    """An address in the one of tags means other memory to `gpa2hva`: a golden image would have its bytes."""
    ranges = parse_ranges(_MTREE_WITH_TAGS)
    assert [place.in_cpu_space for place in ranges["mach-virt.tag"]] == [False]
    assert ranges["mach-virt.ram"] == [Place(0x40000000, 0x8000000, 0, "ram")]


def test_block_that_is_only_in_another_address_space_has_no_address() -> None:
    """`gpa2hva` would give the address of other memory."""
    machine = _answering(
        info_ramblock=_QEMU_7.replace("pc.ram", "mach-virt.tag"),
        info_mtree__f=_MTREE_WITH_TAGS,
        gpa2hva_0x2000000="Host virtual address for 0x2000000 (virt.flash0) is 0x7f0000100000\n",
    )
    assert [block.host_address for block in ram.ramblocks(machine)] == [0, 0]


def test_pagemap_of_a_host_with_large_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pagemap has one entry per page of the host, which is 16 or 64 KiB on some arm64 and ppc64 kernels."""
    page = 16 << 10
    present, swapped, protected = 1 << 63, 1 << 62, 1 << 57
    block = RamBlock("pc.ram", 4 * page, 0x400000)
    folder = tmp_path / "proc" / "7"
    folder.mkdir(parents=True)
    with (folder / "pagemap").open("wb") as pagemap:
        pagemap.seek(block.host_address // page * 8)
        # Behind the block's four entries, those of other memory.
        entries = [present, 0, swapped | protected, 0, *[present | protected] * 12]
        pagemap.write(np.array(entries, dtype="<u8").tobytes())
    with (folder / "mem").open("wb") as memory:
        memory.seek(block.host_address)
        memory.write(b"".join(bytes([number]) * page for number in range(4)))
    monkeypatch.setattr(libc, "PAGE_BYTES", page)
    monkeypatch.setattr(ram, "Path", lambda path: tmp_path / str(path).lstrip("/"))
    monkeypatch.setattr(ram, "ramblocks", lambda _machine: (block,))
    machine = cast(Machine, SimpleNamespace(pid=7))
    assert populated_pages(machine, block).tolist() == [True, False, True, False]
    assert populated_bytes(machine, block) == 2 * page
    pieces = [(at - block.host_address, data) for at, data in read_populated(machine, block)]
    assert pieces == [(0, bytes(page)), (2 * page, bytes([2]) * page)]
    assert ram.write_protected_pages(machine) == 1


@pytest.fixture
def of_this_process() -> tuple[Machine, RamBlock, bytearray]:
    """A machine that is this process, and a RAMBlock in it with its content, longer than one chunk."""
    space = bytearray(os.urandom((9 << 20) + 5))
    space[1 << 20 : 8 << 20] = bytes(7 << 20)
    address = ctypes.addressof(ctypes.c_char.from_buffer(space))
    machine = SimpleNamespace(pid=os.getpid(), hmp=lambda _command: "")
    return cast(Machine, machine), RamBlock("pc.ram", len(space), address), space


def test_block_is_read_whole(of_this_process: tuple[Machine, RamBlock, bytearray]) -> None:
    """Every byte, and none beyond the block."""
    machine, block, space = of_this_process
    assert b"".join(ram.read_block(machine, block)) == space


def test_golden_image_is_a_copy(
    of_this_process: tuple[Machine, RamBlock, bytearray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each readable block has a file of its bytes, sparse where there are zeros; others are named."""
    machine, block, space = of_this_process
    small = RamBlock("pc.rom", 4096, block.host_address)
    hidden = RamBlock("tables", 8192, 0)
    monkeypatch.setattr(ram, "ramblocks", lambda _machine: (small, hidden, block))
    image = ram.dump_golden(machine, tmp_path / "new" / "golden")
    assert (image.folder, image.blocks, image.total_bytes) == (
        tmp_path / "new" / "golden", (small, block), len(space) + 4096,
    )  # fmt: skip
    assert json.loads((tmp_path / "new" / "golden" / "golden.json").read_text()) == {
        "version": 1,
        "page_size": 4096,
        "blocks": [
            {"idstr": "pc.rom", "bytes": 4096, "file": "block-000.ram"},
            {"idstr": "pc.ram", "bytes": len(space), "file": "block-001.ram"},
        ],
        "left_out": [{"idstr": "tables", "bytes": 8192}],
    }
    assert (tmp_path / "new" / "golden" / "block-000.ram").read_bytes() == space[:4096]
    assert (tmp_path / "new" / "golden" / "block-001.ram").read_bytes() == space
    assert (tmp_path / "new" / "golden" / "block-001.ram").stat().st_blocks * 512 < len(space) - (3 << 20)


def test_image_of_zeros_has_its_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that ends in zeros has a file of its own length, in which zeros take no space."""
    first, zeros, last = b"a" * 65536, bytes(4 << 20), bytes(1 << 20)
    monkeypatch.setattr(ram, "read_block", lambda *_: iter([first, zeros, zeros, first, last]))
    content = first + zeros + zeros + first + last
    block = RamBlock("pc.ram", len(content), 1)
    monkeypatch.setattr(ram, "ramblocks", lambda _machine: (block,))
    ram.dump_golden(cast(Machine, None), tmp_path)
    image = tmp_path / "block-000.ram"
    assert image.read_bytes() == content
    assert image.stat().st_blocks * 512 < len(last)


def test_no_golden_image_without_main_ram(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of small blocks only would compare next to nothing."""
    blocks = (RamBlock("pc.rom", 4096, 0x1000), RamBlock("pc.ram", 8192, 0))
    monkeypatch.setattr(ram, "ramblocks", lambda _machine: blocks)
    with pytest.raises(SetupBroken, match="main RAM"):
        ram.dump_golden(cast(Machine, None), tmp_path)


def test_pagemap_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not count as one without pages."""
    gone = cast(Machine, SimpleNamespace(pid=2**22 + 1))
    with pytest.raises(SetupBroken, match="pagemap cannot be read"):
        populated_pages(gone, RamBlock("pc.ram", 4096, 0x400000))
    monkeypatch.setattr(ram, "ramblocks", lambda _machine: (RamBlock("pc.ram", 4096, 0x400000),))
    assert ram.write_protected_pages(gone) is None


class _StubMemory(io.BytesIO):
    """Stands in for /proc/PID/mem, and gives what it is told to."""

    def __init__(self, given: bytes | OSError) -> None:
        super().__init__()
        self._given = given

    def read(self, wanted: int | None = -1, /) -> bytes:
        if isinstance(self._given, OSError):
            raise self._given
        return self._given[:wanted]


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        (bytes(4095), SetupBroken, "gave 4095 of 4096 bytes of QEMU's RAMBlock 'pc.ram' at offset 0x0"),
        (b"", SetupBroken, "gave 0 of 4096 bytes"),
        (OSError(5, "Input/output error"), SetupBroken, "'pc.ram' cannot be read .*: Input/output error"),
        (PermissionError(1, "Operation not permitted"), MachineryMissing, "ptrace"),
    ],
)
def test_memory_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, given: bytes | OSError, error: type[SnapproofError], sentence: str
) -> None:
    """A part of QEMU's memory is no image of it, and an image is never made of less than all."""
    stub = SimpleNamespace(open=lambda *_, **__: _StubMemory(given))
    monkeypatch.setattr(ram, "Path", lambda _path: stub)
    machine = cast(Machine, SimpleNamespace(pid=7))
    with pytest.raises(error, match=sentence):
        list(ram.read_block(machine, RamBlock("pc.ram", 4096, 0x400000)))


def _answering(**answers: str) -> Machine:
    def hmp(command: str) -> str:
        return answers[command.replace(" ", "_").replace("-", "_")]

    return cast(Machine, SimpleNamespace(hmp=hmp))


def test_blocks_of_qemu_10_are_taken_as_printed() -> None:
    """Nothing else is asked if each line has an address; the largest block is the main one."""
    machine = _answering(info_ramblock=_QEMU_10)
    assert ram.ramblocks(machine) == parse_ramblocks(_QEMU_10)
    assert ram.main_block(machine).idstr == "pc.ram"


def test_blocks_of_qemu_7_are_found_by_the_memory_tree() -> None:
    """The address is that of the first place in the guest that QEMU can translate, less the offset there."""
    machine = _answering(
        info_ramblock=_QEMU_7,
        info_mtree__f='FlatView #0\n AS "memory", root: system\n'
        "  0000000000100000-000000001fffffff (prio 0, ram): pc.ram @0000000000100000\n"
        "  00000000fd000000-00000000fdffffff (prio 1, ram): vga.vram\n",
        gpa2hva_0x100000="Host virtual address for 0x100000 (pc.ram) is 0x7f0000100000\n",
        gpa2hva_0xfd000000="Host virtual address for 0xfd000000 (vga.vram) is 0x7f1000000000\n",
    )
    assert [block.host_address for block in ram.ramblocks(machine)] == [0x7F0000000000, 0x7F1000000000]
    unknown = _answering(info_ramblock=_QEMU_7, info_mtree__f="")
    assert ram.ramblocks(unknown) == parse_ramblocks(_QEMU_7)


def test_no_block_at_all_is_an_error() -> None:
    """An `info ramblock` of an unknown form would leave nothing to compare."""
    with pytest.raises(SetupBroken, match="info ramblock"):
        ram.ramblocks(_answering(info_ramblock="unknown command\r\n"))


def test_blocks_without_an_address_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block whose address QEMU does not say is named, for those who leave it out."""
    blocks = (RamBlock("pc.ram", 4096, 0x1000), RamBlock("vga.rom", 4096, 0))
    monkeypatch.setattr(ram, "ramblocks", lambda _machine: blocks)
    assert ram.unlocated_blocks(cast(Machine, SimpleNamespace())) == ("vga.rom",)
