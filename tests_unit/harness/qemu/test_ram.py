"""RAMBlocks are found in the text of every QEMU generation."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from harness.qemu import ram
from harness.qemu.machine import Machine
from harness.qemu.ram import (
    RamBlock,
    parse_places,
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


def test_other_text_has_no_blocks() -> None:
    """An error message is no block."""
    assert parse_ramblocks("unknown command: 'info ramblock'\r\n") == ()


_MTREE = """ Root memory region: system
  0000000000000000-00000000000bffff (prio 0, ram): pc.ram
  00000000000c0000-00000000000dffff (prio 1, rom): pc.rom
  00000000000e0000-00000000000fffff (prio 0, rom): pc.bios @0000000000020000
  0000000000100000-000000001fffffff (prio 0, ram): pc.ram @0000000000100000 KVM
  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios
"""


def test_places_in_the_memory_tree() -> None:
    """A range's offset inside its block counts: taking it for zero would shift all of RAM by it."""
    assert parse_places(_MTREE, "pc.ram") == [(0, 0), (0x100000, 0x100000)]
    assert parse_places(_MTREE, "pc.bios") == [(0xE0000, 0x20000), (0xFFFC0000, 0)]
    assert parse_places(_MTREE, "pc") == []


def test_pagemap_of_a_host_with_large_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pagemap has one entry per page of the host, which is 16 or 64 KiB on some arm64 and ppc64 kernels."""
    page = 16 << 10
    present, protected = 1 << 63, 1 << 57
    block = RamBlock("pc.ram", 4 * page, 0x400000)
    folder = tmp_path / "proc" / "7"
    folder.mkdir(parents=True)
    with (folder / "pagemap").open("wb") as pagemap:
        pagemap.seek(block.host_address // page * 8)
        # Behind the block's four entries, those of other memory.
        entries = [present, 0, present | protected, 0, *[present | protected] * 12]
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
