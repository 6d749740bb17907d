"""Contract: all RAM of a QEMU is found with its properties, from what QEMU and the kernel print."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from harness.linux.host_mapping import HostMapping, parse_mappings
from harness.qemu.memory_tree import FoundRam, RamKind, RamTexts, is_protected, parse_ram
from harness.qemu.monitor_tables import Place

# As QEMU 10.0.13 prints them, without the lines of other devices.
_BLOCKS = """\
Block Name    PSize     Offset     Used     Total                HVA  RO
    pc.ram  4 KiB  0x000000000e400000 0x0000000004000000 0x0000000004000000 0x00007f0000000000  rw
            4 KiB  0x000000000d400000 0x0000000001000000 0x0000000001000000 0x00007f1000000000  rw
 0000:00:02.0/vga.vram  4 KiB  0x0000000012480000 0x0000000001000000 0x0000000001000000 0x00007f2000000000  rw
system.flash1  4 KiB  0x0000000004040000 0x0000000000400000 0x0000000000400000 0x00007f3000000000  rw
/rom@etc/acpi/tables  4 KiB  0x0000000013500000 0x0000000000020000 0x0000000000200000 0x00007f4000000000  ro
   pc.bios  4 KiB  0x0000000012400000 0x0000000000040000 0x0000000000040000 0x00007f5000000000  ro
"""
_TREE = """\
FlatView #0
 AS "persistent", root: persistent
 Root memory region: persistent
  0000000000000000-0000000000ffffff (prio 0, ram): pm

FlatView #1
 AS "memory", root: system
 AS "cpu-memory-0", root: system
 Root memory region: system
  0000000000000000-000000000009ffff (prio 0, ram): pc.ram
  00000000000e0000-00000000000fffff (prio 0, rom): pc.bios @0000000000020000
  0000000000100000-0000000003ffffff (prio 0, ram): pc.ram @0000000000100000 KVM
  00000000fec00000-00000000fec00fff (prio 0, i/o): ioapic
  00000000ffbc0000-00000000fffbffff (prio 0, romd): system.flash1
  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios
  000000010d000000-000000010dffffff (prio 0, ram): pm
"""
_OBJECTS = """\
/machine (pc-q35-10.0-machine)
  /fw_cfg (fw_cfg_io)
    /\\x2from@etc\\x2facpi\\x2ftables[0] (memory-region)
  /peripheral-anon (container)
    /device[0] (VGA)
      /vga.vram[0] (memory-region)
  /system.flash1 (cfi.pflash01)
    /system.flash1[0] (memory-region)
  /unattached (container)
    /pc.bios[0] (memory-region)
/objects (container)
  /pc.ram (memory-backend-ram)
    /pc.ram[0] (memory-region)
  /pm (memory-backend-file)
    /pm[0] (memory-region)
