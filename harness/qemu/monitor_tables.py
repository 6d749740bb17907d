"""Parses what the human monitor prints about RAM: lines of `info ramblock`, ranges of `info mtree -f`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# QEMU 10.0 system/physmem.c ram_block_format(): name ("" for RAM that no stream has), page size, offset,
# used, total; since 8.2 the host address, and "ro" or "rw" of the memory region. A name may contain spaces,
# but never a newline.
_BLOCK = re.compile(
    r"^ *(?P<idstr>\S.*?)?? *\d+ [KMG]iB +0x[0-9a-f]+ +0x(?P<used>[0-9a-f]+) +0x(?P<total>[0-9a-f]+)"
    r"(?: +0x(?P<hva>[0-9a-f]+)(?: +(?P<access>ro|rw))?)?\s*$",
    re.MULTILINE,
)
# QEMU 10.0 system/memory.c mtree_print_flatview(): "first-last (prio N, type): name[ @offset][ KVM]".
_RANGE = re.compile(
    r"^\s*(?P<first>[0-9a-f]{16})-(?P<last>[0-9a-f]{16}) \(prio -?\d+, (?P<type>[^)]+)\): "
    r"(?P<name>.*?)(?: @(?P<offset>[0-9a-f]{16}))?(?: KVM)?\s*$",
    re.MULTILINE,
)
# The same: a view begins with the address spaces that have it.
_VIEW, _CPU_SPACE = re.compile(r"^FlatView #\d+", re.MULTILINE), ' AS "memory",'


@dataclass(frozen=True)
class BlockLine:
    """A line of `info ramblock`.

    Attributes:
        idstr: name in the stream, "" for RAM that is in none.
        used_bytes: used length.
        total_bytes: the length that it may become.
        host_address: in QEMU's own address space, 0 where QEMU does not print it.
        access: "ro" or "rw" of its memory region, "" where QEMU does not print it.
    """

    idstr: str
    used_bytes: int
    total_bytes: int
    host_address: int
    access: str


@dataclass(frozen=True)
class Place:
    """A range of guest-physical addresses that RAM is at.

    Attributes:
        address: guest-physical address of its first byte.
        size: in bytes.
        offset: of its first byte in the RAM, in bytes.
        type: what the memory tree calls it.
        in_cpu_space: whether it is in the address space of CPUs, which `gpa2hva` takes its addresses from,
            and not only in one of the machine's others, such as that of aarch64's tags.
    """

    address: int
    size: int
    offset: int
    type: str
    in_cpu_space: bool = True


def parse_block_lines(text: str) -> Iterator[BlockLine]:
    """Yield the lines of `info ramblock`, in their order."""
    for line in _BLOCK.finditer(text):
        yield BlockLine(
            line["idstr"] or "",
            int(line["used"], 16),
            int(line["total"], 16),
            int(line["hva"] or "0", 16),
            line["access"] or "",
        )


def parse_ranges(tree: str) -> dict[str, list[Place]]:
    """Return the ranges of `info mtree -f` by the name of their memory region."""
    found: dict[str, list[Place]] = {}
    for view in _VIEW.split(tree):
        for line in _RANGE.finditer(view):
            first, last = int(line["first"], 16), int(line["last"], 16)
            offset = int(line["offset"] or "0", 16)
            place = Place(first, last + 1 - first, offset, line["type"], _CPU_SPACE in view)
            here = found.setdefault(line["name"], [])
            if place not in here:
                here.append(place)
    return found


def region_of(idstr: str) -> str:
    """Return the name of a block's memory region: the block of a device has the device's path in front."""
    return idstr if idstr.startswith("/") else idstr.rpartition("/")[2]
