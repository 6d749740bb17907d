"""RAMBlocks are found in the text of every QEMU generation."""

from __future__ import annotations

from harness.ram import parse_places, parse_ramblocks

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
