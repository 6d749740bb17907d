"""Makes small ELF files for tests: shared objects with NEEDED entries, kernel modules with modinfo, cores."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

# By bits: size of the file's header, form of a section's and of a dynamic entry.
_HEADER_BYTES = {32: 52, 64: 64}
_SECTION = {32: struct.Struct("<10I"), 64: struct.Struct("<IIQQQQIIQQ")}
_DYNAMIC = {32: struct.Struct("<iI"), 64: struct.Struct("<qQ")}
_HEADER = {32: struct.Struct("<HHIIIIIHHHHHH"), 64: struct.Struct("<HHIQQQIHHHHHH")}


def _elf(sections: list[tuple[str, int, bytes, int]], bits: int = 64) -> bytes:
    """An ELF file of (name, type, content, linked section) after the null section; names come last."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name, *_ in sections) + b".shstrtab\0"
    section = _SECTION[bits]
    body, rows, name_offset = b"", [section.pack(*([0] * 10))], 1
    for name, kind, content, linked in [*sections, (".shstrtab", 3, names, 0)]:
        offset = _HEADER_BYTES[bits] + len(body)
        rows.append(section.pack(name_offset, kind, 0, 0, offset, len(content), linked, 0, 1, 0))
        body += content
        name_offset += len(name) + 1
    table = _HEADER_BYTES[bits] + len(body)
    header = b"\x7fELF" + bytes([bits // 32, 1, 1]) + bytes(9)
    header += _HEADER[bits].pack(
        1, 62, 1, 0, 0, table, 0, _HEADER_BYTES[bits], 0, 0, section.size, len(rows), len(rows) - 1
    )
    return header + body + b"".join(rows)


def shared_object(*needed: str, bits: int = 64) -> bytes:
    """A library or program linked with the libraries `needed`."""
    strings, entries, entry = b"\0", b"", _DYNAMIC[bits]
    for name in needed:
        entries += entry.pack(1, len(strings))
        strings += name.encode() + b"\0"
    # A stale NEEDED after the terminator must not be read.
    entries += entry.pack(0, 0) + entry.pack(1, 0)
    return _elf([(".dynstr", 3, strings, 0), (".dynamic", 6, entries, 1)], bits)


def kernel_module(**info: str) -> bytes:
    """A kernel module with the given modinfo."""
    return _elf([(".text", 1, b"\xc3", 0), (".modinfo", 1, _modinfo(info), 0)])


def _modinfo(info: Mapping[str, str]) -> bytes:
    return b"".join(f"{key}={value}".encode() + b"\0" for key, value in info.items())


def elf_core(segments: Sequence[tuple[int, bytes]], *, wide: bool = True, order: str = "<") -> bytes:
    """Return an ELF core of segments, each an address and its content, behind a note."""
    head, entry = (64, 56) if wide else (52, 32)
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    counts = struct.pack(f"{order}HHHHHH", head, entry, len(segments) + 1, 0, 0, 0)
    middle = struct.pack(f"{order}HHI{'QQQ' if wide else 'III'}I", 4, 62, 1, 0, head, 0, 0)
    table, body = b"", b""
    start = head + entry * (len(segments) + 1)
    for kind, address, content in [(4, 0, b"note"), *((1, *one) for one in segments)]:
        at = start + len(body)
        size = len(content)
        place = (0, at, 0, address, size, size, 0) if wide else (at, 0, address, size, size, 0, 0)
        fields = (kind, *place)
        table += struct.pack(f"{order}{'IIQQQQQQ' if wide else 'IIIIIIII'}", *fields)
        body += content
    return ident + middle + counts + table + body
