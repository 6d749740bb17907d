"""Translates guest-physical addresses to RAMBlocks: by the machine type's rule, checked against agent pages.

The rules are in harness/qemu/architectures.py. Memory backends follow one another in NUMA node order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.qemu.architectures import MACHINE_TYPES, MachineType
from validators.vmstate.stream.index import SnapshotIndex

_NOT_RAM = ("vga", "rom", "bios", "flash", "acpi", "etc/", ".pci", "vram", "fw_cfg")
_MOST_REGIONS = 64
_OF_CORE = "addresses in the ELF core"


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


Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sightings:
    """Agent pages, each at (block, offset), whose directory page names `gpa`; bytes, all int64[k]."""

    gpa: Numbers
    block: Numbers
    offset: Numbers

    def __len__(self) -> int:
        """Return the number of pages."""
        return len(self.gpa)


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

    def places(self, gpa: Numbers) -> tuple[Numbers, Numbers]:
        """Return `place` of many addresses: RAMBlock positions and offsets, -1 for what is not RAM."""
        blocks, offsets = np.full(len(gpa), -1), np.full(len(gpa), -1)
        # Backwards, so that the first of two regions with the same address holds.
        for region in reversed(self.regions):
            mine = (gpa >= region.gpa) & (gpa < region.gpa + region.length)
            blocks[mine] = region.block
            offsets[mine] = gpa[mine] - region.gpa + region.offset
        return blocks, offsets

    def address(self, block: int, offset: int) -> int | None:
        """Return the guest-physical address of a place, None if it is unknown."""
        for region in self.regions:
            if region.block == block and region.offset <= offset < region.offset + region.length:
                return region.gpa + offset - region.offset
        return None


def machine_map(index: SnapshotIndex) -> MemoryMap | None:
    """Return the map that the machine type implies or an ELF core has, None if none is known."""
    if index.is_image:
        placed = enumerate(index.blocks)
        regions = [
            Region(block.gpa, block.used_length, at, 0) for at, block in placed if block.gpa is not None
        ]
        return MemoryMap(_OF_CORE, regions) if regions else None
    machine_type = type_of_machine(index)
    if machine_type is None:
        return None
    ram = ram_blocks(index)
    size = sum(index.blocks[number].used_length for number in ram)
    return MemoryMap(machine_type.rule, _spread(index, ram, machine_type.ram_windows(size)))


def type_of_machine(index: SnapshotIndex) -> MachineType | None:
    """Return the machine type of a stream, None if it is not a known one.

    Machines of two architectures can have one name; the RAMBlock of their main memory tells them apart.
    """
    found = [entry for entry in MACHINE_TYPES if entry.is_named(index.configuration.machine)]
    names = {block.idstr for block in index.blocks}
    return next((entry for entry in found if entry.ram_block in names), found[0] if found else None)


def ram_blocks(index: SnapshotIndex) -> list[int]:
    """Return the positions of the RAMBlocks that hold main memory, in stream order."""
    names = [block.idstr for block in index.blocks]
    for machine_type in MACHINE_TYPES:
        if machine_type.ram_block in names:
            return [names.index(machine_type.ram_block)]
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


def best_map(index: SnapshotIndex, sightings: Sightings) -> tuple[MemoryMap, int]:
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


def _disagreeing(memory: MemoryMap, sightings: Sightings) -> int:
    blocks, offsets = memory.places(sightings.gpa)
    return int(np.count_nonzero((blocks != sightings.block) | (offsets != sightings.offset)))


def _learned(index: SnapshotIndex, sightings: Sightings) -> MemoryMap:
    """Return the ranges in which at least 2 % of the pages agree on the distance from offset to address."""
    kinds = np.stack([sightings.block, sightings.gpa - sightings.offset], axis=1)
    found, kind, votes = np.unique(kinds, axis=0, return_inverse=True, return_counts=True)
    regions = []
    for number in np.argsort(-votes, kind="stable")[:_MOST_REGIONS]:
        if votes[number] * 50 < len(sightings):
            break
        block, distance = (int(value) for value in found[number])
        mine = sightings.offset[kind.reshape(-1) == number]
        start, end = int(mine.min()), int(mine.max()) + index.page_size
        regions.append(Region(start + distance, end - start, block, start))
    return MemoryMap("self-identification", regions)
