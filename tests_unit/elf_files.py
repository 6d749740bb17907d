"""Makes small ELF files for tests: shared objects with NEEDED entries, kernel modules with modinfo."""

from __future__ import annotations

import struct
from collections.abc import Mapping

_HEADER_BYTES = 64
_SECTION_BYTES = 64


def _elf(sections: list[tuple[str, int, bytes, int]]) -> bytes:
    """An ELF file of (name, type, content, linked section) after the null section; names come last."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name, *_ in sections) + b".shstrtab\0"
    body, rows, name_offset = b"", [struct.pack("<IIQQQQIIQQ", *([0] * 10))], 1
    for name, kind, content, linked in [*sections, (".shstrtab", 3, names, 0)]:
        offset = _HEADER_BYTES + len(body)
        rows.append(
            struct.pack("<IIQQQQIIQQ", name_offset, kind, 0, 0, offset, len(content), linked, 0, 1, 0)
        )
        body += content
        name_offset += len(name) + 1
    table = _HEADER_BYTES + len(body)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack(
        "<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, table, 0, 64, 0, 0, _SECTION_BYTES, len(rows), len(rows) - 1
    )
    return header + body + b"".join(rows)


def shared_object(*needed: str) -> bytes:
    """A library or program linked with the libraries `needed`."""
    strings, entries = b"\0", b""
    for name in needed:
        entries += struct.pack("<qQ", 1, len(strings))
        strings += name.encode() + b"\0"
    # A stale NEEDED after the terminator must not be read.
    entries += struct.pack("<qQ", 0, 0) + struct.pack("<qQ", 1, 0)
    return _elf([(".dynstr", 3, strings, 0), (".dynamic", 6, entries, 1)])


def kernel_module(**info: str) -> bytes:
    """A kernel module with the given modinfo."""
    return _elf([(".text", 1, b"\xc3", 0), (".modinfo", 1, _modinfo(info), 0)])


def _modinfo(info: Mapping[str, str]) -> bytes:
    return b"".join(f"{key}={value}".encode() + b"\0" for key, value in info.items())
