"""Translates guest-physical addresses to RAMBlocks: by the machine type's rule, checked against agent pages.

Sources: QEMU 10.0 hw/i386/pc_piix.c pc_init1() (below 4 GiB at most 0xe0000000, 0xc0000000 if RAM is
that large), hw/i386/pc_q35.c pc_q35_init() (0xb0000000, then 0x80000000), hw/arm/virt.c (RAM from
1 GiB). Memory backends follow one another in NUMA node order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from validators.vmstate.stream.index import SnapshotIndex

_FOUR_GIB = 1 << 32
_NOT_RAM = ("vga", "rom", "bios", "flash", "acpi", "etc/", ".pci", "vram", "fw_cfg")


@dataclass(frozen=True)
class Region:
    """A range of guest-physical addresses that is one part of a RAMBlock; all in bytes.

    Attributes:
        gpa: first address.
        length: number of bytes.
        block: position of the RAMBlock in the index.
        offset: offset inside it that `gpa` is.
    """

    gpa: int
    length: int
    block: int
    offset: int


@dataclass(frozen=True)
class Sighting:
    """An agent page that is at (block, offset) and whose directory page names `gpa`; bytes."""

    gpa: int
    block: int
    offset: int


class MemoryMap:
    """Translates between guest-physical addresses and (RAMBlock position, offset).

    Attributes:
        rule: name of the rule it follows, for the verdict's facts.
        regions: the regions.
    """

    def __init__(self, rule: str, regions: Sequence[Region]) -> None:
        self.rule = rule
        self.regions = tuple(regions)

    def place(self, gpa: int) -> tuple[int, int] | None:
        """Return RAMBlock position and offset of an address, None if it is not RAM."""
        for region in self.regions:
            if region.gpa <= gpa < region.gpa + region.length:
                return region.block, region.offset + gpa - region.gpa
        return None

    def address(self, block: int, offset: int) -> int | None:
        """Return the guest-physical address of a place, None if it is unknown."""
        for region in self.regions:
            if region.block == block and region.offset <= offset < region.offset + region.length:
                return region.gpa + offset - region.offset
        return None


def machine_map(index: SnapshotIndex) -> MemoryMap | None:
    """Return the map that the machine type implies, None if none is known for it."""
    machine = index.configuration.machine
    ram = _ram_blocks(index)
    size = sum(index.blocks[number].used_length for number in ram)
    if "i440fx" in machine or machine == "pc":
        low = 0xE0000000 if size < 0xE0000000 else 0xC0000000
        return MemoryMap("i440fx", _spread(index, ram, [(0, low), (_FOUR_GIB, size)]))
    if "q35" in machine:
        low = 0xB0000000 if size < 0xB0000000 else 0x80000000
        return MemoryMap("q35", _spread(index, ram, [(0, low), (_FOUR_GIB, size)]))
    if machine.startswith("virt"):
        return MemoryMap("virt", _spread(index, ram, [(1 << 30, size)]))
    return None


def _ram_blocks(index: SnapshotIndex) -> list[int]:
    """Return the positions of the RAMBlocks that hold main memory, in stream order."""
    names = [block.idstr for block in index.blocks]
    for only in ("pc.ram", "mach-virt.ram"):
        if only in names:
            return [names.index(only)]
    return [
        number
        for number, name in enumerate(names)
        if not any(word in name.lower() for word in _NOT_RAM) and not name.startswith("/")
    ]


def _spread(index: SnapshotIndex, blocks: list[int], windows: list[tuple[int, int]]) -> list[Region]:
    """Lay RAMBlocks one after another into address windows (start, bytes)."""
    regions = []
    left = list(windows)
    for number in blocks:
        offset = 0
        while left and offset < index.blocks[number].used_length:
            start, room = left[0]
            length = min(room, index.blocks[number].used_length - offset)
            regions.append(Region(start, length, number, offset))
            offset += length
            left[0] = (start + length, room - length)
            if left[0][1] == 0:
                left.pop(0)
    return regions


def best_map(index: SnapshotIndex, sightings: Sequence[Sighting]) -> tuple[MemoryMap, int]:
    """Choose the machine type's rule if the agent's pages agree with it, else a map learned from them.

    RAMBlocks that the rule does not place, such as memory plugged in later, are placed by the pages.

    Args:
        index: the file's index.
        sightings: intact agent pages and the addresses that their directory pages give them.

    Returns:
        The map, and the number of sightings that disagree with it.
    """
    rule = machine_map(index)
    learned = _learned(index, sightings)
    if rule is None:
        return learned, _disagreeing(learned, sightings)
    rule = _completed(rule, learned)
    wrong = _disagreeing(rule, sightings)
    if wrong * 2 > len(sightings) and _disagreeing(learned, sightings) < wrong:
        return learned, _disagreeing(learned, sightings)
    return rule, wrong


def _completed(rule: MemoryMap, learned: MemoryMap) -> MemoryMap:
    """Add to the rule what was learned about the RAMBlocks that it does not place."""
    placed = {region.block for region in rule.regions}
    more = [region for region in learned.regions if region.block not in placed]
    return MemoryMap(rule.rule, (*rule.regions, *more))


def _disagreeing(memory: MemoryMap, sightings: Sequence[Sighting]) -> int:
    return sum(memory.place(seen.gpa) != (seen.block, seen.offset) for seen in sightings)


def _learned(index: SnapshotIndex, sightings: Sequence[Sighting]) -> MemoryMap:
    """Return the ranges in which at least 2 % of the pages agree on the distance from offset to address."""
    distances = Counter((seen.block, seen.gpa - seen.offset) for seen in sightings)
    regions = []
    for (block, distance), votes in distances.most_common(64):
        if votes * 50 < len(sightings):
            break
        mine = [
            seen.offset for seen in sightings if (seen.block, seen.gpa - seen.offset) == (block, distance)
        ]
        start, end = min(mine), max(mine) + index.page_size
        regions.append(Region(start + distance, end - start, block, start))
    return MemoryMap("self-identification", regions)
