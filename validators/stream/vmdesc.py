"""The JSON description (vmdesc) at the end of a stream: finding it, parsing it, sizes by it.

QEMU 10.0 migration/vmstate.c, vmsd_desc_field_start() and vmstate_save_state_v(): a field has a name,
type and size in bytes, `array_len` where equal elements follow one another, and for a struct its own
fields; subsections are preceded by a type byte, name and version, which `size` of a struct includes.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Mapping
from typing import Any

from validators.stream import format as fmt
from validators.stream.index import Vmdesc
from validators.stream.source import Source

_TAILS = (4 << 20, fmt.MAX_VMDESC_BYTES + (1 << 16))
_MAX_CANDIDATES = 64
_CANDIDATE = re.compile(rb"\x00\x06(....)\{", re.DOTALL)
# Each value of a JSON text but the first follows one of these.
_STARTS = (b",", b"[", b"{", b":")
_DEPTH = 32
_SUBSECTION_HEAD = 1 + 1 + 4


def find_vmdesc(source: Source) -> Vmdesc | None:
    """Look for the description at the end of a file, without reading what is before it.

    Returns:
        The last one whose JSON parses and has devices, None where there is none or in a pipe.
    """
    if not source.seekable or source.size is None:
        return None
    left = 2 * fmt.MAX_VMDESC_BYTES
    for tail in _TAILS:
        start = max(0, source.size - tail)
        data = source.read(start, source.size - start)
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
        problem = "it is larger than any that QEMU writes"
    else:
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            problem = f"it is no valid JSON ({type(error).__name__})"
    if not problem and not _is_description(content):
        problem = "it is no object with a list of devices"
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


def described_page_size(vmdesc: Vmdesc) -> int | None:
    """The target page size it states in bytes, None where it states none that can be."""
    value = vmdesc.content.get("page_size")
    if not isinstance(value, int) or value not in [1 << bits for bits in range(10, 17)]:
        return None
    return value


def described_length(device: Mapping[str, Any]) -> int | None:
    """Bytes of state that the description gives a device, None where it is malformed."""
    return _struct_length(device, _DEPTH)


def field_length(entry: object) -> int | None:
    """Bytes of one field with all its array elements, None where the description is malformed."""
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
