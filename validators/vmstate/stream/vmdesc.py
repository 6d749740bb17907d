"""Finds and parses the JSON description of the device state (vmdesc), and computes sizes from it.

QEMU 10.0 migration/vmstate.c, vmsd_desc_field_start() and vmstate_save_state_v(): a field has a name,
type and size in bytes, `array_len` if equal elements follow one another, and for a struct its own fields. A
type byte, name and version precede a subsection; the `size` of a struct includes them.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Mapping
from typing import Any

from validators.vmstate.stream import format as fmt
from validators.vmstate.stream.cursor import readable
from validators.vmstate.stream.index import Vmdesc
from validators.vmstate.stream.source import Source

_TAILS = (4 << 20, fmt.MAX_VMDESC_BYTES + (1 << 16))
_MAX_CANDIDATES = 64
_CANDIDATE = re.compile(rb"\x00\x06(....)\{", re.DOTALL)
# Each value of a JSON text but the first follows one of these.
_STARTS = (b",", b"[", b"{", b":")
_DEPTH = 32
_SUBSECTION_HEAD = 1 + 1 + 4


def find_vmdesc(source: Source, end: int | None = None) -> Vmdesc | None:
    """Look for the description at the end of a file, without reading the stream before it.

    Args:
        source: the file.
        end: where the stream ends if padding follows it.

    Returns:
        The last one whose JSON parses and has devices; None if there is none, or for a pipe.
    """
    if not source.seekable or source.size is None:
        return None
    left = 2 * fmt.MAX_VMDESC_BYTES
    for tail in _TAILS:
        behind = source.size if end is None else end
        start = max(0, behind - tail)
        data = source.read(start, behind - start)
        for match in reversed(deque(_CANDIDATE.finditer(data), _MAX_CANDIDATES)):
            length = int.from_bytes(match.group(1), "big")
            text = data[match.end() - 1 : match.end() - 1 + length]
            if len(text) == length and length <= left:
                left -= length
                found = parse_vmdesc(text, start + match.start() + 1)
                if not found.problem:
                    return found
    return None


def parse_vmdesc(text: bytes, offset: int) -> Vmdesc:
    """Parse untrusted JSON within bounds.

    Args:
        text: the JSON bytes.
        offset: file offset of the type byte before it.
    """
    problem = ""
    content: Any = {}
    if len(text) > fmt.MAX_VMDESC_BYTES or sum(map(text.count, _STARTS)) > fmt.MAX_VMDESC_VALUES:
        problem = "it is larger than QEMU writes"
    else:
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            problem = f"it is not valid JSON ({type(error).__name__})"
    if not problem and not _is_description(content):
        problem = "it is not an object with a list of devices"
    return Vmdesc(offset, len(text), content if not problem else {}, problem)


def _is_description(content: object) -> bool:
    if not isinstance(content, dict) or not isinstance(content.get("devices"), list):
        return False
    return all(
        isinstance(device, dict)
        and isinstance(device.get("name"), str)
        and isinstance(device.get("instance_id"), int)
        for device in content["devices"]
    )


def device_key(device: Mapping[str, Any]) -> tuple[str, int]:
    """Return the name (safe to print) and instance of a described device."""
    return readable(device["name"].encode(errors="replace")), device["instance_id"]


def described_page_size(vmdesc: Vmdesc) -> int | None:
    """Return the target page size by the description in bytes, None if it has no possible one."""
    value = vmdesc.content.get("page_size")
    if not isinstance(value, int) or value not in [1 << bits for bits in range(10, 17)]:
        return None
    return value


def described_length(device: Mapping[str, Any]) -> int | None:
    """Return the bytes of state that a device has by its description, None if that is malformed."""
    return _struct_length(device, _DEPTH)


def field_length(entry: object) -> int | None:
    """Return the bytes of one field with all array elements, None if the description is malformed."""
    if not isinstance(entry, dict):
        return None
    size, count = entry.get("size"), entry.get("array_len", 1)
    if not isinstance(size, int) or not isinstance(count, int):
        return None
    if not 0 <= size <= fmt.MAX_DEVICE_BYTES or not 0 <= count <= fmt.MAX_DEVICE_BYTES:
        return None
    return size * count


def _struct_length(description: Mapping[str, Any], depth: int) -> int | None:
    fields, subsections = description.get("fields"), description.get("subsections", [])
    if depth == 0 or not isinstance(fields, list) or not isinstance(subsections, list):
        return None
    total = 0
    for entry in fields:
        length = field_length(entry)
        if length is None:
            return None
        total += length
    for subsection in subsections:
        if not isinstance(subsection, dict) or not isinstance(subsection.get("vmsd_name"), str):
            return None
        length = _struct_length(subsection, depth - 1)
        if length is None:
            return None
        total += _SUBSECTION_HEAD + len(subsection["vmsd_name"].encode(errors="replace")) + length
    return total
