"""Reads the table of segments of an ELF core: which guest-physical memory lies where in the file."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

HEAD_BYTES = 64
"""Bytes of a file's beginning that have the whole header."""

# System V ABI, ELF header and program header; Linux include/uapi/linux/elf.h.
_MAGIC = b"\x7fELF"
_CLASS_64, _BIG = 2, 2
_CORE = 4
_LOAD, _MANY = 1, 0xFFFF
# Of the standard it is 56. The limit keeps a damaged table at 16 MiB.
_MOST_ENTRY_BYTES = 256


@dataclass(frozen=True)
class Segment:
    """A piece of guest-physical memory in a core.

    Attributes:
        address: guest-physical address of its first byte.
        size: bytes of it in the core.
        file_offset: of its first byte in the core.
        absent: bytes of memory behind these that the core does not have.
    """

    address: int
    size: int
    file_offset: int
    absent: int = 0


class BadCore(Exception):
    """A file has no table of segments that can be used; the message completes "The file ...".

    Attributes:
        cut: whether the table is right, and the file shorter than it says.
    """

    def __init__(self, words: str, cut: bool = False) -> None:
        super().__init__(words)
        self.cut = cut


def is_elf_core(head: bytes) -> bool:
    """Tell an ELF core by the first bytes of a file."""
    if not head.startswith(_MAGIC) or len(head) < 18:
        return False
    return int.from_bytes(head[16:18], "big" if head[5] == _BIG else "little") == _CORE


def core_segments(read: Callable[[int, int], bytes], size: int) -> tuple[Segment, ...]:
    """Return the pieces of memory in an ELF core, in the order of its table.

    Args:
        read: returns up to so many bytes from an offset of the core.
        size: bytes of the core.

    Raises:
        BadCore: the file is no ELF core, has no table of segments, or is cut.
    """
    ident = read(0, HEAD_BYTES)
    if not is_elf_core(ident):
        raise BadCore("is no ELF core")
    ident = ident.ljust(HEAD_BYTES, b"\0")
    wide, order = ident[4] == _CLASS_64, ">" if ident[5] == _BIG else "<"
    # e_phoff, e_phentsize and e_phnum.
    (table,) = struct.unpack_from(f"{order}{'Q' if wide else 'I'}", ident, 32 if wide else 28)
    entry_bytes, count = struct.unpack_from(f"{order}HH", ident, 54 if wide else 42)
    entry = struct.Struct(f"{order}IIQQQQQ" if wide else f"{order}IIIIII")
    usable = count != _MANY and entry.size <= entry_bytes <= _MOST_ENTRY_BYTES
    if not usable or table + count * entry_bytes > size:
        raise BadCore("has no table of segments that can be read")
    entries = read(table, count * entry_bytes)
    if len(entries) < count * entry_bytes:
        raise BadCore("is cut", cut=True)
    found = []
    for number in range(count):
        fields = entry.unpack_from(entries, number * entry_bytes)
        if fields[0] != _LOAD:
            continue
        # 64: type, flags, offset, vaddr, paddr, filesz, memsz; 32: type, offset, vaddr, paddr, filesz, memsz.
        offset, address, length, memory = (fields[2], *fields[4:7]) if wide else (fields[1], *fields[3:6])
        if offset + length > size:
            raise BadCore(f"is cut: a segment ends at byte {offset + length}, the file at {size}", cut=True)
        found.append(Segment(address, length, offset, max(0, memory - length)))
    return tuple(found)
