"""Contract: libraries and modules are read alike from ELF files of both classes and byte orders."""

from __future__ import annotations

import struct

import pytest

from guest_images.packages.elf import module_info, needed_libraries

_ORDERS = {"<": 1, ">": 2}
_DYNAMIC, _STRINGS = 6, 3


def _elf(bits: int, order: str) -> bytes:
    """Return an ELF file with the sections .modinfo and .dynamic, laid out as elf.h says."""
    names = b"\0.modinfo\0.dynamic\0"
    modinfo = b"license=GPL\0depends=virtio,virtio-ring\0"
    strings = b"\0libc.so.6\0libz.so.1\0"
    pair = struct.Struct(f"{order}qQ" if bits == 64 else f"{order}iI")
    dynamic = b"".join(pair.pack(*entry) for entry in ((1, 1), (5, 0), (1, 11), (0, 0), (1, 99)))
    # Name, type, content and linked section.
    sections = [
        (0, 0, b"", 0),
        (1, 1, modinfo, 0),
        (10, _DYNAMIC, dynamic, 3),
        (0, _STRINGS, strings, 0),
        (0, _STRINGS, names, 0),
    ]
    header_bytes = 64 if bits == 64 else 52
    section = struct.Struct(f"{order}IIQQQQIIQQ" if bits == 64 else f"{order}10I")
    body, rows = b"", b""
    for name, kind, content, linked in sections:
        rows += section.pack(name, kind, 0, 0, header_bytes + len(body), len(content), linked, 0, 0, 0)
        body += content
    header = bytearray(header_bytes)
    header[:6] = b"\x7fELF" + bytes((bits // 32, _ORDERS[order]))
    table = struct.Struct(f"{order}Q" if bits == 64 else f"{order}I")
    table.pack_into(header, 0x28 if bits == 64 else 0x20, header_bytes + len(body))
    numbers = (section.size, len(sections), len(sections) - 1)
    struct.pack_into(f"{order}HHH", header, 0x3A if bits == 64 else 0x2E, *numbers)
    return bytes(header) + body + rows


@pytest.mark.parametrize("order", _ORDERS)
@pytest.mark.parametrize("bits", [32, 64])
def test_both_classes_and_byte_orders(bits: int, order: str) -> None:
    """Kernels of s390x have big-endian modules; what stands behind the end of a section is not read."""
    image = _elf(bits, order)
    assert module_info(image) == {"license": "GPL", "depends": "virtio,virtio-ring"}
    assert needed_libraries(image) == ("libc.so.6", "libz.so.1")


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (b"#!/bin/sh\n", "not an ELF file"),
        (b"\x7fELF\3\1" + bytes(60), "not an ELF file"),
        (b"\x7fELF\2\3" + bytes(60), "not an ELF file"),
        (_elf(64, ">")[:-1], "an ELF file that is cut off"),
    ],
)
def test_other_files(image: bytes, why: str) -> None:
    """Anything else is told, and nothing is read beyond its end."""
    with pytest.raises(ValueError, match=why):
        module_info(image)