"""
_SMAPS = """\
7f0000000000-7f0004000000 rw-p 00000000 00:00 0
Rss:                   0 kB
VmFlags: rd wr mr mw me ac sd uw
7f1000000000-7f1001000000 rw-s 00000000 fd:00 77                         /var/tmp/pm
VmFlags: rd wr sh mr mw me ms sd
7f2000000000-7f2001000000 rw-s 00000000 00:01 77                         /memfd:memory-backend-memfd (deleted)
VmFlags: rd wr sh mr mw me ms sd uw
7f3000000000-7f3000400000 rw-p 00000000 00:00 0
VmFlags: rd wr mr mw me ac sd
7f4000000000-7f4000020000 r--p 00000000 fd:00 78                         /tables
VmFlags: rd mr mw me sd
7f5000000000-7f5000040000 rw-p 00000000 00:0f 79                         /anon_hugepage (deleted)
VmFlags: rd wr mr mw me ac ht sd
"""


def _none(_address: int) -> int:
    return 0


def _found(
    blocks: str = _BLOCKS, tree: str = _TREE, where: Callable[[int], int] = _none
) -> dict[str, FoundRam]:
    found = parse_ram(RamTexts(blocks, tree, _OBJECTS), parse_mappings(_SMAPS), where)
    return {ram.name: ram for ram in found}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("pc.ram", RamKind("ram", "backend", "private")),
        ("pm", RamKind("ram", "backend", "shared file", saved=False)),
        ("0000:00:02.0/vga.vram", RamKind("unmapped, rw", "device", "shared")),
        ("system.flash1", RamKind("romd", "device", "private")),
        (
            "/rom@etc/acpi/tables",
            RamKind("unmapped, ro", "device", "read-only private file", resizeable=True),
        ),
        ("pc.bios", RamKind("rom", "board", "huge pages")),
    ],
)
def test_kind_is_of_properties(name: str, kind: RamKind) -> None:
    """Each piece of RAM has the properties that QEMU and the kernel print, also one without a name."""
    assert _found()[name].kind == kind


def test_nothing_is_left_out() -> None:
    """Each line of `info ramblock` is found once."""
    assert len(_found()) == 6


def test_head_is_no_ram() -> None:
    """The head of `info ramblock` is not the name of a block without one in the line below it."""
    head, main, nameless, *rest = _BLOCKS.splitlines(keepends=True)
    assert _found("".join([head, nameless, main, *rest])) == _found()


def test_words_of_a_kind() -> None:
    """A kind in words names what is unusual about it."""
    assert str(_found()["pm"].kind) == "ram, of backend, shared file, not saved"
    assert str(_found()["/rom@etc/acpi/tables"].kind).endswith(", resizeable")


def test_flash_that_takes_commands_is_flash() -> None:
    """A flash device that is not in its reading mode is in the memory tree as I/O."""
    tree = _TREE.replace("(prio 0, romd)", "(prio 0, i/o)")
    assert _found(tree=tree)["system.flash1"].kind.access == "romd"
    assert _found(tree=tree)["system.flash1"].address_of(0x1000, 4) == 0xFFBC1000


def test_memory_of_other_address_spaces() -> None:
    """RAM that no CPU has in its address space is of another kind."""
    tree = _TREE.replace(' AS "memory",', ' AS "tags",')
    assert _found(tree=tree)["pc.ram"].kind.access == "ram, not for CPUs"
    assert _found(tree=tree)["pc.ram"].address_of(0, 4) is None


def test_old_qemu() -> None:
    """QEMU before 8.2 prints no addresses: those of mapped blocks are asked for, others stay unknown."""
    blocks = re.sub(r" 0x\S+  r[ow]$", "", _BLOCKS, flags=re.MULTILINE)
    found = _found(blocks, where=lambda gpa: 0x7F0000000000 + gpa if gpa < 0xA0000 else 0)
    assert found["pc.ram"].host_address == 0x7F0000000000
    assert found["pc.ram"].kind == RamKind("ram", "backend", "private")
    assert found["/rom@etc/acpi/tables"].kind == RamKind("unmapped", "device", "unknown", resizeable=True)


def test_address_of_a_range() -> None:
    """A range is found at the guest-physical address where it is mapped, and only if it fits in one place."""
    found = _found()
    assert found["pc.ram"].address_of(0x100000, 4) == 0x100000
    assert found["pc.ram"].address_of(0xA0000, 4) is None
    assert found["pc.bios"].address_of(0x1FFFE, 4) == 0xFFFC0000 + 0x1FFFE
    assert found["pm"].address_of(0, 4) == 0x10D000000


def test_regions_of_one_name() -> None:
    """Of two devices whose regions have one name each has its own places."""
    blocks = "".join(
        f"  0000:00:0{slot}.0/vga.vram    4 KiB  0x0 0x0000000000001000 0x0000000000001000 0x{base:x}  rw\n"
        for slot, base in ((2, 0x7F2000000000), (3, 0x7F3000000000))
    )
    tree = 'FlatView #0\n AS "memory", root: system\n' + "".join(
        f"  {at:016x}-{at + 0xFFF:016x} (prio 1, ram): vga.vram\n" for at in (0xE0000000, 0xE0001000)
    )
    where = {0xE0000000: 0x7F3000000000, 0xE0001000: 0x7F2000000000}
    found = _found(blocks, tree, where.__getitem__)
    assert found["0000:00:02.0/vga.vram"].places == (Place(0xE0001000, 0x1000, 0, "ram"),)
    assert found["0000:00:03.0/vga.vram"].places == (Place(0xE0000000, 0x1000, 0, "ram"),)


def test_protected() -> None:
    """The flag of a mapping says whether userfaultfd has its write faults."""
    found, mappings = _found(), parse_mappings(_SMAPS)
    assert is_protected(found["pc.ram"], mappings) is True
    assert is_protected(found["system.flash1"], mappings) is False
    assert is_protected(found["pc.ram"], ()) is None


def test_mapping_kind() -> None:
    """Memory without a file, and files that no file system has, are no files."""
    assert HostMapping(0, 1, writable=True, shared=False, path="[heap]").kind == "private"
    assert HostMapping(0, 1, writable=True, shared=True, path="/dev/zero (deleted)").kind == "shared"
    assert HostMapping(0, 1, writable=False, shared=True, path="/x").kind == "read-only shared file"
