"""Builds streams of a few hundred bytes, element by element, as QEMU's savevm.c and ram.c write them."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.codes import Code
from validators.vmstate.stream import SnapshotIndex, open_source, read_index

PAGE = 4096
EOS = struct.pack(">Q", 0x10)
HEADER = b"QEVM" + struct.pack(">I", 3)


def name(text: str) -> bytes:
    """A string with its length byte."""
    return bytes([len(text)]) + text.encode("latin-1")


def footer(number: int) -> bytes:
    """The footer of the section with that number."""
    return b"\x7e" + struct.pack(">I", number)


def head(kind: int, number: int, idstr: str, instance: int = 0, version: int = 1) -> bytes:
    """The header of a START (1) or FULL (4) section."""
    return bytes([kind]) + struct.pack(">I", number) + name(idstr) + struct.pack(">II", instance, version)


def device(number: int, idstr: str, state: bytes = b"", **more: int) -> bytes:
    """A device's whole section."""
    return head(4, number, idstr, **more) + state + footer(number)


def configuration(*subsections: bytes, machine: bytes = b"m") -> bytes:
    """The element behind the header."""
    return b"\7" + struct.pack(">I", len(machine)) + machine + b"".join(subsections)


def subsection(idstr: str, content: bytes, version: int = 1) -> bytes:
    """A subsection of the configuration, or of a device."""
    return b"\5" + name(idstr) + struct.pack(">I", version) + content


def capabilities(*names: str) -> bytes:
    """The subsection of the configuration that names capabilities."""
    content = struct.pack(">I", len(names)) + b"".join(map(name, names))
    return subsection("configuration/capabilities", content)


def ram_start(*entries: tuple[str, int, bytes], total: int | None = None) -> bytes:
    """RAM's first section: name, bytes and further content of each RAMBlock."""
    out = head(1, 2, "ram", version=4)
    out += struct.pack(">Q", (sum(entry[1] for entry in entries) if total is None else total) | 4)
    out += b"".join(name(idstr) + struct.pack(">Q", size) + more for idstr, size, more in entries)
    return out + EOS + footer(2)


def ram_part(records: bytes) -> bytes:
    """A further RAM section."""
    return b"\2" + struct.pack(">I", 2) + records + EOS + footer(2)


def zero(page: int, block: str = "", fill: int = 0) -> bytes:
    """The record of a zero page; of the RAMBlock named last where none is named."""
    word = struct.pack(">Q", page * PAGE | (0x02 if block else 0x22))
    return word + (name(block) if block else b"") + bytes([fill])


def data(page: int, content: bytes, block: str = "") -> bytes:
    """The record of a page with data; of the RAMBlock named last where none is named."""
    word = struct.pack(">Q", page * PAGE | (0x08 if block else 0x28))
    return word + (name(block) if block else b"") + content.ljust(PAGE, b"\0")


def described(idstr: str, *fields: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A device's entry in the vmdesc."""
    return {"name": idstr, "instance_id": 0, "version": 1, "fields": list(fields), **more}


def end(devices: Sequence[Mapping[str, Any]] = (), **more: Any) -> bytes:
    """The end marker and the vmdesc."""
    text = json.dumps({"devices": list(devices), **more}).encode()
    return b"\0\6" + struct.pack(">I", len(text)) + text


def read_file(folder: Path, raw: bytes, start: int = 0) -> SnapshotIndex:
    """Index a file of these bytes, whose stream begins at `start`."""
    path = folder / "tiny"
    path.write_bytes(raw)
    with open_source(path) as source:
        return read_index(source, start)


def read(folder: Path, *elements: bytes) -> SnapshotIndex:
    """Index a file of these elements behind the header."""
    return read_file(folder, HEADER + b"".join(elements))


def found_in(index: SnapshotIndex) -> list[tuple[Code, int]]:
    """Return code and file offset of all anomalies and of the damage."""
    damage = [index.damage] if index.damage else []
    return [(found.code, found.offset) for found in (*index.anomalies, *damage)]
